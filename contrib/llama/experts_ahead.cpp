// Reads ahead what will probably be wanted soon: by the next layer's router, by tokens, by what others foresee.

#include "experts.h"

namespace experts {

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
    fetch_later(next);
}

// What is foreseen for layers behind this one and found no place in the queue before.
int Cache::fetch_later(int layer) {
    const auto passed = [&](int expert) { return layer_of_[expert] <= layer || later_until_ <= visit_; };
    later_.erase(std::remove_if(later_.begin(), later_.end(), passed), later_.end());
    return fetch_early(later_, later_until_, EARLY_WORTH);
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

int Cache::foresee(const int32_t * layers, const int32_t * numbers, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!foresees()) {
        return 0;
    }
    later_.clear();
    for (int i = 0; i < count; ++i) {
        if (layers[i] >= 0 && layers[i] < int(layers_.size()) && numbers[i] >= 0 &&
            numbers[i] < layers_[layers[i]].experts) {
            later_.push_back(layers_[layers[i]].first + numbers[i]);
        }
    }
    later_until_ = visit_ + layers_.size();
    return fetch_later(-1);
}

int Cache::foresee_tokens(const int32_t * tokens, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!foresees()) {
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

int Cache::chosen(int32_t token, int16_t * into) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!table_.knows(token)) {
        return 0;
    }
    std::copy_n(table_.of(token, 0), layers_.size() * TokenTable::USED, into);
    return int(layers_.size());
}

void Cache::tell_tokens(const int32_t * tokens, const int8_t * outputs, int count) {
    std::lock_guard<std::mutex> lock(mutex_);
    told_.assign(tokens, tokens + count);
    told_outputs_.clear();
    for (int i = 0; outputs && i < count; ++i) {
        if (outputs[i]) {
            told_outputs_.push_back(tokens[i]);
        }
    }
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

} // namespace experts
