// The logits of a pass stay on the device that computed them. What a choice needs comes home: the largest of each block
// of a row, and blocks or whole rows only where they are asked for.

#pragma once

#include "picking.h"

#include "ggml-backend.h"
#include "llama.h"

#include <memory>
#include <vector>

namespace device_rows {

class Rows {
  public:
    // Nothing if the device that computes the logits cannot do it, or if that is a processor and not `anywhere`.
    static std::unique_ptr<Rows> open(llama_context * context, int sequences, bool anywhere);
    ~Rows();
    Rows(const Rows &) = delete;

    // A pass with so many outputs was computed. False: its logits are not where they should be.
    bool begin(int outputs);

    // The largest logit of a row and its first place. ASK: look at the whole row.
    picking::Peak peak(int row);

    // How sure a pick of the largest logit is; false: look at the whole row.
    bool sure_of(int row, const picking::Peak & peak, bool with_other, picking::Sure & sure);

    // A whole row, which comes home now; it stays valid until the next pass. nullptr: there is no such row.
    const float * logits(int row);

    // Called while llama.cpp builds a graph.
    bool can_use(ggml_backend_buffer_type_t type);
    void forget_graph();
    void add_to(ggml_context * context, ggml_cgraph * graph, ggml_tensor * logits);

  private:
    struct Home {
        ggml_backend_buffer_t buffer = nullptr;
        std::vector<float> plain; // where there is no such buffer
        bool is_filled = false;
    };

    Rows(llama_context * context, int sequences, bool anywhere);
    bool fetch_found();
    const float * part(int row, int block);
    float * memory_of(int row);
    picking::Peak next_best(int row, const picking::Peak & peak);

    llama_context * context_;
    bool anywhere_;
    bool is_able_ = false;
    bool is_found_ = false; // what the last pass found is here
    int size_;              // of the vocabulary
    int length_;            // of a block
    int blocks_;            // of a row
    int outputs_ = 0;
    int peaked_ = 0;  // so many rows have peaks
    int weighed_ = 0; // and so many chances
    ggml_tensor * logits_ = nullptr;
    ggml_tensor * found_ = nullptr;
    std::vector<float> here_; // peaks, sums, and sums of exponentials of blocks
    std::vector<float> part_;
    std::vector<Home> homes_;
    std::vector<llama_sampler *> chains_;
};

} // namespace device_rows
