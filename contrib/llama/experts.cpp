// A cache of experts for mixtures that are larger than memory. Just before a product of experts is computed, those that
// were chosen and are not in memory are read from the model's file, all matrices of a layer at once; others give way.
//
// ggml asks for another way to compute each operation (`ggml_cpu_extra_compute_forward`). The build puts the function of
// this name here, so that it sees every product of experts with its choice first. What is multiplied, and in which order,
// does not change: the weights lie at the same addresses, whether they were read once or many times.

#include "experts.h"

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <cerrno>
#include <chrono>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace experts {

namespace {

template <class Each> void each_choice(const Layer & layer, const struct ggml_tensor * ids, const Each & each) {
    for (int64_t row = 0; row < ids->ne[1]; ++row) {
        for (int64_t rank = 0; rank < ids->ne[0]; ++rank) {
            const int32_t number = *(const int32_t *) ((const char *) ids->data + row * ids->nb[1] + rank * ids->nb[0]);
            if (number >= 0 && number < layer.experts) { // ggml stops at others
                each(number);
            }
        }
    }
}

#if defined(__linux__)
constexpr int KEEP_OLD = 4; // MREMAP_DONTUNMAP: the old place stays mapped, and empty. Older headers lack it
#endif

uint64_t now_ns() {
    return uint64_t(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

} // namespace

Cache::Cache(const int * files, int n_files, const twd_expert_matrix * of, int count, uint64_t budget, uint64_t page,
             int readers)
    : files_(files, files + n_files), page_(page) {
    numbers_.budget = budget;
    for (int i = 0; i < count; ++i) {
        const auto layer = size_t(of[i].layer);
        layers_.resize(std::max(layers_.size(), layer + 1));
        layers_[layer].experts = of[i].experts;
        matrices_.push_back({of[i].data, of[i].offset, of[i].bytes, of[i].file, of[i].layer, 0});
    }
    std::sort(matrices_.begin(), matrices_.end(), [](const Matrix & a, const Matrix & b) { return a.data < b.data; });
    for (size_t i = 0; i < matrices_.size(); ++i) {
        Layer & layer = layers_[matrices_[i].layer];
        matrices_[i].number = int(layer.matrices.size());
        layer.matrices.push_back(int(i));
        layer.bytes += (matrices_[i].bytes + page_ - 1) / page_ * page_;
    }
    for (size_t i = 0; i < layers_.size(); ++i) {
        layers_[i].first = int(layer_of_.size());
        layer_of_.insert(layer_of_.end(), layers_[i].experts, int(i));
    }
    experts_.resize(layer_of_.size());
    left_.reset(new std::atomic<int>[experts_.size() * MATRICES]);
    for (size_t i = 0; i < experts_.size() * MATRICES; ++i) {
        left_[i] = counting_only() ? 0 : ABSENT;
    }
    for (Expert & expert : experts_) {
        expert.held = counting_only();
    }
    trace_.resize(TRACE);
    for (int i = 0; i < readers && !counting_only(); ++i) {
        readers_.emplace_back([this] { run_reader(); });
    }
}

Cache::~Cache() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    work_.notify_all();
    for (std::thread & reader : readers_) {
        reader.join();
    }
}

const Matrix * Cache::find(const void * data) const {
    const auto at = std::lower_bound(matrices_.begin(), matrices_.end(), (const char *) data,
                                     [](const Matrix & one, const char * wanted) { return one.data < wanted; });
    return at != matrices_.end() && at->data == data ? &*at : nullptr;
}

void Cache::want(const Matrix & of, const struct ggml_tensor * ids) {
    std::lock_guard<std::mutex> lock(mutex_);
    Layer & layer = layers_[of.layer];
    if (layer.lead < 0) {
        layer.lead = of.number;
    }
    const bool leads = layer.lead == of.number;
    if (leads) {
        numbers_.passes += of.layer <= layer_now_;
        layer_now_ = of.layer;
        ++visit_;
    }
    missing_.clear();
    uint32_t mark = VISIT;
    each_choice(layer, ids, [&](int number) {
        const int index = layer.first + number;
        Expert & expert = experts_[index];
        expert.uses += leads;
        if (expert.visit == visit_) {
            return;
        }
        expert.visit = visit_;
        if (!expert.held) {
            missing_.push_back(index);
        }
        if (leads) {
            numbers_.asked += 1;
            numbers_.hits += expert.held;
            numbers_.foreseen_used += expert.foreseen;
            expert.foreseen = false;
            memory_.use(expert, numbers_.passes);
            trace_[traced_++ % TRACE] = uint32_t(index) | mark;
            mark = 0;
        }
    });
    if (!missing_.empty()) {
        fetch(missing_);
    }
}

void Cache::wait(const Matrix & of, const struct ggml_tensor * ids, bool first) {
    const Layer & layer = layers_[of.layer];
    uint64_t began = 0;
    each_choice(layer, ids, [&](int number) {
        std::atomic<int> & pieces = left(layer.first + number, of.number);
        if (pieces.load(std::memory_order_acquire) == 0) {
            return;
        }
        began = began ? began : now_ns();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [&] { return pieces.load(std::memory_order_acquire) == 0; });
    });
    if (first && began) {
        std::lock_guard<std::mutex> lock(mutex_);
        numbers_.waited_ns += now_ns() - began;
    }
}

