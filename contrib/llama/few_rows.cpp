// Matrix products for llama.cpp's CPU backend, made for few rows: what a step of one token or a window of guesses asks.
//
// ggml asks `llamafile_sgemm` first, and before it, for some types, kernels that it calls "tiled". The build gives
// llama.cpp's own functions other names (see kernels.cmake), so that those here answer, and hand on what they have no
// kernel for. Two things differ from llama.cpp:
//
// * One row goes the same way as many. llama.cpp has another kernel for one row of floats, which sums up in another
//   order, so that a single step and a window disagree in their last bits, and one for eight rows and more of K quants.
//   Here each result is summed up in one order, whatever its neighbours: that of one of llama.cpp's kernels, mostly (see
//   the README).
// * Weights come as fast as memory gives them: they are asked for some rows ahead, and read once for many rows.

#include "blocks.h"
#include "floats.h"
#include "super_products.h"

#include <tuple>
#include <utility>

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
bool ggml_compute_forward_mul_mat_id_tiled_of_llama(const struct ggml_compute_params * params, struct ggml_tensor * dst,
                                                    int64_t expert, int64_t count, const int32_t * places, char * scratch);
bool ggml_compute_forward_mul_mat_id_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst,
                                           int64_t expert, int64_t count, const int32_t * places, char * scratch);
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

// Whether the rows of a tensor do not overlap: the kernels here ask for weights some rows ahead.
bool rows_apart(const struct ggml_tensor * of) {
    return int64_t(of->nb[1]) >= int64_t(ggml_row_size(of->type, of->ne[0]));
}

// Stops at a product that no kernel could compute without reading or writing outside of its tensors. The graph may come
// from another machine, which tells the shapes; ggml looks at them only after it has asked us.
[[maybe_unused]] void require_layout(const struct ggml_tensor * dst) {
    const struct ggml_tensor * weights = dst->src[0];
    const struct ggml_tensor * inputs = dst->src[1];
    GGML_ASSERT(weights != nullptr && inputs != nullptr && dst->type == GGML_TYPE_F32);
    GGML_ASSERT(weights->ne[0] == inputs->ne[0] && dst->ne[0] == weights->ne[1] && dst->ne[2] == inputs->ne[2]);
    GGML_ASSERT(strides_fit(weights) && strides_fit(inputs) && strides_fit(dst));
    GGML_ASSERT(ggml_blck_size(weights->type) > 0 && weights->ne[0] % ggml_blck_size(weights->type) == 0);
    GGML_ASSERT(dst->nb[0] <= dst->nb[1] && dst->nb[1] <= dst->nb[2] && dst->nb[2] <= dst->nb[3]);
}

// The same for one matrix, or one for each of several batches.
[[maybe_unused]] void require_product(const struct ggml_tensor * dst) {
    require_layout(dst);
    const int64_t * weights = dst->src[0]->ne;
    const int64_t * inputs = dst->src[1]->ne;
    GGML_ASSERT(dst->ne[1] == inputs[1] && dst->ne[3] == inputs[3]);
    GGML_ASSERT(weights[2] > 0 && weights[3] > 0 && inputs[2] % weights[2] == 0 && inputs[3] % weights[3] == 0);
}

// The same for one of several experts, chosen by the rows of inputs.
[[maybe_unused]] void require_expert_product(const struct ggml_tensor * dst, int64_t expert) {
    require_layout(dst);
    const struct ggml_tensor * chosen = dst->src[2];
    const int64_t * inputs = dst->src[1]->ne;
    GGML_ASSERT(chosen != nullptr && chosen->type == GGML_TYPE_I32 && expert >= 0 && expert < dst->src[0]->ne[2]);
    GGML_ASSERT(dst->ne[1] == chosen->ne[0] && inputs[2] == chosen->ne[1] && inputs[1] > 0 && inputs[3] == 1);
}

// Where a row of inputs lies, and where its results go.
using Placed = std::pair<const void *, float *>;

// m rows of weights, each `k` blocks long and `lda` after the one before, with rows of inputs.
template <class Share>
void multiply(int type, const Share & share_rows, int64_t m, int64_t k, const void * A, int64_t lda, const Rows & rows) {
    switch (type) {
        case GGML_TYPE_F32: return multiply_floats<float>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_F16: return multiply_floats<half>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_BF16: return multiply_floats<ggml_bf16_t>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q8_0: return multiply_blocks<block_q8>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q5_0: return multiply_blocks<block_q5>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q4_0: return multiply_blocks<block_q4>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_IQ4_NL: return multiply_blocks<block_n4>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q2_K: return multiply_super<block_k2>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q3_K: return multiply_super<block_k3>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q4_K: return multiply_super<block_k4>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q5_K: return multiply_super<block_k5>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_Q6_K: return multiply_super<block_k6>(share_rows, m, k, A, lda, rows);
        case GGML_TYPE_IQ4_XS: return multiply_super<block_x4>(share_rows, m, k, A, lda, rows);
        default: GGML_ABORT("no kernel for weights of type %d", type);
    }
}

// The same for any number of rows of inputs: place(row) tells where one lies and where its results go.
template <class Share, class Place>
void multiply_many(int type, const Share & share_rows, int64_t m, int64_t k, const void * A, int64_t lda,
                   int64_t count, const Place & place) {
    for (int64_t first = 0; first < count; first += AT_ONCE) {
        Rows rows;
        rows.count = std::min(AT_ONCE, count - first);
        for (int64_t row = 0; row < rows.count; ++row) {
            std::tie(rows.inputs[row], rows.results[row]) = place(first + row);
        }
        multiply(type, share_rows, m, k, A, lda, rows);
    }
}

