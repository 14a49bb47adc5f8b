// A cache of experts for mixtures that are larger than memory. Just before a product of experts is computed, those that
// were chosen and are not in memory are read from the model's file, all matrices of a layer at once; others give way.
//
// ggml asks for another way to compute each operation (`ggml_cpu_extra_compute_forward`). The build puts the function of
// this name here, so that it sees every product of experts with its choice first. What is multiplied, and in which order,
// does not change: the weights lie at the same addresses, whether they were read once or many times.

#include "experts.h"

namespace experts {

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
    table_.resize(int(layers_.size()));
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
    if (!leads) {
        return;
    }
    learn(of.layer, ids);
    const bool ahead = !counting_only() && foresees();
    lock.unlock();
    if (ahead) {
        look_ahead(of.layer, ids, input);
    }
}

void Cache::begin_visit(int layer, const struct ggml_tensor * ids) {
    if (layer <= layer_now_) {
        begin_pass(layer, ids);
    } else if (ids->ne[1] != int64_t(pass_.tokens.size())) { // the last layer computes only rows that are asked for
        pass_.tokens.swap(pass_.outputs);
        pass_.outputs.clear();
        keep_tokens_of(ids->ne[1]);
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
    pass_.tokens.swap(told_);
    pass_.outputs.swap(told_outputs_);
    told_.clear(); // of a pass that nobody tells the tokens of, nothing is learned
    told_outputs_.clear();
    keep_tokens_of(pass_.rows);
}

void Cache::keep_tokens_of(int64_t rows) {
    if (int64_t(pass_.tokens.size()) != rows) {
        pass_.tokens.clear();
        pass_.outputs.clear();
    }
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

Numbers Cache::numbers() {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.read_bytes = read_bytes_;
    numbers_.foresight = foresees();
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

} // namespace experts
