// See picking.h. Additions and comparisons of logits are those of twd/decoding, bit by bit; logarithms and exponentials
// are another library's, so whatever hangs on their last bits is left to Python.

#include "picking.h"

#include "noise.h"
#include "wide.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace picking {

namespace {

constexpr float LOWEST = std::numeric_limits<float>::lowest();
constexpr double LN2 = 0.69314718055994530942;
constexpr double NEAR = 1e-10;     // scores nearer than this are left to Python
constexpr double NEAR_MASS = 1e-6; // and sums of chances
constexpr size_t RANKED = 4096;    // so many tokens are sorted here
constexpr int GROUP = 64;

} // namespace

struct Picker::Scored {
    int place = ASK;
    double best = -std::numeric_limits<double>::infinity();
    double next = -std::numeric_limits<double>::infinity();

    void add(int at, double score) {
        if (score > best) {
            next = best;
            best = score;
            place = at;
        } else {
            next = std::max(next, score);
        }
    }
};

Picker::Picker(int vocabulary)
    : size_(vocabulary), blocks_((vocabulary + wide::BLOCK - 1) / wide::BLOCK), spare_blocks_(blocks_.size()),
      times_(vocabulary) {}

Peak Picker::peak(const float * logits, std::vector<float> & blocks) const {
    Peak found;
    size_t best = 0;
    for (size_t block = 0; block < blocks.size(); ++block) {
        const int start = int(block) * wide::BLOCK;
        blocks[block] = wide::largest(logits + start, std::min(wide::BLOCK, size_ - start));
        if (std::isnan(blocks[block])) {
            return found;
        }
        best = blocks[block] > blocks[best] ? block : best;
    }
    found.value = blocks[best];
    if (std::isfinite(found.value)) {
        found.place = int(std::find(logits + best * wide::BLOCK, logits + size_, found.value) - logits);
    }
    return found;
}

int Picker::pick(const float * logits, const twd_rule & rule, const int32_t * recent, int count, int position) {
    top_ = peak(logits, blocks_);
    if (top_.place == ASK) {
        return ASK;
    }
    const float * changed = adjusted(logits, rule, recent, count);
    const Peak highest = changed == logits ? top_ : peak(changed, spare_blocks_);
    if (rule.temperature <= 0.0 || highest.place == ASK) {
        return highest.place;
    }
    if (!narrow(changed, rule, highest.value)) {
        return ASK;
    }
    if (all_) {
        return strongest(changed, nullptr, size_, rule, position);
    }
    return strongest(gather(changed), kept_.data(), int(kept_.size()), rule, position);
}

// The logits of the tokens that are kept.
const float * Picker::gather(const float * logits) {
    gathered_.resize(kept_.size());
    for (size_t i = 0; i < kept_.size(); ++i) {
        gathered_[i] = logits[kept_[i]];
    }
    return gathered_.data();
}

Sure Picker::sure_of(const float * logits, int token, bool with_other) const {
    const double total = wide::mass(logits, size_, top_.value);
    const auto share = [&](int one) { return std::exp(double(logits[one]) - double(top_.value)) / total; };
    Sure sure;
    sure.share = share(token);
    if (!with_other) {
        return sure;
    }
    sure.other = top_.place;
    if (token == top_.place) {
        const int own = token / wide::BLOCK;
        Peak next{-std::numeric_limits<float>::infinity(), ASK};
        for (int block = 0; block < int(blocks_.size()); ++block) {
            if (block != own && !(blocks_[block] > next.value)) {
                continue;
            }
            for (int i = block * wide::BLOCK; i < std::min(size_, (block + 1) * wide::BLOCK); ++i) {
                if (i != token && logits[i] > next.value) {
                    next = {logits[i], i};
                }
            }
        }
        sure.other = next.place == ASK ? 0 : next.place;
    }
    sure.other_share = share(sure.other);
    return sure;
}

const float * Picker::adjusted(const float * logits, const twd_rule & rule, const int32_t * recent, int count) {
    if (!rule.n_bias && !rule.n_banned && !rule.repeat_last_n) {
        return logits;
    }
    changed_.assign(logits, logits + size_);
    for (int i = 0; i < rule.n_bias; ++i) {
        changed_[rule.bias_ids[i]] += rule.bias[i];
    }
    penalise(rule, recent, count);
    for (int i = 0; i < rule.n_banned; ++i) {
        changed_[rule.banned[i]] = -std::numeric_limits<float>::infinity();
    }
    return changed_.data();
}

void Picker::penalise(const twd_rule & rule, const int32_t * recent, int count) {
    const int last = rule.repeat_last_n < 0 ? count : std::min(count, rule.repeat_last_n);
    able_.clear();
    for (int i = count - last; i < count; ++i) {
        if (recent[i] >= 0 && recent[i] < size_ && times_[recent[i]]++ == 0) {
            able_.push_back(recent[i]);
        }
    }
    for (const int32_t id : able_) {
        float held = changed_[id];
        held = held <= 0.0f ? held * rule.repeat : held / rule.repeat;
        const float less = float(times_[id]) * rule.frequency;
        changed_[id] = held - (less + rule.presence);
        times_[id] = 0;
    }
}

bool Picker::narrow(const float * logits, const twd_rule & rule, float highest) {
    all_ = true;
    kept_.clear();
    if (rule.top_k > 0 && rule.top_k < size_) {
        keep_top_k(logits, rule.top_k);
    }
    if (rule.top_p < 1.0 && !keep_top_p(logits, rule.top_p, highest)) {
        return false;
    }
    if (rule.min_p > -std::numeric_limits<float>::infinity()) {
        keep_above(logits, highest + rule.min_p);
    }
    return all_ || !kept_.empty();
}

