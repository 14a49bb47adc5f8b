// See block_picks.h. Filters divide the tokens that are here into those that certainly stay, those that may, and those
// that are out. The strongest of the first two is the pick if it certainly stays and no token elsewhere can be stronger.

#include "block_picks.h"

#include "wide.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace picking {

namespace {

constexpr float NONE = -std::numeric_limits<float>::infinity();
constexpr int MORE = -2;             // look at what is wanted, and choose again
constexpr int ROUNDS = 6;
constexpr size_t BATCH = 16;         // so many blocks are looked at in one round
constexpr int FEWEST = 8;            // so many may always be looked at,
constexpr int PART = 4;              // and else one of so many: more of them and the whole row comes quicker
constexpr double NOISE_MAX = 36.8;   // no token has more
constexpr double NEAR = 1e-9;        // what is nearer than this to the strongest is looked at
constexpr double NEAR_MASS = 1e-6;   // sums of chances err by less than this
constexpr double NEAR_WEIGHT = 1e-4; // those of a device must be as near where they can be compared,
constexpr double LOOSE = 1e-3;       // and may err by this where they cannot
constexpr size_t RANKED = 4096;      // so many tokens are sorted here

} // namespace

BlockPicker::BlockPicker(int vocabulary) : size_(vocabulary), picker_(vocabulary), times_(vocabulary) {}

int BlockPicker::pick(Blocks & of, const twd_rule & rule, const int32_t * recent, int count, int position) {
    of_ = &of;
    rule_ = &rule;
    looked_at_ = 0;
    values_.clear();
    ids_.clear();
    is_here_.assign(of.count, 0);
    collect_changes(recent, count);
    raise_ceilings();
    if (!(rule.repeat > 0.0f)) { // then a larger logit would not stay the larger one
        return ASK;
    }
    const int first = int(std::max_element(ceilings_.begin(), ceilings_.end()) - ceilings_.begin());
    wanted_.assign(1, {ceilings_[first], first});
    const Noise noise(rule.seed, position);
    for (int round = 0; round < ROUNDS && read_wanted(round < 2); ++round) {
        wanted_.clear();
        const int token = choose(noise, position);
        if (token != MORE) {
            return token;
        }
    }
    return ASK;
}

// All tokens whose logits are changed, in order.
void BlockPicker::collect_changes(const int32_t * recent, int count) {
    changes_.clear();
    for (int i = 0; i < rule_->n_bias; ++i) {
        changes_.push_back({rule_->bias_ids[i], 0, rule_->bias[i], false});
    }
    for (int i = 0; i < rule_->n_banned; ++i) {
        changes_.push_back({rule_->banned[i], 0, 0.0f, true});
    }
    const int last = rule_->repeat_last_n < 0 ? count : std::min(count, rule_->repeat_last_n);
    for (int i = count - last; i < count; ++i) {
        if (recent[i] >= 0 && recent[i] < size_ && times_[recent[i]]++ == 0) {
            changes_.push_back({recent[i], 0, 0.0f, false});
        }
    }
    std::sort(changes_.begin(), changes_.end(), [](const Change & a, const Change & b) { return a.id < b.id; });
    size_t kept = 0;
    for (const Change one : changes_) { // its place may be written to
        if (kept == 0 || changes_[kept - 1].id != one.id) {
            changes_[kept++] = {one.id, times_[one.id], 0.0f, false};
        }
        changes_[kept - 1].bias += one.bias;
        changes_[kept - 1].is_banned |= one.is_banned;
        times_[one.id] = 0;
    }
    changes_.resize(kept);
}

float BlockPicker::changed(const Change & by, float value) const {
    value += by.bias;
    if (by.times > 0) {
        value = value <= 0.0f ? value * rule_->repeat : value / rule_->repeat;
        const float less = float(by.times) * rule_->frequency;
        value -= less + rule_->presence;
    }
    return by.is_banned ? NONE : value;
}

