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
    for (const Layer & layer : layers_) {
        largest_ = std::max(largest_, layer.bytes * uint64_t(layer.experts));
    }
    routers_.resize(layers_.size());
    table_.resize(counting_only() ? 0 : int(layers_.size()));
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

void Cache::want(const Matrix & of, const struct ggml_tensor * ids, const struct ggml_tensor * input) {
    std::unique_lock<std::mutex> lock(mutex_);
    Layer & layer = layers_[of.layer];
    if (layer.lead < 0) {
        layer.lead = of.number;
    }
    const bool leads = layer.lead == of.number;
    if (leads) {
        begin_visit(of.layer, ids);
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
            pass_.asked += 1;
            numbers_.hits += expert.held;
            numbers_.foreseen_used += expert.foreseen;
            expert.foreseen = false;
            memory_.use(expert, numbers_.passes);
            trace_[traced_++ % TRACE] = uint32_t(index) | mark;
            mark = 0;
        }
    });
    if (leads && !counting_only()) {
        hurry(layer);
    }
    if (!missing_.empty()) {
        fetch(missing_);
    }
    if (!leads || counting_only()) {
        return;
    }
    learn(of.layer, ids);
    const bool ahead = how_ == Foresight::ON || (how_ == Foresight::TRY && trial_.on());
    lock.unlock();
    if (ahead) {
        look_ahead(of.layer, ids, input);
    }
}

void Cache::begin_visit(int layer, const struct ggml_tensor * ids) {
    if (layer <= layer_now_) {
        begin_pass(layer, ids);
    } else if (ids->ne[1] != pass_.rows) { // the last layer computes only rows that are asked for
        pass_.tokens.clear();
    }
    layer_now_ = layer;
    ++visit_;
}

void Cache::begin_pass(int layer, const struct ggml_tensor * ids) {
    if (pass_.asked && pass_.rows <= TRIED_ROWS && pass_.ended > pass_.began) {
        trial_.pass(double(pass_.ended - pass_.began) / double(pass_.asked));
        const double each = double(pass_.missed_bytes) / double(pass_.rows);
        row_bytes_ += (row_bytes_ > 0 ? 0.05 : 1) * (each - row_bytes_);
    }
    numbers_.passes += 1;
    numbers_.rows += uint64_t(ids->ne[1]);
    pass_.rows = ids->ne[1];
    pass_.asked = pass_.missed_bytes = 0;
    pass_.began = pass_.ended = now_ns();
    pass_.wide = ids->ne[0] * ids->ne[1] >= WIDE * layers_[layer].experts;
    if (int64_t(pass_.tokens.size()) != pass_.rows) {
        pass_.tokens.clear();
    }
}

// Experts of this layer that are read ahead: what was chosen is read now, what was not and has not begun is left.
void Cache::hurry(const Layer & layer) {
    if (foreseen_.empty()) {
        return;
    }
    std::deque<Job> later;
    std::vector<int> left_out;
    for (const Job & job : foreseen_) {
        if (layers_[layer_of_[job.expert]].first != layer.first) {
            later.push_back(job);
        } else if (experts_[job.expert].visit == visit_) {
            wanted_.push_back(job);
        } else if (experts_[job.expert].expected > visit_ || !untouched(job.expert)) {
            later.push_back(job);
        } else if (left_out.empty() || left_out.back() != job.expert) {
            left_out.push_back(job.expert);
        }
    }
    foreseen_.swap(later);
    for (const int expert : left_out) {
        if (experts_[expert].held) {
            drop(expert, ABSENT);
        }
    }
    work_.notify_all();
}

// Whether no piece of an expert has been taken from the queue.
bool Cache::untouched(int expert) {
    int queued = 0, pieces = 0;
    const Layer & layer = layers_[layer_of_[expert]];
    for (const Job & job : foreseen_) {
        queued += job.expert == expert;
    }
    for (size_t i = 0; i < layer.matrices.size(); ++i) {
        const auto pages = span(matrices_[layer.matrices[i]], expert - layer.first);
        pieces += int((pages.second - pages.first + EARLY_PIECE - 1) / EARLY_PIECE);
    }
    return queued == pieces;
}

