// Stands in front of operations of llama.cpp that believe the numbers they are given: which state a scan is to read, and
// that what is sorted has an order. Values that are no numbers (NaN) have none, and std::sort then leaves its row.

#include "ggml-cpu-impl.h"
#include "graph_rules.h"
#include "ops.h"

#include <algorithm>
#include <cmath>

extern "C" {
void ggml_compute_forward_ssm_scan_of_llama(const ggml_compute_params * params, ggml_tensor * dst);
void ggml_compute_forward_argsort_of_llama(const ggml_compute_params * params, ggml_tensor * dst);
void ggml_compute_forward_top_k_of_llama(const ggml_compute_params * params, ggml_tensor * dst);
}

namespace {

// The larger first, NaN last.
struct Larger {
    const float * row;
    bool operator()(int32_t a, int32_t b) const { return row[a] > row[b] || (std::isnan(row[b]) && !std::isnan(row[a])); }
};

// The smaller first, NaN last.
struct Smaller {
    const float * row;
    bool operator()(int32_t a, int32_t b) const { return row[a] < row[b] || (std::isnan(row[b]) && !std::isnan(row[a])); }
};

const float * row_of(const ggml_tensor * of, int64_t number) {
    return (const float *) ((const char *) of->data + number * of->nb[1]);
}

bool has_an_order(const ggml_tensor * of) {
    for (int64_t i = 0; i < ggml_nrows(of); ++i) {
        const float * row = row_of(of, i);
        if (std::any_of(row, row + of->ne[0], [](float value) { return std::isnan(value); })) {
            return false;
        }
    }
    return true;
}

void number_through(int32_t * places, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        places[i] = int32_t(i);
    }
}

int32_t * places_of(ggml_tensor * dst, int64_t number) { return (int32_t *) ((char *) dst->data + number * dst->nb[1]); }

// llama.cpp's sorts, too, take each row to be `nb[1]` behind the one before.
void check_rows(const ggml_tensor * of) {
    GGML_ASSERT(of->type == GGML_TYPE_F32 && of->nb[0] == sizeof(float));
    GGML_ASSERT(twd::rows_are_even(of));
}

} // namespace

extern "C" void ggml_compute_forward_ssm_scan(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor *states = dst->src[0], *chosen = dst->src[6];
    for (int64_t i = 0; i < chosen->ne[0]; ++i) {
        const int32_t number = *(const int32_t *) ((const char *) chosen->data + i * chosen->nb[0]);
        GGML_ASSERT(number >= 0 && number < states->ne[3]);
    }
    ggml_compute_forward_ssm_scan_of_llama(params, dst);
}

extern "C" void ggml_compute_forward_argsort(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * from = dst->src[0];
    check_rows(from);
    if (has_an_order(from)) {
        ggml_compute_forward_argsort_of_llama(params, dst);
        return;
    }
    const bool larger = ggml_get_op_params_i32(dst, 0) == GGML_SORT_ORDER_DESC;
    for (int64_t i = params->ith; i < ggml_nrows(from); i += params->nth) {
        int32_t * places = places_of(dst, i);
        number_through(places, from->ne[0]);
        if (larger) {
            std::sort(places, places + from->ne[0], Larger{row_of(from, i)});
        } else {
            std::sort(places, places + from->ne[0], Smaller{row_of(from, i)});
        }
    }
}

extern "C" void ggml_compute_forward_top_k(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * from = dst->src[0];
    check_rows(from);
    if (has_an_order(from)) {
        ggml_compute_forward_top_k_of_llama(params, dst);
        return;
    }
    int32_t * room = (int32_t *) params->wdata + (from->ne[0] + CACHE_LINE_SIZE_F32) * params->ith;
    for (int64_t i = params->ith; i < ggml_nrows(from); i += params->nth) {
        number_through(room, from->ne[0]);
        std::partial_sort(room, room + dst->ne[0], room + from->ne[0], Larger{row_of(from, i)});
        std::copy(room, room + dst->ne[0], places_of(dst, i));
    }
}
