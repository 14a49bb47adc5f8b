// Stands in front of llama.cpp's scan of recurrent states, which believes the numbers of the states that it is to read.

#include "ggml-cpu-impl.h"
#include "ops.h"

extern "C" void ggml_compute_forward_ssm_scan_of_llama(const ggml_compute_params * params, ggml_tensor * dst);

extern "C" void ggml_compute_forward_ssm_scan(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor *states = dst->src[0], *chosen = dst->src[6];
    for (int64_t i = 0; i < chosen->ne[0]; ++i) {
        const int32_t number = *(const int32_t *) ((const char *) chosen->data + i * chosen->nb[0]);
        GGML_ASSERT(number >= 0 && number < states->ne[3]);
    }
    ggml_compute_forward_ssm_scan_of_llama(params, dst);
}
