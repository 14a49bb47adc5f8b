// Matrix products for llama.cpp's CPU backend, made for few rows: what a step of one token or a window of guesses asks.
//
// ggml asks `llamafile_sgemm` first. The build gives llama.cpp's own function another name (see kernels.cmake), so that
// this one answers, and hands on what it has no kernel for. Two things differ from llama.cpp:
//
// * One row goes the same way as many. llama.cpp has another kernel for one row of floats, which sums up in another
//   order, so that a single step and a window disagree in their last bits, and one for eight rows and more of K quants.
//   Here each result is summed up in one order, whatever its neighbours: that of one of llama.cpp's kernels, mostly (see
//   the README).
// * Weights come as fast as memory gives them: they are asked for some rows ahead, and read once for many rows.

#include "blocks.h"
#include "floats.h"
#include "super_products.h"

extern "C" {
bool llamafile_sgemm_of_llama(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                              const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc,
                              int a_type, int b_type, int c_type);
GGML_BACKEND_API bool llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                                      const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc,
                                      int a_type, int b_type, int c_type);
#if defined(TWD_TILED)
bool ggml_compute_forward_mul_mat_tiled_of_llama(const struct ggml_compute_params * params, struct ggml_tensor * dst);
bool ggml_compute_forward_mul_mat_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst);
#endif
// Whether this build has a kernel for weights of a type in rows of `columns`; then one row goes the same way as many.
GGML_BACKEND_API bool twd_few_rows(int type, int64_t columns, int64_t rows);
}

#if defined(FEW_ROWS_FLOATS)

namespace {

// The type of inputs that our kernel for a type of weights takes; GGML_TYPE_COUNT where there is none.
ggml_type inputs_for(int type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
            return ggml_type(type);
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_IQ4_NL:
            return GGML_TYPE_Q8_0;
        case GGML_TYPE_Q2_K:
        case GGML_TYPE_Q3_K:
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:
        case GGML_TYPE_Q6_K:
        case GGML_TYPE_IQ4_XS:
            return GGML_TYPE_Q8_K;
        default:
            return GGML_TYPE_COUNT;
    }
}

} // namespace

#endif

bool twd_few_rows(int type, int64_t columns, int64_t rows) {
    GGML_UNUSED(type);
    GGML_UNUSED(columns);
    GGML_UNUSED(rows);
#if defined(FEW_ROWS_FLOATS)
    switch (inputs_for(type)) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
            return columns % LANES == 0 && rows % 4 == 0; // llama.cpp's kernel for many rows has the same condition
        case GGML_TYPE_BF16:
            return columns % LANES == 0;
        case GGML_TYPE_Q8_0:
            return columns % BLOCK == 0;
        case GGML_TYPE_Q8_K:
            return columns % SUPER_BLOCK == 0;
        default:
            return false;
    }
#else
    return false;
#endif
}

#if defined(TWD_TILED)
// Before the other, ggml asks for this one, which takes K quants from eight rows on. Those that we have go our way.
bool ggml_compute_forward_mul_mat_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
    const struct ggml_tensor * weights = dst->src[0];
    return !twd_few_rows(weights->type, weights->ne[0], weights->ne[1]) &&
           ggml_compute_forward_mul_mat_tiled_of_llama(params, dst);
}
#endif

// k is the length of a row in blocks of its type; for floats, their number.
bool llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A,
                     int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int a_type, int b_type,
                     int c_type) {
#if defined(FEW_ROWS_FLOATS)
    const bool sound = m >= 1 && n >= 1 && c_type == GGML_TYPE_F32 && b_type == inputs_for(a_type);
    const bool even = sound && (a_type != b_type || a_type == GGML_TYPE_Q8_0 || twd_few_rows(a_type, k, m));
    switch (even ? a_type : GGML_TYPE_COUNT) {
        case GGML_TYPE_F32:
            if (n > AT_ONCE) {
                break; // llama.cpp's is as good
            }
            multiply<float>(params, m, {(const float *) A, lda, (const float *) B, ldb, (float *) C, ldc, n, k});
            return true;
        case GGML_TYPE_F16:
            multiply_halves<half>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_BF16:
            multiply_halves<ggml_bf16_t>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q8_0:
            multiply_all<block_q8>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q5_0:
            multiply_all<block_q5>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q4_0:
            multiply_all<block_q4>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_IQ4_NL:
            multiply_all<block_n4>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q2_K:
            multiply_super<block_k2>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q3_K:
            multiply_super<block_k3>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_IQ4_XS:
            multiply_super<block_x4>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q4_K:
            multiply_super<block_k4>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q5_K:
            multiply_super<block_k5>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        case GGML_TYPE_Q6_K:
            multiply_super<block_k6>(params, m, n, k, A, lda, B, ldb, C, ldc);
            return true;
        default:
            break;
    }
#endif
    return llamafile_sgemm_of_llama(params, m, n, k, A, lda, B, ldb, C, ldc, a_type, b_type, c_type);
}