bool Cache::arrived(int expert, const Layer & layer) {
    for (size_t i = 0; i < layer.matrices.size(); ++i) {
        if (left(expert, int(i)).load(std::memory_order_acquire) != 0) {
            return false;
        }
    }
    return true;
}

// Asks for experts whatever it costs: a layer's choice must be in memory at once.
void Cache::fetch(const std::vector<int> & missing) {
    uint64_t needed = 0;
    for (const int expert : missing) {
        needed += bytes_of(expert);
    }
    find_room(needed, INFINITY, leave_);
    drop(leave_, missing);
    queue_reads(missing, wanted_);
}

// Those that are worth least, and less than `worth_below`, and make room when they leave. Whether that is enough.
bool Cache::find_room(uint64_t needed, double worth_below, std::vector<int> & leave) {
    leave.clear();
    uint64_t held = numbers_.held_bytes + needed;
    if (held <= numbers_.budget) {
        return true;
    }
    std::vector<std::pair<double, int>> found;
    for (size_t i = 0; i < experts_.size(); ++i) {
        if (experts_[i].held && experts_[i].visit != visit_ && arrived(int(i), layers_[layer_of_[i]])) {
            const double worth = memory_.worth(experts_[i]);
            if (worth < worth_below) {
                found.emplace_back(worth, int(i));
            }
        }
    }
    std::sort(found.begin(), found.end());
    for (size_t i = 0; i < found.size() && held > numbers_.budget; ++i) {
        leave.push_back(found[i].second);
        held -= bytes_of(found[i].second);
    }
    return held <= numbers_.budget;
}

void Cache::drop(const std::vector<int> & leave, const std::vector<int> & heirs) {
    for (size_t i = 0; i < leave.size(); ++i) {
        drop(leave[i], i < heirs.size() ? heirs[i] : ABSENT);
    }
}

// The pages that an expert shares with no other.
std::pair<char *, uint64_t> Cache::own_pages(int expert, const Matrix & matrix) const {
    const uint64_t from = matrix.offset + uint64_t(expert - layers_[matrix.layer].first) * matrix.bytes;
    const uint64_t start = (from + page_ - 1) / page_ * page_, end = (from + matrix.bytes) / page_ * page_;
    return {matrix.data + (int64_t(start) - int64_t(matrix.offset)), end > start ? end - start : 0};
}

