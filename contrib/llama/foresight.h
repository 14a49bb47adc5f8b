// Which experts will probably be wanted soon, and whether it pays to read them ahead. Nothing here reads or waits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

// The router of a layer, as Python describes it: floats that stay in memory, null where there are none. `norm` is what
// the layer multiplies its normed input by, `bias` adds to the products, `choice` only to what is compared.
struct twd_expert_router {
    const float * weights;
    const float * norm;
    const float * bias;
    const float * choice;
    int32_t layer;
    int32_t experts;
    int32_t width;
    int32_t unused;
};

namespace experts {

inline float product(const float * a, const float * b, int count) {
    constexpr int LANES = 16;
    float sums[LANES] = {};
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            sums[lane] += a[i + lane] * b[i + lane];
        }
    }
    float sum = 0;
    for (; i < count; ++i) {
        sum += a[i] * b[i];
    }
    for (const float one : sums) {
        sum += one;
    }
    return sum;
}

// What a layer's router would choose for the input of the layer before: `rows` of them, `stride` bytes apart.
class NextChoice {
  public:
    // Adds the chosen experts of each row to `found`, each once, the surest ones of a row first.
    void of(const twd_expert_router & here, const twd_expert_router & next, const char * input, uint64_t stride,
            int64_t rows, int64_t used, std::vector<int> & found) {
        scores_.resize(next.experts);
        order_.resize(next.experts);
        marked_.assign(next.experts, false);
        row_.resize(next.width);
        for (int64_t row = 0; row < rows; ++row) {
            score(here, next, (const float *) (input + row * stride));
            take(std::min<int64_t>(used, next.experts), found);
        }
    }

  private:
    void score(const twd_expert_router & here, const twd_expert_router & next, const float * input) {
        for (int i = 0; i < next.width; ++i) {
            const bool scaled = here.norm && next.norm && here.norm[i] != 0;
            row_[i] = scaled ? input[i] * (next.norm[i] / here.norm[i]) : input[i];
        }
        for (int expert = 0; expert < next.experts; ++expert) {
            float value = product(next.weights + int64_t(expert) * next.width, row_.data(), next.width);
            value += next.bias ? next.bias[expert] : 0;
            scores_[expert] = next.choice ? 1 / (1 + std::exp(-value)) + next.choice[expert] : value;
            order_[expert] = expert;
        }
    }
    void take(int64_t count, std::vector<int> & found) {
        std::partial_sort(order_.begin(), order_.begin() + count, order_.end(),
                          [this](int a, int b) { return scores_[a] > scores_[b]; });
        for (int64_t i = 0; i < count; ++i) {
            if (!marked_[order_[i]]) {
                marked_[order_[i]] = true;
                found.push_back(order_[i]);
            }
        }
    }

    std::vector<float> scores_, row_;
    std::vector<int> order_;
    std::vector<bool> marked_;
};

// What a token chose when it was computed last, in each layer. Of tokens that share a place, the latest is known.
class TokenTable {
  public:
    static constexpr int PLACES = 4096, USED = 16;

    void resize(int layers) {
        layers_ = layers;
        tokens_.assign(PLACES, -1);
        chosen_.assign(size_t(PLACES) * layers * USED, -1);
    }
    bool knows(int32_t token) const { return token >= 0 && !tokens_.empty() && tokens_[token % PLACES] == token; }
    // The first of the experts that a token chose in a layer; USED of them, -1 behind the last.
    const int16_t * of(int32_t token, int layer) const { return &chosen_[place(token, layer)]; }
    int16_t * learn(int32_t token, int layer) {
        if (!knows(token)) {
            tokens_[token % PLACES] = token;
            std::fill_n(chosen_.begin() + int64_t(place(token, 0)), size_t(layers_) * USED, int16_t(-1));
        }
        return &chosen_[place(token, layer)];
    }

  private:
    size_t place(int32_t token, int layer) const { return (size_t(token % PLACES) * layers_ + layer) * USED; }

    int layers_ = 0;
    std::vector<int32_t> tokens_;
    std::vector<int16_t> chosen_;
};

// Measures in turns whether passes with reading ahead are quicker than those without, and keeps to the quicker way.
class Trial {
  public:
    static constexpr int TURN = 4, TURNS = 4, REST = 160;

    bool on() const { return on_; }
    // A pass has ended; `ns` is what it took for each expert that it wanted.
    void pass(double ns) {
        if (left_ < length_) { // the first pass of a turn still feels the one before
            sum_ += ns;
            ++counted_;
        }
        if (--left_ > 0) {
            return;
        }
        if (counted_) {
            const double mean = sum_ / counted_;
            cost_[on_] = turns_[on_]++ ? 0.6 * cost_[on_] + 0.4 * mean : mean;
        }
        begin(turns_[0] + turns_[1] < 2 * TURNS ? !on_ : resting_ ? !on_ : quicker());
    }

  private:
    // Reading ahead must be a little quicker: it costs the disk more.
    bool quicker() const { return cost_[1] < 0.98 * cost_[0]; }
    void begin(bool on) {
        resting_ = turns_[0] + turns_[1] >= 2 * TURNS && on == quicker();
        on_ = on;
        left_ = length_ = resting_ ? REST : TURN;
        sum_ = 0;
        counted_ = 0;
    }

    bool on_ = false, resting_ = false;
    int left_ = TURN, length_ = TURN, counted_ = 0;
    int turns_[2] = {};
    double cost_[2] = {}, sum_ = 0;
};

} // namespace experts