// No token of a block has more than the block's largest logit, unless a change adds to it. Changes keep the order of
// numbers, so the change of the largest is the most that a changed token can have.
void BlockPicker::raise_ceilings() {
    ceilings_.assign(of_->peaks, of_->peaks + of_->count);
    for (const Change & one : changes_) {
        const int block = one.id / of_->length;
        ceilings_[block] = std::max(ceilings_[block], changed(one, of_->peaks[block]));
    }
}

// The blocks whose tokens may be strongest come first. One that wants too many gets none, but for the beginning, when
// little is known yet.
bool BlockPicker::read_wanted(bool is_first) {
    const int most = std::max(FEWEST, of_->count / PART);
    if (!is_first && looked_at_ + int(wanted_.size()) > most) {
        return false;
    }
    std::sort(wanted_.rbegin(), wanted_.rend());
    wanted_.resize(std::min({wanted_.size(), BATCH, size_t(most - looked_at_)}));
    asked_.clear();
    for (const auto & one : wanted_) {
        asked_.push_back(one.second);
    }
    std::sort(asked_.begin(), asked_.end());
    looked_at_ += int(asked_.size());
    if (asked_.empty() || !of_->read(asked_.data(), int(asked_.size()))) {
        return false;
    }
    return std::all_of(asked_.begin(), asked_.end(), [&](int block) { return take(block); });
}

// False: the block is not what was told of it, or it has something that is no number.
bool BlockPicker::take(int block) {
    const int start = block * of_->length, end = start + of_->length;
    if (wide::largest(of_->row + start, of_->length) != of_->peaks[block]) {
        return false;
    }
    is_here_[block] = 1;
    const auto before = [](const Change & one, int id) { return one.id < id; };
    auto change = std::lower_bound(changes_.begin(), changes_.end(), start, before);
    for (int id = start; id < end; ++id) {
        const bool is_changed = change != changes_.end() && change->id == id;
        const float value = is_changed ? changed(*change++, of_->row[id]) : of_->row[id];
        if (std::isnan(value) || value == -NONE) {
            return false;
        }
        if (value != NONE) { // such a token is never chosen
            values_.push_back(value);
            ids_.push_back(id);
        }
    }
    return true;
}

// Wants all blocks that may have a token with so much.
void BlockPicker::want(float level) {
    for (int block = 0; block < of_->count; ++block) {
        if (!is_here_[block] && ceilings_[block] >= level) {
            wanted_.emplace_back(ceilings_[block], block);
        }
    }
}

int BlockPicker::choose(const Noise & noise, int position) {
    int best = 0;
    for (int i = 1; i < int(ids_.size()); ++i) {
        const bool is_first = values_[i] == values_[best] && ids_[i] < ids_[best];
        best = values_[i] > values_[best] || is_first ? i : best;
    }
    highest_ = ids_.empty() ? NONE : values_[best];
    rest_ = NONE;
    for (int block = 0; block < of_->count; ++block) {
        rest_ = is_here_[block] ? rest_ : std::max(rest_, ceilings_[block]);
    }
    if (rule_->temperature <= 0.0 || rest_ > highest_ || ids_.empty()) {
        return largest(best);
    }
    const float least = highest_ + rule_->min_p;
    bool is_open = rest_ > NONE;
    if (!narrow(least, is_open)) {
        return ASK;
    }
    settled_.insert(settled_.end(), others_.begin(), others_.end());
    spare_.clear();
    spare_ids_.clear();
    for (const Entry & one : settled_) {
        spare_.push_back(one.value);
        spare_ids_.push_back(one.id);
    }
    const int token = picker_.strongest(spare_.data(), spare_ids_.data(), int(spare_.size()), *rule_, position);
    if (token == ASK) {
        return ASK;
    }
    const auto is_it = [&](const Entry & one) { return one.id == token; };
    const Entry & found = *std::find_if(settled_.begin(), settled_.end(), is_it);
    if (is_open) {
        want_rivals(noise, least, double(found.value) + rule_->temperature * noise.of(uint32_t(token)));
    }
    if (!wanted_.empty()) {
        return MORE;
    }
    if (!found.is_certain) {
        want(highest_ - found.value < highest_ - rest_ ? NONE : found.value);
        return wanted_.empty() ? ASK : MORE;
    }
    return token;
}