// Lets go of an expert. Its pages move to the heir, who is read into them: the system need not clear any. Pages that it
// shares with its neighbours stay.
void Cache::drop(int expert, int heir) {
    const Layer & layer = layers_[layer_of_[expert]];
    for (const int index : layer.matrices) {
        const Matrix & matrix = matrices_[index];
        left(expert, matrix.number) = ABSENT;
#if defined(__linux__)
        auto pages = own_pages(expert, matrix);
        if (heir != ABSENT && matrix.number < int(layers_[layer_of_[heir]].matrices.size())) {
            const auto room = own_pages(heir, matrices_[layers_[layer_of_[heir]].matrices[matrix.number]]);
            const uint64_t size = std::min(pages.second, room.second);
            const int how = MREMAP_MAYMOVE | MREMAP_FIXED | KEEP_OLD;
            if (size && mremap(pages.first, size, size, how, room.first) != MAP_FAILED) {
                pages.first += size, pages.second -= size;
            }
        }
        if (pages.second) {
            madvise(pages.first, pages.second, MADV_DONTNEED);
        }
#endif
    }
    experts_[expert].held = experts_[expert].foreseen = false;
    numbers_.held_bytes -= layer.bytes;
    numbers_.dropped += 1;
}

// The pages of one expert in the file, those shared with its neighbours included.
std::pair<uint64_t, uint64_t> Cache::span(const Matrix & matrix, int number) const {
    const uint64_t from = matrix.offset + uint64_t(number) * matrix.bytes;
    return {from / page_ * page_, (from + matrix.bytes + page_ - 1) / page_ * page_};
}

// First what is computed first: then a product begins while the next matrices are still read.
void Cache::queue_reads(const std::vector<int> & missing, std::deque<Job> & queue) {
    for (int turn = 0; turn < MATRICES; ++turn) {
        for (const int expert : missing) {
            const Layer & layer = layers_[layer_of_[expert]];
            if (turn >= int(layer.matrices.size())) {
                continue;
            }
            const int number = (std::max(layer.lead, 0) + turn) % int(layer.matrices.size());
            const int index = layer.matrices[number];
            const auto pages = span(matrices_[index], expert - layer.first);
            left(expert, number) = int((pages.second - pages.first + PIECE - 1) / PIECE);
            for (uint64_t at = pages.first; at < pages.second; at += PIECE) {
                queue.push_back({expert, index, at, std::min(at + PIECE, pages.second)});
            }
        }
    }
    for (const int expert : missing) {
        experts_[expert].held = true;
        numbers_.held_bytes += bytes_of(expert);
    }
    work_.notify_all();
}

void Cache::run_reader() {
    for (;;) {
        std::unique_lock<std::mutex> lock(mutex_);
        work_.wait(lock, [&] { return stop_ || !wanted_.empty() || !foreseen_.empty(); });
        if (stop_) {
            return;
        }
        std::deque<Job> & queue = wanted_.empty() ? foreseen_ : wanted_;
        const Job job = queue.front();
        queue.pop_front();
        lock.unlock();
        read(job);
    }
}

void Cache::read(const Job & job) {
    const Matrix & matrix = matrices_[job.matrix];
    const Layer & layer = layers_[matrix.layer];
    int problem = 0;
#if defined(__linux__)
    const uint64_t last = matrix.offset + uint64_t(job.expert - layer.first + 1) * matrix.bytes; // of its own bytes
    const uint64_t needed = std::min(job.to, last);
    for (uint64_t at = job.from; at < needed && !problem;) {
        const ssize_t got = pread(files_[matrix.file], matrix.data + (int64_t(at) - int64_t(matrix.offset)), job.to - at,
                                  off_t(at));
        if (got > 0) {
            at += uint64_t(got);
            read_bytes_ += uint64_t(got);
        } else if (got == 0) {
            problem = ENODATA; // the file is shorter than it was
        } else if (errno != EINTR) {
            problem = errno;
        }
    }
#else
    problem = ENOSYS;
#endif
    if (problem) {
        fail(job, problem);
    }
    if (left(job.expert, matrix.number).fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_); // nobody may look and then wait in between
        done_.notify_all();
    }
}

void Cache::fail(const Job & job, int code) {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.errors += 1;
    numbers_.error_code = uint64_t(code);
    numbers_.error_file = uint64_t(matrices_[job.matrix].file);
    numbers_.error_offset = job.from;
    failed_.push_back(job.expert);
}

