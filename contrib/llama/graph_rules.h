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

// Whether both have the same sizes and strides.
bool same_layout(const ggml_tensor * a, const ggml_tensor * b);

// Throws `Refused`, or stops at one of ggml's assertions, unless the node's inputs fit its operation and its result has
// the shape that follows. The context must have room for some tensors, without their data.
void check_operation(ggml_context * context, const ggml_tensor * node);

} // namespace twd
