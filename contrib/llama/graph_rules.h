// What each operation asks of its tensors.
#pragma once

#include "ggml.h"

namespace twd {

struct Refused {
    const char * why;
    explicit Refused(const char * why) : why(why) {}
};

// Whether a node only gives another shape to memory.
bool computes_nothing(ggml_op op);

// Whether it sorts its inputs.
bool sorts(ggml_op op);

// Whether each row lies `nb[1]` behind the one before, over all dimensions.
inline bool rows_are_even(const ggml_tensor * of) {
    return (of->ne[2] == 1 || of->nb[2] == of->nb[1] * size_t(of->ne[1])) &&
           (of->ne[3] == 1 || of->nb[3] == of->nb[2] * size_t(of->ne[2]));
}

// Throws `Refused`, or stops at one of ggml's assertions, unless the node's inputs fit its operation and its result has
// the shape that follows. The context must have room for some tensors, without their data.
void check_operation(ggml_context * context, const ggml_tensor * node);

} // namespace twd