// The token with the most, which is all that counts without noise.
int BlockPicker::largest(int best) {
    if (!ids_.empty() && rest_ < highest_) {
        return ids_[best];
    }
    want(highest_);
    return wanted_.empty() ? ASK : MORE;
}

// Divides the tokens that are here. `is_open`: whether tokens that are not here may have passed the filters, too.
bool BlockPicker::narrow(float least, bool & is_open) {
    const bool has_top_k = rule_->top_k > 0 && rule_->top_k < size_, has_top_p = rule_->top_p < 1.0;
    const float distance = highest_ - rest_;
    settled_.clear();
    others_.clear();
    for (size_t i = 0; i < ids_.size(); ++i) {
        const bool is_settled = highest_ - values_[i] < distance;
        (is_settled ? settled_ : others_).push_back({values_[i], ids_[i], is_settled || !(has_top_k || has_top_p)});
    }
    size_t left = size_t(size_);
    if (has_top_k) {
        take_top_k(is_open, left);
    }
    if (has_top_p && !take_top_p(is_open, left)) {
        return false;
    }
    const auto is_less = [&](const Entry & one) { return !(one.value >= least); };
    settled_.erase(std::remove_if(settled_.begin(), settled_.end(), is_less), settled_.end());
    others_.erase(std::remove_if(others_.begin(), others_.end(), is_less), others_.end());
    is_open = is_open && rest_ >= least;
    return !settled_.empty() || !others_.empty();
}

// `left`: how many others there may be among the k.
void BlockPicker::take_top_k(bool & is_open, size_t & left) {
    const size_t k = size_t(rule_->top_k);
    if (settled_.size() < k) {
        left = k - settled_.size();
        return;
    }
    const auto before = [](const Entry & a, const Entry & b) {
        return a.value > b.value || (a.value == b.value && a.id < b.id);
    };
    std::nth_element(settled_.begin(), settled_.begin() + (k - 1), settled_.end(), before);
    settled_.resize(k);
    others_.clear();
    is_open = false;
}

// Tokens stay up to that with which their chances reach the share of all chances. Where nobody knows on which side of
// that border a token is, it may stay.
bool BlockPicker::take_top_p(bool & is_open, size_t left) {
    if (settled_.size() > RANKED || (is_open && !are_weights_right())) {
        return false;
    }
    const auto distance = [&](const Entry & one) { return highest_ - one.value; };
    std::sort(settled_.begin(), settled_.end(), [&](const Entry & a, const Entry & b) {
        return distance(a) < distance(b) || (distance(a) == distance(b) && a.id < b.id);
    });
    double sum = 0.0;
    for (const Entry & one : settled_) {
        sum += wide::exp_of(-distance(one));
    }
    const Span rest = is_open ? mass_of_rest(left) : Span{0.0, 0.0};
    const double least = rule_->top_p * (sum + rest.least) * (1.0 - NEAR_MASS);
    const double most = rule_->top_p * (sum + rest.most) * (1.0 + NEAR_MASS);
    sum = 0.0;
    for (size_t i = 0; i < settled_.size(); ++i) {
        settled_[i].is_certain = i == 0 || sum < least;
        sum += wide::exp_of(-distance(settled_[i]));
        if (sum >= most) {
            settled_.resize(i + 1);
            others_.clear();
            is_open = false;
            break;
        }
    }
    return true;
}

