// The logits of a pass stay on the device that computed them. What a choice needs comes home: the largest of each block
// of a row, and blocks or whole rows only where they are asked for.

#pragma once

#include "block_picks.h"
#include "picking.h"

#include "ggml-backend.h"
#include "llama.h"

#include <memory>
#include <vector>

namespace device_rows {

// Where the logits are computed: on a card of this machine, on another machine, or wherever it is, the processor included.
enum class Place { CARD = 0, FAR = 1, ANYWHERE = 2 };

class Rows {
  public:
    // Nothing if the device that computes the logits cannot do it, or is the processor where a card was meant.
    static std::unique_ptr<Rows> open(llama_context * context, int sequences, Place place);
    ~Rows();
    Rows(const Rows &) = delete;

    // A pass with so many outputs was computed. False: its logits are not where they should be.
    bool begin(int outputs);

    // The largest logit of a row and its first place. ASK: look at the whole row.
    picking::Peak peak(int row);

    // How sure a pick of the largest logit is; false: look at the whole row.
    bool sure_of(int row, const picking::Peak & peak, bool with_other, picking::Sure & sure);

    // The next token of a text, of which `recent` are the last `count` of `position` tokens, and how sure it is where
    // `judges` asks for that (see twd_rows_choose). ASK: look at the whole row.
    int choose(int row, const twd_rule & rule, const int32_t * recent, int count, int position, int judges,
               picking::Sure & sure);

    // Whether other choices than the largest look at blocks first, and not at the whole row.
    void use_blocks(bool wanted) { uses_blocks_ = wanted; }

    // How many numbers came home for the last choice, besides what comes home with each pass.
    size_t fetched() const { return fetched_; }

    // A whole row, which comes home now; it stays valid until the next pass. nullptr: there is no such row.
    const float * logits(int row);

    // Called while llama.cpp builds a graph.
    bool can_use(ggml_backend_buffer_type_t type);
    void forget_graph();
    void add_to(ggml_context * context, ggml_cgraph * graph, ggml_tensor * logits);

  private:
    struct Row; // for a choice from some of its blocks
    struct Home {
        ggml_backend_buffer_t buffer = nullptr;
        std::vector<float> plain; // where there is no such buffer
        bool is_filled = false;
    };

    Rows(llama_context * context, int sequences, Place place);
    bool fetch_found();
    void fetch_part(int row, int block);
    bool read_blocks(int row, const int * blocks, int count, float * memory);
    ggml_backend_t reader();
    float * memory_of(int row);
    const float * all_logits();
    picking::Peak next_best(int row, const picking::Peak & peak);

    llama_context * context_;
    Place place_;
    bool is_able_ = false;
    bool is_found_ = false; // what the last pass found is here
    bool are_all_here_ = false; // and all of its logits
    int size_;              // of the vocabulary
    int length_;            // of a block
    int blocks_;            // of a row
    int outputs_ = 0;
    int peaked_ = 0;  // so many rows have peaks
    int weighed_ = 0; // and so many chances
    ggml_tensor * logits_ = nullptr;
    ggml_tensor * found_ = nullptr;
    std::vector<float> here_; // peaks and sums of blocks, the best block of each row, and sums of exponentials
    std::vector<float> part_; // the block that was looked at last
    std::vector<float> all_;
    std::vector<Home> homes_;
    std::unique_ptr<picking::BlockPicker> picker_;
    size_t fetched_ = 0;
    bool uses_blocks_ = true;
    int near_ = -1; // the block of a row that peak() has left in part_
    bool has_reader_ = false;
    ggml_backend_t reader_ = nullptr; // it asks for several blocks before the first of them is there
    std::vector<llama_sampler *> chains_;
};

} // namespace device_rows