// A whole product whose inputs lie anywhere.
[[maybe_unused]] void multiply_scattered(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
    const struct ggml_tensor * weights = dst->src[0];
    const struct ggml_tensor * inputs = dst->src[1];
    const int64_t blocks = weights->ne[0] / ggml_blck_size(weights->type);
    const int64_t after = weights->nb[1] / ggml_type_size(weights->type);
    const int64_t each2 = inputs->ne[2] / weights->ne[2], each3 = inputs->ne[3] / weights->ne[3];
    for (int64_t i3 = 0; i3 < inputs->ne[3]; ++i3) {
        for (int64_t i2 = 0; i2 < inputs->ne[2]; ++i2) {
            const char * matrix = (const char *) weights->data + i2 / each2 * weights->nb[2] + i3 / each3 * weights->nb[3];
            const char * from = (const char *) inputs->data + i2 * inputs->nb[2] + i3 * inputs->nb[3];
            char * to = (char *) dst->data + i2 * dst->nb[2] + i3 * dst->nb[3];
            const auto place = [&](int64_t row) {
                return Placed{from + row * inputs->nb[1], (float *) (to + row * dst->nb[1])};
            };
            multiply_many(weights->type, TakeTurns{params}, weights->ne[1], blocks, matrix, after, inputs->ne[1], place);
        }
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

// m rows of weights, n of inputs and of results, all k blocks long and so many blocks after one another.
bool llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A,
                     int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int a_type, int b_type,
                     int c_type) {
#if defined(FEW_ROWS_FLOATS)
    const bool sound = m >= 1 && n >= 1 && k >= 1 && lda >= k && c_type == GGML_TYPE_F32 && b_type == inputs_for(a_type);
    const bool as_good = a_type == GGML_TYPE_F32 && n > AT_ONCE; // llama.cpp's own
    if (sound && !as_good && twd_few_rows(a_type, k * ggml_blck_size(ggml_type(a_type)), m)) {
        const int64_t input_bytes = ldb * int64_t(ggml_type_size(ggml_type(b_type)));
        const auto place = [&](int64_t row) {
            return Placed{(const char *) B + row * input_bytes, (float *) C + row * ldc};
        };
        multiply_many(a_type, TakeTurns{params}, m, k, A, lda, n, place);
        return true;
    }
#endif
    return llamafile_sgemm_of_llama(params, m, n, k, A, lda, B, ldb, C, ldc, a_type, b_type, c_type);
}

#if defined(TWD_TILED)
// Those that we have go our way, whether one row or many. ggml asks llamafile_sgemm for inputs that lie one after the
// other, and whether they do may depend on how many there are: a single one always does.
bool ggml_compute_forward_mul_mat_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
#if defined(FEW_ROWS_FLOATS)
    require_product(dst);
    const struct ggml_tensor * weights = dst->src[0];
    const struct ggml_tensor * inputs = dst->src[1];
    if (twd_few_rows(weights->type, weights->ne[0], weights->ne[1])) {
        const bool scattered = inputs->type == inputs_for(weights->type) && !ggml_is_contiguous(inputs) &&
                               rows_apart(weights);
        if (scattered) {
            multiply_scattered(params, dst);
        }
        return scattered;
    }
#endif
    return ggml_compute_forward_mul_mat_tiled_of_llama(params, dst);
}

// The rows that one expert was chosen for: `places` are pairs of a row's choice and its number.
bool ggml_compute_forward_mul_mat_id_tiled(const struct ggml_compute_params * params, struct ggml_tensor * dst,
                                           int64_t expert, int64_t count, const int32_t * places, char * scratch) {
#if defined(FEW_ROWS_FLOATS)
    require_expert_product(dst, expert);
    const struct ggml_tensor * weights = dst->src[0];
    const struct ggml_tensor * inputs = dst->src[1];
    const ggml_type wanted = inputs_for(weights->type);
    const bool converted = inputs->type != wanted; // then ggml has put them, converted, one after the other
    const bool free = weights->extra == nullptr && !params->use_ref && rows_apart(weights);
    if (free && twd_few_rows(weights->type, weights->ne[0], weights->ne[1])) {
        const char * from = (const char *) (converted ? params->wdata : inputs->data);
        const int64_t input_bytes = converted ? ggml_row_size(wanted, weights->ne[0]) : inputs->nb[1];
        const int64_t number_bytes = converted ? inputs->ne[1] * input_bytes : inputs->nb[2];
        const void * matrix = (const char *) weights->data + expert * weights->nb[2];
        const int64_t blocks = weights->ne[0] / ggml_blck_size(weights->type);
        const int64_t after = weights->nb[1] / ggml_type_size(weights->type);
        const auto place = [&](int64_t row) {
            const int64_t choice = places[2 * row], number = places[2 * row + 1];
            return Placed{from + choice % inputs->ne[1] * input_bytes + number * number_bytes,
                          (float *) ((char *) dst->data + choice * dst->nb[1] + number * dst->nb[2])};
        };
        multiply_many(weights->type, OnePartEach{params}, weights->ne[1], blocks, matrix, after, count, place);
        return true;
    }
#endif
    return ggml_compute_forward_mul_mat_id_tiled_of_llama(params, dst, expert, count, places, scratch);
}
#endif