// The chances of all tokens that are not settled, of which at most `left` count.
BlockPicker::Span BlockPicker::mass_of_rest(size_t left) const {
    Span all{0.0, 0.0};
    for (int block = 0; block < of_->count; ++block) {
        if (is_here_[block]) {
            continue;
        }
        const double peak = std::exp(double(of_->peaks[block]) - double(highest_));
        const double told = of_->weights == nullptr ? 0.0 : double(of_->weights[block]);
        const bool is_weight = told >= 1.0 - LOOSE && told <= double(of_->length) * (1.0 + LOOSE);
        Span one{is_weight ? told * (1.0 - LOOSE) * peak : 0.0, (is_weight ? told * (1.0 + LOOSE) : of_->length) * peak};
        const auto before = [](const Change & change, int id) { return change.id < id; };
        auto change = std::lower_bound(changes_.begin(), changes_.end(), block * of_->length, before);
        for (; change != changes_.end() && change->id < (block + 1) * of_->length; ++change) {
            one.least -= peak;
            one.most += std::exp(double(changed(*change, of_->peaks[block])) - double(highest_));
        }
        all.least += std::max(0.0, one.least);
        all.most += one.most;
    }
    float nearest = rest_;
    for (const Entry & one : others_) {
        const double mass = wide::exp_of(one.value - highest_);
        all.least += mass;
        all.most += mass;
        nearest = std::max(nearest, one.value);
    }
    const double most = double(left) * std::exp(double(nearest) - double(highest_)) * (1.0 + NEAR_MASS);
    return {left < size_t(size_) ? 0.0 : all.least, std::min(all.most, most)};
}

// Whether what was told of the blocks that are here is so.
bool BlockPicker::are_weights_right() const {
    for (int block = 0; of_->weights != nullptr && block < of_->count; ++block) {
        const float * numbers = of_->row + size_t(block) * of_->length;
        const double mass = is_here_[block] ? wide::mass(numbers, of_->length, of_->peaks[block]) : 0.0;
        if (is_here_[block] && !(std::abs(mass - double(of_->weights[block])) <= NEAR_WEIGHT * mass)) {
            return false;
        }
    }
    return true;
}

// Wants the blocks that may have a token with so much of logit and noise.
void BlockPicker::want_rivals(const Noise & noise, float least, double score) {
    const double temperature = rule_->temperature;
    score -= NEAR * (1.0 + temperature + std::abs(score));
    for (int block = 0; block < of_->count; ++block) {
        const double ceiling = ceilings_[block];
        if (is_here_[block] || !(ceilings_[block] >= least) || ceiling + temperature * NOISE_MAX < score) {
            continue;
        }
        const double bound = ceiling + temperature * noise.most(block * of_->length, of_->length);
        if (bound >= score) {
            wanted_.emplace_back(bound, block);
        }
    }
}

} // namespace picking

extern "C" {

TWD_OPEN int32_t twd_block_pick(const float * logits, int32_t length, int32_t count, const float * weights,
                                const twd_rule * rule, const int32_t * tokens, int32_t n_tokens, int32_t * looked_at);

// For tests: a pick from a row that is here, as if it lay elsewhere.
int32_t twd_block_pick(const float * logits, int32_t length, int32_t count, const float * weights, const twd_rule * rule,
                       const int32_t * tokens, int32_t n_tokens, int32_t * looked_at) {
    struct Here : picking::Blocks {
        bool read(const int * blocks, int many) override {
            for (int i = 0; i < many; ++i) {
                const size_t start = size_t(blocks[i]) * length;
                std::copy(logits + start, logits + start + length, row + start);
            }
            return true;
        }
        const float * logits;
    } here;
    std::vector<float> peaks(count);
    for (int block = 0; block < count; ++block) {
        peaks[block] = wide::largest(logits + size_t(block) * length, length);
        if (!std::isfinite(peaks[block])) {
            return picking::ASK;
        }
    }
    std::vector<float> row(size_t(length) * count, std::numeric_limits<float>::quiet_NaN());
    here.row = row.data();
    here.logits = logits;
    here.length = length;
    here.count = count;
    here.peaks = peaks.data();
    here.weights = weights;
    picking::BlockPicker picker(length * count);
    const int token = picker.pick(here, *rule, tokens, n_tokens, n_tokens);
    *looked_at = picker.looked_at();
    return token;
}

} // extern "C"