// Tells the errors since the last call, and lets go of experts that were not read whole: the next pass tries again.
int Cache::forgive(uint64_t * into) {
    std::lock_guard<std::mutex> lock(mutex_);
    const int count = int(failed_.size());
    into[0] = numbers_.error_code, into[1] = numbers_.error_file, into[2] = numbers_.error_offset;
    std::vector<int> later;
    for (const int expert : failed_) {
        if (experts_[expert].held && arrived(expert, layers_[layer_of_[expert]])) {
            drop(expert, ABSENT);
        } else if (experts_[expert].held) {
            later.push_back(expert); // its other matrices are still read
        }
    }
    failed_.swap(later);
    return count;
}

int Cache::foresee(const int32_t * layers, const int32_t * numbers, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<int> asked;
    for (int i = 0; i < count; ++i) {
        if (layers[i] < 0 || layers[i] >= int(layers_.size()) || numbers[i] < 0 ||
            numbers[i] >= layers_[layers[i]].experts) {
            continue;
        }
        const int index = layers_[layers[i]].first + numbers[i];
        Expert & expert = experts_[index];
        if (expert.held || foreseen_.size() > FORESEEN) {
            continue;
        }
        if (find_room(bytes_of(index), memory_.worth(expert), leave_)) {
            drop(leave_, {index});
            expert.foreseen = true;
            numbers_.foreseen += 1;
            asked.push_back(index);
            queue_reads({index}, foreseen_);
        }
    }
    return int(asked.size());
}

void Cache::set_budget(uint64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.budget = bytes;
    ++visit_; // what the last pass wanted may go, too: the caller sees to it that none runs
    find_room(0, INFINITY, leave_);
    drop(leave_, {});
}

void Cache::set_half_life(double passes) {
    std::lock_guard<std::mutex> lock(mutex_);
    memory_.half_life = std::max(passes, 0.25);
}

Numbers Cache::numbers() {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.read_bytes = read_bytes_;
    return numbers_;
}

int Cache::uses(uint64_t * into, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    const int most = std::min(count, int(experts_.size()));
    for (int i = 0; i < most; ++i) {
        into[i] = experts_[i].uses;
    }
    return int(experts_.size());
}

// The latest choices, from the beginning of a pass on.
std::vector<uint32_t> Cache::latest(uint64_t passes) {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t count = std::min(traced_, TRACE);
    size_t first = count;
    int above = -1;
    for (uint64_t begun = 0; first > 0 && begun < passes; --first) {
        const uint32_t entry = trace_[(traced_ - count + first - 1) % TRACE];
        if (entry & VISIT) {
            const int layer = layer_of_[entry & ~VISIT];
            begun += above >= 0 && layer >= above; // the entry belongs to the pass before
            if (begun == passes) {
                break;
            }
            above = layer;
        }
    }
    std::vector<uint32_t> found;
    for (size_t i = first; i < count; ++i) {
        found.push_back(trace_[(traced_ - count + i) % TRACE]);
    }
    return found;
}

double Cache::replay(double half_life, uint64_t budget, uint64_t passes, double counted) {
    const std::vector<uint32_t> trace = latest(passes);
    const Memory memory{std::max(half_life, 0.25)};
    std::vector<Expert> experts(experts_.size());
    std::set<std::pair<double, int>> held;
    uint64_t used = 0, visit = 0, pass = 0, asked = 0, hits = 0;
    int layer_now = 1 << 30;
    for (size_t i = 0; i < trace.size(); ++i) {
        const int index = int(trace[i] & ~VISIT), layer = layer_of_[index];
        if (trace[i] & VISIT) {
            ++visit;
            pass += layer <= layer_now;
            layer_now = layer;
        }
        Expert & expert = experts[index];
        const bool counts = double(i) >= double(trace.size()) * (1 - counted); // before, the cache fills
        asked += counts;
        hits += counts && expert.held;
        if (expert.held) {
            held.erase({memory.worth(expert), index});
        } else {
            used += bytes_of(index);
            expert.held = true;
        }
        memory.use(expert, pass);
        expert.visit = visit;
        held.insert({memory.worth(expert), index});
        for (auto at = held.begin(); used > budget && at != held.end();) {
            if (experts[at->second].visit == visit) {
                ++at;
                continue;
            }
            experts[at->second].held = false;
            used -= bytes_of(at->second);
            at = held.erase(at);
        }
    }
    return asked ? double(hits) / double(asked) : 0;
}