// The k-th largest of the maxima of groups is at most the k-th largest of all: whatever is below need not be looked at.
void Picker::keep_top_k(const float * logits, int k) {
    const int groups = size_ / GROUP;
    float least = LOWEST;
    if (k <= groups) {
        gathered_.resize(groups);
        for (int group = 0; group < groups; ++group) {
            gathered_[group] = wide::largest(logits + group * GROUP, GROUP);
        }
        std::nth_element(gathered_.begin(), gathered_.begin() + (k - 1), gathered_.end(), std::greater<float>());
        least = std::max(least, gathered_[k - 1]);
    }
    ranked_.clear();
    wide::each_above(logits, size_, least, [&](int i) { ranked_.emplace_back(-logits[i], i); });
    if (ranked_.size() > size_t(k)) {
        std::nth_element(ranked_.begin(), ranked_.begin() + (k - 1), ranked_.end());
        ranked_.resize(k);
    }
    all_ = false;
    kept_.clear();
    for (const auto & one : ranked_) {
        kept_.push_back(one.second);
    }
    std::sort(kept_.begin(), kept_.end());
}

// The fewest likeliest tokens whose chances together reach a share; false: the border is too near to tell.
bool Picker::keep_top_p(const float * logits, double share, float highest) {
    const int count = all_ ? size_ : int(kept_.size());
    const float * x = all_ ? logits : gather(logits);
    const double goal = share * wide::mass(x, count, highest);
    for (const float reach : {2.0f, 6.0f, 12.0f, std::numeric_limits<float>::infinity()}) {
        ranked_.clear();
        wide::each_above(x, count, std::max(LOWEST, highest - reach * 1.0001f), [&](int i) {
            ranked_.emplace_back(highest - x[i], all_ ? i : kept_[i]);
        });
        if (ranked_.size() > RANKED) {
            return false;
        }
        std::sort(ranked_.begin(), ranked_.end());
        double sum = 0.0;
        for (size_t i = 0; i < ranked_.size(); ++i) {
            if (sum >= goal * (1.0 - NEAR_MASS) && i > 0) {
                return false;
            }
            sum += wide::exp_of(-ranked_[i].first);
            if (sum >= goal * (1.0 + NEAR_MASS)) {
                all_ = false;
                kept_.clear();
                for (size_t kept = 0; kept <= i; ++kept) {
                    kept_.push_back(ranked_[kept].second);
                }
                std::sort(kept_.begin(), kept_.end());
                return true;
            }
        }
    }
    return false;
}

void Picker::keep_above(const float * logits, float least) {
    if (all_) {
        all_ = false;
        wide::each_above(logits, size_, least, [&](int i) { kept_.push_back(i); });
        return;
    }
    kept_.erase(std::remove_if(kept_.begin(), kept_.end(), [&](int32_t id) { return !(logits[id] >= least); }),
                kept_.end());
}

// The token with the largest logit + temperature * noise. Exact scores are computed only where a cheap upper bound is
// above the exact score of the token with the best bound.
int Picker::strongest(const float * logits, const int32_t * ids, int count, const twd_rule & rule, int position) {
    const Noise noise(rule.seed, position);
    const double temperature = rule.temperature;
    const auto score = [&](int i) {
        return double(logits[i]) + temperature * noise.of(uint32_t(ids == nullptr ? i : ids[i]));
    };
    bounds_.resize(count);
    wide::bounds(logits, ids, count, float(-temperature * LN2 / 0x1p23), noise.first, noise.second, bounds_.data());
    float most = -std::numeric_limits<float>::infinity();
    for (int start = 0; start < count; start += wide::BLOCK) {
        const float one = wide::largest(bounds_.data() + start, std::min(wide::BLOCK, count - start));
        if (std::isnan(one)) {
            return ASK;
        }
        most = std::max(most, one);
    }
    const int guess = int(std::find(bounds_.begin(), bounds_.end(), most) - bounds_.begin());
    const double sure = score(guess);
    const double slack = 1e-4 * temperature + 1e-5 * (std::abs(sure) + 1.0);
    Scored found;
    const double least = sure - temperature * LN2 * 159 - slack;
    wide::each_above(bounds_.data(), count, float(least - std::abs(least) * 1e-6), [&](int i) { found.add(i, score(i)); });
    const double near = NEAR * (1.0 + temperature + std::abs(found.best));
    if (found.place == ASK || !std::isfinite(found.best) || found.best - found.next < near) {
        return ASK;
    }
    return ids == nullptr ? found.place : ids[found.place];
}

} // namespace picking

extern "C" {

TWD_OPEN void * twd_picker_open(int32_t vocabulary);
TWD_OPEN void twd_picker_pick(void * picker, const float * logits, const twd_rule * rule, const int32_t * tokens,
                              int32_t count, int32_t judges, twd_pick * pick);
TWD_OPEN void twd_picker_close(void * picker);

void * twd_picker_open(int32_t vocabulary) { return new picking::Picker(vocabulary); }

// Picks one token behind a text of `count` tokens. `judges`: 1 asks for its chance, 2 for the second choice, too.
void twd_picker_pick(void * picker, const float * logits, const twd_rule * rule, const int32_t * tokens, int32_t count,
                     int32_t judges, twd_pick * pick) {
    auto & of = *(picking::Picker *) picker;
    *pick = {of.pick(logits, *rule, tokens, count, count), picking::ASK, 0.0, 0.0};
    if (judges > 0 && pick->token != picking::ASK) {
        const picking::Sure sure = of.sure_of(logits, pick->token, judges > 1);
        pick->other = sure.other;
        pick->sure = sure.share;
        pick->other_sure = sure.other_share;
    }
}

void twd_picker_close(void * picker) { delete (picking::Picker *) picker; }

} // extern "C"
