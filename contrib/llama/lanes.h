// Vectors of floats, sixteen or eight at a time, whatever the processor has; and how the threads of an operation share
// its work. Where FEW_ROWS_FLOATS is not defined, there are none.
#pragma once

#include "ggml-backend.h"
#include "ggml-cpu-impl.h"
#include "ggml.h"

#include <algorithm>
#include <cstdint>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && (!defined(__AVX512F__) || defined(__AVX512DQ__))
#include <immintrin.h>
#define FEW_ROWS_FLOATS
#endif

namespace {

// Whether the elements of each row of a tensor follow one another, and rows begin where an element may.
inline bool strides_fit(const ggml_tensor * of) {
    const size_t element = ggml_type_size(of->type);
    return of->nb[0] == element && of->nb[1] % element == 0 && of->nb[2] % element == 0 && of->nb[3] % element == 0;
}

// Calls work(number) for all numbers below count, on all threads of the operation, each where one is free.
template <class Work>
inline void share(const ggml_compute_params * params, int64_t count, const Work & work) {
    if (params->nth > 1) {
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
    }
    for (int64_t number = params->ith; number < count;) {
        work(number);
        number = params->nth > 1 ? ggml_threadpool_chunk_add(params->threadpool, 1) : number + 1;
    }
    if (params->nth > 1) {
        ggml_barrier(params->threadpool); // a next call for the same operation counts anew
    }
}

#if defined(FEW_ROWS_FLOATS)

typedef ggml_fp16_t half;

inline float fold(__m256 sums) {
    __m128 x = _mm_add_ps(_mm256_extractf128_ps(sums, 1), _mm256_castps256_ps128(sums));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

#if defined(__AVX512F__)
typedef __m512 floats;
constexpr int LANES = 16;

inline floats load(const float * at) { return _mm512_loadu_ps(at); }
inline floats load(const half * at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) at)); }
inline floats load(const ggml_bf16_t * at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) at)), 16));
}
inline void store(float * at, floats values) { _mm512_storeu_ps(at, values); }
inline floats all(float value) { return _mm512_set1_ps(value); }
inline floats madd(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
inline floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
inline floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
inline floats sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
inline floats larger(floats a, floats b) { return _mm512_max_ps(a, b); }
inline float largest(floats values) { return _mm512_reduce_max_ps(values); }

// Sums of two vectors; where the first one has this value, it stays.
inline floats add_unless(float value, floats a, floats b) {
    return _mm512_mask_add_ps(a, _mm512_cmp_ps_mask(a, all(value), _CMP_NEQ_UQ), b, a);
}

// A bit for each number that is zero.
inline uint32_t zeros(floats values) { return _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_EQ_OQ); }
inline float fold(floats sums) { return _mm512_reduce_add_ps(sums); }

// The halves of two vectors added up, side by side; then the same of quarters, of eighths, of neighbours. That is the
// order of `fold`.
inline floats halves_of(floats a, floats b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
inline floats quarters_of(floats a, floats b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}
inline floats eighths_of(floats a, floats b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}
inline floats neighbours_of(floats a, floats b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

// Four vectors folded to a quarter of one: its first four numbers are sums of the first vector, to be added up further.
inline floats four_quarters_of(floats a, floats b, floats c, floats d) {
    return quarters_of(halves_of(a, b), halves_of(c, d));
}

// Four such, folded to the end: each quarter has a number of each.
inline floats folded_quarters(floats a, floats b, floats c, floats d) {
    return neighbours_of(eighths_of(a, b), eighths_of(c, d));
}

template <int QUARTER>
inline __m128 quarter_of(floats of) {
    return _mm512_extractf32x4_ps(of, QUARTER);
}

// The quarters of a vector, each to its place.
inline void put_quarters(floats of, float * first, float * second, float * third, float * fourth) {
    _mm_storeu_ps(first, quarter_of<0>(of));
    _mm_storeu_ps(second, quarter_of<1>(of));
    _mm_storeu_ps(third, quarter_of<2>(of));
    _mm_storeu_ps(fourth, quarter_of<3>(of));
}

// Each of sixteen vectors folded to one number.
inline floats fold_each(const floats (&of)[LANES]) {
    floats halves[8], quarters[4], eighths[2];
    for (int i = 0; i < 8; ++i) {
        halves[i] = _mm512_add_ps(_mm512_unpacklo_ps(of[2 * i], of[2 * i + 1]), _mm512_unpackhi_ps(of[2 * i], of[2 * i + 1]));
    }
    for (int i = 0; i < 4; ++i) {
        const floats one = halves[2 * i], other = halves[2 * i + 1];
        quarters[i] = _mm512_add_ps(_mm512_shuffle_ps(one, other, 0x44), _mm512_shuffle_ps(one, other, 0xEE));
    }
    for (int i = 0; i < 2; ++i) {
        const floats one = quarters[2 * i], other = quarters[2 * i + 1];
        eighths[i] = _mm512_add_ps(_mm512_shuffle_f32x4(one, other, 0x88), _mm512_shuffle_f32x4(one, other, 0xDD));
    }
    return _mm512_add_ps(_mm512_shuffle_f32x4(eighths[0], eighths[1], 0x88),
                         _mm512_shuffle_f32x4(eighths[0], eighths[1], 0xDD));
}
#else
typedef __m256 floats;
constexpr int LANES = 8;

inline floats load(const float * at) { return _mm256_loadu_ps(at); }
inline floats load(const half * at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) at)); }
inline floats load(const ggml_bf16_t * at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) at)), 16));
}
inline void store(float * at, floats values) { _mm256_storeu_ps(at, values); }
inline floats all(float value) { return _mm256_set1_ps(value); }
inline floats madd(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
inline floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
inline floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
inline floats sub(floats a, floats b) { return _mm256_sub_ps(a, b); }
inline floats larger(floats a, floats b) { return _mm256_max_ps(a, b); }
inline floats add_unless(float value, floats a, floats b) {
    return _mm256_blendv_ps(add(b, a), a, _mm256_cmp_ps(a, all(value), _CMP_EQ_OQ));
}
inline uint32_t zeros(floats values) {
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_setzero_ps(), _CMP_EQ_OQ)));
}
inline float largest(floats values) {
    __m128 x = _mm_max_ps(_mm256_extractf128_ps(values, 1), _mm256_castps256_ps128(values));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

// Each of eight vectors folded to one number.
inline floats fold_each(const floats (&of)[LANES]) {
    const floats low = _mm256_hadd_ps(_mm256_hadd_ps(of[0], of[1]), _mm256_hadd_ps(of[2], of[3]));
    const floats high = _mm256_hadd_ps(_mm256_hadd_ps(of[4], of[5]), _mm256_hadd_ps(of[6], of[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}
#endif

#endif // FEW_ROWS_FLOATS

} // namespace