// The caches of this process; a process has few models.
constexpr int CACHES = 16;
std::atomic<Cache *> caches[CACHES];

} // namespace experts

using experts::Cache;

extern "C" {

bool ggml_cpu_extra_compute_forward_of_llama(struct ggml_compute_params * params, struct ggml_tensor * op);
bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op);

GGML_BACKEND_API void * twd_experts_open(const int * files, int n_files, const twd_expert_matrix * matrices, int count,
                                         uint64_t budget, uint64_t page, int readers);
GGML_BACKEND_API void twd_experts_close(void * cache);
GGML_BACKEND_API void twd_experts_numbers(void * cache, uint64_t * into);
GGML_BACKEND_API int twd_experts_uses(void * cache, uint64_t * into, int count);
GGML_BACKEND_API int twd_experts_foresee(void * cache, const int32_t * layers, const int32_t * numbers, int count);
GGML_BACKEND_API void twd_experts_set_budget(void * cache, uint64_t bytes);
GGML_BACKEND_API void twd_experts_set_half_life(void * cache, double passes);
GGML_BACKEND_API double twd_experts_replay(void * cache, double half_life, uint64_t budget, uint64_t passes,
                                           double counted);
GGML_BACKEND_API int twd_experts_forgive(void * cache, uint64_t * into);

void * twd_experts_open(const int * files, int n_files, const twd_expert_matrix * matrices, int count, uint64_t budget,
                        uint64_t page, int readers) {
    for (auto & place : experts::caches) {
        if (place.load() == nullptr) {
            Cache * cache = new Cache(files, n_files, matrices, count, budget, page, readers);
            place.store(cache);
            return cache;
        }
    }
    return nullptr;
}

// No pass of the model may run, now or later.
void twd_experts_close(void * cache) {
    for (auto & place : experts::caches) {
        if (place.load() == cache) {
            place.store(nullptr);
            delete (Cache *) cache;
        }
    }
}

void twd_experts_numbers(void * cache, uint64_t * into) {
    const experts::Numbers found = ((Cache *) cache)->numbers();
    std::memcpy(into, &found, sizeof(found));
}

int twd_experts_uses(void * cache, uint64_t * into, int count) { return ((Cache *) cache)->uses(into, count); }

int twd_experts_foresee(void * cache, const int32_t * layers, const int32_t * numbers, int count) {
    return ((Cache *) cache)->foresee(layers, numbers, count);
}

void twd_experts_set_budget(void * cache, uint64_t bytes) { ((Cache *) cache)->set_budget(bytes); }

void twd_experts_set_half_life(void * cache, double passes) { ((Cache *) cache)->set_half_life(passes); }

double twd_experts_replay(void * cache, double half_life, uint64_t budget, uint64_t passes, double counted) {
    return ((Cache *) cache)->replay(half_life, budget, passes, counted);
}

int twd_experts_forgive(void * cache, uint64_t * into) { return ((Cache *) cache)->forgive(into); }

bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op) {
    if (op->op == GGML_OP_MUL_MAT_ID && op->src[0] != nullptr && op->src[2] != nullptr) {
        for (auto & place : experts::caches) {
            Cache * cache = place.load(std::memory_order_acquire);
            const experts::Matrix * matrix = cache ? cache->find(op->src[0]->data) : nullptr;
            if (matrix != nullptr) {
                if (params->ith == 0) {
                    cache->want(*matrix, op->src[2]);
                }
                cache->wait(*matrix, op->src[2], params->ith == 0);
                break;
            }
        }
    }
    return ggml_cpu_extra_compute_forward_of_llama(params, op);
}
}
