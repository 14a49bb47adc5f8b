// Chooses the next token of a text from its logits, exactly as twd/decoding does: penalties, filters, shared noise.
// Where two tokens are so near that rounding would decide, it does not choose: then Python does.

#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#if defined(_WIN32)
#define TWD_OPEN __declspec(dllexport)
#else
#define TWD_OPEN __attribute__((visibility("default")))
#endif

extern "C" {

// How the tokens of one text are chosen.
struct twd_rule {
    uint64_t seed;
    double temperature;
    double top_p;          // 1: no such filter
    float min_p;           // the logarithm of the share; -infinity: no such filter
    int32_t top_k;         // 0: no such filter
    int32_t repeat_last_n; // how many of the last tokens are penalised; 0: none, -1: all
    float repeat;
    float frequency;
    float presence;
    int32_t n_bias;
    int32_t n_banned;
    const int32_t * bias_ids;
    const float * bias;
    const int32_t * banned;
};

// A pick, with its chance and the second choice if they were asked for.
struct twd_pick {
    int32_t token; // -1: let Python choose
    int32_t other;
    double sure;
    double other_sure;
};

} // extern "C"

namespace picking {

constexpr int ASK = -1;

// Whether the token with the largest logit is chosen, whatever the text says.
inline bool takes_largest(const twd_rule & rule) {
    return rule.temperature <= 0.0 && !rule.n_bias && !rule.n_banned && !rule.repeat_last_n;
}

// The largest of some logits and its first place; ASK: they are no numbers.
struct Peak {
    float value = 0.0f;
    int place = ASK;
};

// A drafted token's chance, and the second choice with its chance.
struct Sure {
    double share = 0.0;
    int other = ASK;
    double other_share = 0.0;
};

// Picks for one vocabulary. It keeps its buffers, so it is for one thread.
class Picker {
  public:
    explicit Picker(int vocabulary);

    // The token that follows a text of `position` tokens; `recent` are its last `count`. ASK: let Python choose.
    int pick(const float * logits, const twd_rule & rule, const int32_t * recent, int count, int position);

    // How many tokens there are.
    int size() const { return size_; }

    // How sure the last pick was of its token.
    Sure sure_of(const float * logits, int token, bool with_other) const;

    // The token with the most of logit and noise, if all others are out. `ids` may be null: then they are numbered from 0.
    int strongest(const float * logits, const int32_t * ids, int count, const twd_rule & rule, int position);

  private:
    struct Scored;

    Peak peak(const float * logits, std::vector<float> & blocks) const;
    const float * adjusted(const float * logits, const twd_rule & rule, const int32_t * recent, int count);
    void penalise(const twd_rule & rule, const int32_t * recent, int count);
    const float * gather(const float * logits);
    bool narrow(const float * logits, const twd_rule & rule, float highest);
    void keep_top_k(const float * logits, int k);
    bool keep_top_p(const float * logits, double share, float highest);
    void keep_above(const float * logits, float least);

    int size_;
    Peak top_; // of the logits as the model gave them
    std::vector<float> blocks_, spare_blocks_, changed_, bounds_, gathered_;
    std::vector<int32_t> times_, kept_, able_;
    std::vector<std::pair<float, int32_t>> ranked_;
    bool all_ = true; // no filter has removed a token yet
};

} // namespace picking