// Compares what each token was taken to choose with what it chose, and keeps that.
void Cache::learn(int number, const struct ggml_tensor * ids) {
    const Layer & layer = layers_[number];
    for (size_t row = 0; row < pass_.tokens.size() && ids->ne[0] <= TokenTable::USED; ++row) {
        if (pass_.tokens[row] < 0) {
            continue;
        }
        const bool known = table_.knows(pass_.tokens[row]);
        int16_t * const kept = table_.learn(pass_.tokens[row], number);
        int16_t before[TokenTable::USED];
        std::copy_n(kept, TokenTable::USED, before);
        for (int64_t rank = 0; rank < ids->ne[0]; ++rank) {
            const int32_t chosen = *(const int32_t *) ((const char *) ids->data + row * ids->nb[1] + rank * ids->nb[0]);
            kept[rank] = int16_t(chosen >= 0 && chosen < layer.experts ? chosen : ABSENT);
            numbers_.table_asked += known && before[0] != ABSENT;
            numbers_.table_right += known && std::count(before, before + ids->ne[0], kept[rank]) > 0;
        }
    }
}

// Asks for what the next layer's router would choose for this layer's input.
void Cache::look_ahead(int layer, const struct ggml_tensor * ids, const struct ggml_tensor * input) {
    const int next = layer + 1;
    if (next >= int(layers_.size())) {
        return;
    }
    const twd_expert_router &here = routers_[layer], &there = routers_[next];
    likely_.clear();
    if (pass_.wide) {
        for (int number = 0; number < layers_[next].experts; ++number) {
            likely_.push_back(number);
        }
    } else if (there.weights && input && input->type == GGML_TYPE_F32 && input->ne[0] == there.width &&
               input->nb[0] == sizeof(float) && input->ne[1] == 1 && input->ne[2] == ids->ne[1]) {
        next_choice_.of(here, there, (const char *) input->data, input->nb[2], ids->ne[1], ids->ne[0], likely_);
    }
    for (int & number : likely_) {
        number += layers_[next].first;
    }
    std::lock_guard<std::mutex> lock(mutex_);
    fetch_early(likely_, visit_ + 1, EARLY_WORTH);
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
    if (!first) {
        return;
    }
    pass_.ended = now_ns();
    if (began) {
        std::lock_guard<std::mutex> lock(mutex_);
        numbers_.waited_ns += pass_.ended - began;
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
    pass_.missed_bytes += needed;
    find_room(needed, INFINITY, leave_);
    drop(leave_, missing);
    queue_reads(missing, wanted_, PIECE);
}

// Asks for experts that may be wanted at a visit, and are to stay until then. Returns how many are read now.
int Cache::fetch_early(const std::vector<int> & likely, uint64_t until, double worth_below) {
    std::vector<int> come = absent(likely, until);
    if (come.empty()) {
        return 0;
    }
    uint64_t needed = 0;
    for (const int expert : come) {
        needed += bytes_of(expert);
    }
    for (uint64_t room = find_room(needed, worth_below, leave_); !come.empty() && needed > room;) {
        needed -= bytes_of(come.back());
        come.pop_back();
    }
    drop(leave_, come);
    for (const int expert : come) {
        experts_[expert].foreseen = true;
        queue_reads({expert}, foreseen_, EARLY_PIECE);
    }
    numbers_.foreseen += come.size();
    return int(come.size());
}

// Which of them are not in memory, as many as may be on their way beside a whole layer.
std::vector<int> Cache::absent(const std::vector<int> & likely, uint64_t until) {
    std::vector<int> found;
    uint64_t jobs = foreseen_.size(), coming = likely.empty() ? 0 : coming_early() + largest_;
    for (const int expert : likely) {
        experts_[expert].expected = std::max(experts_[expert].expected, until);
        jobs += 1 + bytes_of(expert) / EARLY_PIECE;
        coming += bytes_of(expert);
        if (!experts_[expert].held && jobs <= FORESEEN && coming <= numbers_.budget &&
            std::find(found.begin(), found.end(), expert) == found.end()) {
            found.push_back(expert);
        } else {
            jobs -= 1 + bytes_of(expert) / EARLY_PIECE;
            coming -= bytes_of(expert);
        }
    }
    return found;
}

// Bytes of experts that are still read ahead; they cannot leave.
uint64_t Cache::coming_early() {
    uint64_t sum = 0;
    for (size_t i = 0; i < experts_.size(); ++i) {
        sum += experts_[i].foreseen && !arrived(int(i), layers_[layer_of_[i]]) ? bytes_of(int(i)) : 0;
    }
    return sum;
}

// Orders experts: those leave first that will be wanted last. An expert is wanted every so many passes, and when a pass
// reaches its layer; in passes of many rows, which want nearly all experts, only the layer tells them apart.
double Cache::worth(int expert) const {
    const Expert & one = experts_[expert];
    const int count = int(layers_.size()), layer = layer_of_[expert];
    const double until = double((layer - layer_now_ - 1 + count) % count) / count;
    return (one.expected > visit_ ? EXPECTED : 0) - until - 1 / (memory_.chance(one, numbers_.passes) + 1e-9);
}

// Whether an expert may give way: not what this layer needs.
bool Cache::may_leave(int expert) {
    const Expert & one = experts_[expert];
    return one.held && one.visit != visit_ && arrived(expert, layers_[layer_of_[expert]]);
}

// Those that are worth least, and less than `worth_below`, and make room when they leave. Returns the room for others.
uint64_t Cache::find_room(uint64_t needed, double worth_below, std::vector<int> & leave) {
    leave.clear();
    uint64_t held = numbers_.held_bytes;
    if (held + needed > numbers_.budget) {
        std::vector<std::pair<double, int>> found;
        for (size_t i = 0; i < experts_.size(); ++i) {
            const double value = may_leave(int(i)) ? worth(int(i)) : INFINITY;
            if (value < worth_below) {
                found.emplace_back(value, int(i));
            }
        }
        std::sort(found.begin(), found.end());
        for (size_t i = 0; i < found.size() && held + needed > numbers_.budget; ++i) {
            leave.push_back(found[i].second);
            held -= bytes_of(found[i].second);
        }
    }
    return numbers_.budget > held ? numbers_.budget - held : 0;
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
void Cache::queue_reads(const std::vector<int> & missing, std::deque<Job> & queue, uint64_t piece) {
    for (int turn = 0; turn < MATRICES; ++turn) {
        for (const int expert : missing) {
            const Layer & layer = layers_[layer_of_[expert]];
            if (turn >= int(layer.matrices.size())) {
                continue;
            }
            const int number = (std::max(layer.lead, 0) + turn) % int(layer.matrices.size());
            const int index = layer.matrices[number];
            const auto pages = span(matrices_[index], expert - layer.first);
            left(expert, number) = int((pages.second - pages.first + piece - 1) / piece);
            for (uint64_t at = pages.first; at < pages.second; at += piece) {
                queue.push_back({expert, index, at, std::min(at + piece, pages.second)});
            }
        }
    }
    for (const int expert : missing) {
        experts_[expert].held = true;
        numbers_.held_bytes += bytes_of(expert);
    }
    work_.notify_all();
}

bool Cache::has_work() const { return !wanted_.empty() || (!foreseen_.empty() && reading_early_ < EARLY_READERS); }

void Cache::run_reader() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        work_.wait(lock, [&] { return stop_ || has_work(); });
        if (stop_) {
            return;
        }
        const bool early = wanted_.empty();
        std::deque<Job> & queue = early ? foreseen_ : wanted_;
        const Job job = queue.front();
        queue.pop_front();
        reading_early_ += early;
        reading_since_ = reading_++ ? reading_since_ : now_ns();
        lock.unlock();
        read(job);
        lock.lock();
        reading_early_ -= early;
        numbers_.reading_ns += --reading_ ? 0 : now_ns() - reading_since_;
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
    int asked = 0;
    for (int i = 0; i < count; ++i) {
        if (layers[i] >= 0 && layers[i] < int(layers_.size()) && numbers[i] >= 0 &&
            numbers[i] < layers_[layers[i]].experts) {
            const int index = layers_[layers[i]].first + numbers[i];
            asked += fetch_early({index}, 0, worth(index));
        }
    }
    return asked;
}

int Cache::foresee_tokens(const int32_t * tokens, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (how_ == Foresight::OFF || (how_ == Foresight::TRY && !trial_.on())) {
        return 0;
    }
    std::vector<int> likely;
    for (int layer = 0; layer < int(layers_.size()); ++layer) {
        for (int i = 0; i < count; ++i) {
            const int16_t * const chosen = table_.knows(tokens[i]) ? table_.of(tokens[i], layer) : nullptr;
            for (int rank = 0; chosen && rank < TokenTable::USED && chosen[rank] != ABSENT; ++rank) {
                likely.push_back(layers_[layer].first + chosen[rank]);
            }
        }
    }
    return fetch_early(likely, visit_ + layers_.size(), EARLY_WORTH);
}

void Cache::tell_tokens(const int32_t * tokens, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    pass_.tokens.assign(tokens, tokens + count);
}

void Cache::missing(const int32_t * tokens, int count, uint64_t * into) {
    std::lock_guard<std::mutex> lock(mutex_);
    const double right = numbers_.table_asked ? double(numbers_.table_right) / double(numbers_.table_asked) : 0;
    std::vector<bool> seen(experts_.size());
    double sum = 0;
    for (int i = 0; i < count; ++i) {
        uint64_t bytes = 0;
        const bool known = table_.knows(tokens[i]);
        for (int layer = 0; known && layer < int(layers_.size()); ++layer) {
            const int16_t * const chosen = table_.of(tokens[i], layer);
            for (int rank = 0; rank < TokenTable::USED && chosen[rank] != ABSENT; ++rank) {
                const int index = layers_[layer].first + chosen[rank];
                bytes += seen[index] || experts_[index].held ? 0 : layers_[layer].bytes;
                seen[index] = true;
            }
        }
        sum += known ? right * double(bytes) + (1 - right) * row_bytes_ : row_bytes_;
        into[i] = uint64_t(sum);
    }
}

void Cache::use_routers(const twd_expert_router * routers, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (int i = 0; i < count; ++i) {
        if (routers[i].layer >= 0 && routers[i].layer < int(layers_.size()) &&
            routers[i].experts == layers_[routers[i].layer].experts) {
            routers_[routers[i].layer] = routers[i];
        }
    }
}

void Cache::set_foresight(Foresight how) {
    std::lock_guard<std::mutex> lock(mutex_);
    how_ = how;
}

void Cache::set_budget(uint64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.budget = bytes;
    visit_ += layers_.size() + 1; // what was wanted or expected may go, too: the caller sees to it that no pass runs
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
    numbers_.foresight = how_ == Foresight::ON || (how_ == Foresight::TRY && trial_.on());
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
GGML_BACKEND_API int twd_experts_foresee_tokens(void * cache, const int32_t * tokens, int count);
GGML_BACKEND_API void twd_experts_tell_tokens(void * cache, const int32_t * tokens, int count);
GGML_BACKEND_API void twd_experts_missing(void * cache, const int32_t * tokens, int count, uint64_t * into);
GGML_BACKEND_API void twd_experts_use_routers(void * cache, const twd_expert_router * routers, int count);
GGML_BACKEND_API void twd_experts_set_foresight(void * cache, int how);
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

int twd_experts_foresee_tokens(void * cache, const int32_t * tokens, int count) {
    return ((Cache *) cache)->foresee_tokens(tokens, count);
}

void twd_experts_tell_tokens(void * cache, const int32_t * tokens, int count) {
    ((Cache *) cache)->tell_tokens(tokens, count);
}

void twd_experts_missing(void * cache, const int32_t * tokens, int count, uint64_t * into) {
    ((Cache *) cache)->missing(tokens, count, into);
}

void twd_experts_use_routers(void * cache, const twd_expert_router * routers, int count) {
    ((Cache *) cache)->use_routers(routers, count);
}

void twd_experts_set_foresight(void * cache, int how) {
    ((Cache *) cache)->set_foresight(how <= 0 ? experts::Foresight::OFF
                             : how == 1       ? experts::Foresight::TRY
                                              : experts::Foresight::ON);
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
                    cache->want(*matrix, op->src[2], op->src[1]);
                }
                cache->wait(*matrix, op->src[2], params->ith == 0);
                break;
            }
        }
    }
    return ggml_cpu_extra_compute_forward_of_llama(params, op);
}
}
