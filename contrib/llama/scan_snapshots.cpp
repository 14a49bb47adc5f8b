// A scan of Mamba-1 that keeps the states after its last tokens, not only after the last one. llama.cpp's own function
// computes each token, so that the numbers are the same bit by bit.

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <algorithm>
#include <vector>

extern "C" {
void ggml_compute_forward_ssm_scan_of_llama(const ggml_compute_params * params, ggml_tensor * dst);
GGML_BACKEND_API void twd_scan_with_snapshots(ggml_tensor * dst, int ith, int nth, void * unused);
}

namespace {

// The part of a tensor that belongs to one token of one sequence. Dimension `tokens` counts tokens, the next one sequences.
ggml_tensor part_of(const ggml_tensor * whole, int tokens, int64_t token, int64_t sequence) {
    ggml_tensor part = *whole;
    part.ne[tokens] = part.ne[tokens + 1] = 1;
    part.data = (char *) whole->data + token * whole->nb[tokens] + sequence * whole->nb[tokens + 1];
    return part;
}

} // namespace

// The sources are those of a scan: states, x, dt, A, B, C, and the number of each sequence's state. Behind the outputs of all
// tokens there are as many states of each sequence as the result has room for, the latest one first.
extern "C" void twd_scan_with_snapshots(ggml_tensor * dst, int ith, int nth, void * /*unused*/) {
    const ggml_tensor *states = dst->src[0], *x = dst->src[1], *ids = dst->src[6];
    const int64_t heads = x->ne[1], width = x->ne[0] * heads, state = states->ne[0] * width;
    const int64_t tokens = x->ne[2], sequences = x->ne[3];
    const int64_t kept = (dst->ne[0] - width * tokens * sequences) / (state * sequences);
    // llama.cpp shares a scan between threads by heads.
    const int64_t share = (heads + nth - 1) / nth;
    const int64_t from = std::min(share * ith, heads) * x->ne[0], until = std::min(share * (ith + 1), heads) * x->ne[0];

    static thread_local std::vector<float> room; // what one token gives: its output, and the state after it
    room.resize(width + state);
    float * after = room.data() + width;
    int32_t first = 0;

    ggml_tensor one = *dst, of_state = *states, of_ids = *ids, A = *dst->src[3];
    of_state.ne[3] = of_ids.ne[0] = 1;
    of_ids.data = &first;
    one.ne[0] = width + state;
    one.data = room.data();
    one.op = GGML_OP_SSM_SCAN;
    ggml_set_op_params_i32(&one, 0, 1);
    ggml_compute_params params = {};
    params.ith = ith;
    params.nth = nth;

    for (int64_t sequence = 0; sequence < sequences; ++sequence) {
        const int32_t number = *(const int32_t *) ((const char *) ids->data + sequence * ids->nb[0]);
        GGML_ASSERT(number >= 0 && number < states->ne[3]);
        of_state.data = (char *) states->data + number * states->nb[3];
        for (int64_t token = 0; token < tokens; ++token) {
            ggml_tensor of_x = part_of(x, 2, token, sequence), dt = part_of(dst->src[2], 1, token, sequence);
            ggml_tensor B = part_of(dst->src[4], 2, token, sequence), C = part_of(dst->src[5], 2, token, sequence);
            ggml_tensor * sources[] = {&of_state, &of_x, &dt, &A, &B, &C, &of_ids};
            std::copy(std::begin(sources), std::end(sources), one.src);
            ggml_compute_forward_ssm_scan_of_llama(&params, &one);
            of_state.data = after;

            float * output = (float *) dst->data + (sequence * tokens + token) * width;
            std::copy(room.data() + from, room.data() + until, output + from);
            const int64_t later = tokens - 1 - token; // how many tokens follow
            if (later < kept) {
                float * snapshot = (float *) dst->data + width * tokens * sequences + (later * sequences + sequence) * state;
                std::copy(after + from * states->ne[0], after + until * states->ne[0], snapshot + from * states->ne[0]);
            }
        }
    }
}
