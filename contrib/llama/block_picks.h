// Chooses the next token of a text from a few blocks of a row of logits that lies elsewhere. What is known of all blocks
// (the largest number of each) must prove that no token of another block could have been chosen; else it does not choose.

#pragma once

#include "noise.h"
#include "picking.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace picking {

// A row that lies elsewhere.
class Blocks {
  public:
    virtual ~Blocks() = default;

    // Brings some blocks, in ascending order, each to its place in `row`. False: they are not to be had.
    virtual bool read(const int * blocks, int count) = 0;

    int length = 0; // of each block
    int count = 0;
    float * row = nullptr;           // memory for all of it
    const float * peaks = nullptr;   // the largest number of each block
    const float * weights = nullptr; // the sum of e^(x - largest) of each block, to some digits; nullptr: not known
};

// Picks for one vocabulary. It keeps its buffers, so it is for one thread.
class BlockPicker {
  public:
    explicit BlockPicker(int vocabulary);

    // The token that Picker::pick would choose from the whole row. ASK: look at the whole row.
    int pick(Blocks & of, const twd_rule & rule, const int32_t * recent, int count, int position);

    // How many blocks were looked at for the last pick.
    int looked_at() const { return looked_at_; }

  private:
    struct Change {
        int32_t id;
        int32_t times; // it stands so often among the penalised tokens
        float bias;
        bool is_banned;
    };
    struct Entry {
        float value;
        int32_t id;
        bool is_certain; // no filter has removed it
    };
    struct Span {
        double least, most;
    };

    void collect_changes(const int32_t * recent, int count);
    float changed(const Change & by, float value) const;
    void raise_ceilings();
    bool read_wanted(bool is_first);
    bool take(int block);
    void want(float level);
    int choose(const Noise & noise, int position);
    int largest(int best);
    bool narrow(float least, bool & is_open);
    void take_top_k(bool & is_open, size_t & left);
    bool take_top_p(bool & is_open, size_t left);
    Span mass_of_rest(size_t left) const;
    bool are_weights_right() const;
    void want_rivals(const Noise & noise, float least, double score);

    int size_;
    Picker picker_;
    Blocks * of_ = nullptr;
    const twd_rule * rule_ = nullptr;
    int looked_at_ = 0;
    float highest_ = 0.0f; // of all tokens, changes included
    float rest_ = 0.0f;    // no token of a block that is not here has more
    std::vector<float> ceilings_, values_, spare_;
    std::vector<int32_t> ids_, spare_ids_, times_;
    std::vector<Change> changes_;
    std::vector<char> is_here_;
    std::vector<std::pair<double, int>> wanted_;
    std::vector<int> asked_;
    std::vector<Entry> settled_; // those that are nearer to the highest than any token elsewhere can be
    std::vector<Entry> others_;
};

} // namespace picking
