// Vectors of whole numbers: as many bytes, 32, of each of PER rows of weights, and as many times the same row of inputs.
#pragma once

#include "tiles.h"

#if defined(FEW_ROWS_FLOATS)

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define TWO_ROWS_A_VECTOR
#endif

namespace {

// What the types with a table ("IQ4") keep places in.
inline __m128i table_of_four_bits() {
    return _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
}

#if defined(TWO_ROWS_A_VECTOR)
typedef __m512i bytes;
typedef __m512 sums_of_rows; // eight for each
constexpr int PER = 2;

inline sums_of_rows zero() { return _mm512_setzero_ps(); }

// 32 bytes of the blocks `at` of the rows, so far into them.
template <class Block>
inline bytes each_row(const Block * const * rows, int64_t at, size_t offset) {
    const __m256i low = _mm256_loadu_si256((const __m256i *) ((const char *) (rows[0] + at) + offset));
    const __m256i high = _mm256_loadu_si256((const __m256i *) ((const char *) (rows[1] + at) + offset));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

inline bytes every_row(const void * of) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) of)); }

inline bytes none() { return _mm512_setzero_si512(); }
inline bytes bits(bytes of, int mask) { return _mm512_and_si512(of, _mm512_set1_epi8(char(mask))); }
inline bytes either(bytes a, bytes b) { return _mm512_or_si512(a, b); }
inline bytes less(bytes a, bytes b) { return _mm512_sub_epi8(a, b); }
inline bytes right(bytes of, int by) { return _mm512_srli_epi16(of, by); }
inline bytes left(bytes of, int by) { return _mm512_slli_epi16(of, by); }
inline bytes looked_up(__m128i table, bytes places) { return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), places); }

// The halves of sixteen bytes: the low ones, then the high ones.
template <class Block>
inline bytes each_half(const Block * const * rows, int64_t at, size_t offset) {
    const __m128i one = _mm_loadu_si128((const __m128i *) ((const char *) (rows[0] + at) + offset));
    const __m128i other = _mm_loadu_si128((const __m128i *) ((const char *) (rows[1] + at) + offset));
    const __m512i low = _mm512_castsi256_si512(_mm256_broadcastsi128_si256(one));
    const __m512i both = _mm512_inserti64x4(low, _mm256_broadcastsi128_si256(other), 1);
    const __m512i shifts = _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0, //
                                            0x0004000400040004, 0x0004000400040004, 0, 0);
    return bits(_mm512_srlv_epi16(both, shifts), 15);
}

// A number for each row.
inline sums_of_rows each_float(float one, float other) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_set1_ps(one)), _mm256_set1_ps(other), 1);
}

// The scales of the blocks `at` of the rows.
template <class Block>
inline sums_of_rows scales(const Block * const * rows, int64_t at) {
    return each_float(_cvtsh_ss(rows[0][at].scale), _cvtsh_ss(rows[1][at].scale));
}

inline sums_of_rows every_float(float value) { return _mm512_set1_ps(value); }

inline sums_of_rows scaled(sums_of_rows scale, sums_of_rows input_scale, sums_of_rows values, sums_of_rows sums) {
    return _mm512_fmadd_ps(_mm512_mul_ps(scale, input_scale), values, sums);
}

// The results of as many rows as there are.
inline void put(sums_of_rows sums, float * out, int64_t rows) {
    out[0] = fold(_mm512_castps512_ps256(sums));
    if (rows > 1) {
        out[1] = fold(_mm512_extractf32x8_ps(sums, 1));
    }
}

// The results of four rows, all of them there, with RN rows of inputs from FROM on. To fold those of four inputs together
// takes a fifth of the operations, and gives the same bits.
template <int FROM, int RN>
inline void put_rows(const sums_of_rows (&sums)[RN][2], float * const * C, int64_t i, int64_t j) {
    if constexpr (FROM + 1 < RN) {
        constexpr int b = FROM + 1, c = FROM + 2 < RN ? FROM + 2 : RN - 1, d = FROM + 3 < RN ? FROM + 3 : RN - 1;
        const floats columns = folded_quarters(quarters_of(sums[FROM][0], sums[FROM][1]), quarters_of(sums[b][0], sums[b][1]),
                                               quarters_of(sums[c][0], sums[c][1]), quarters_of(sums[d][0], sums[d][1]));
        const __m512i turned = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const floats folded = _mm512_permutexvar_ps(turned, columns); // the rows of each input together
        put_quarters(folded, C[j + FROM] + i, C[j + b] + i, C[j + c] + i, C[j + d] + i);
        if constexpr (FROM + 4 < RN) {
            put_rows<FROM + 4>(sums, C, i, j);
        }
    } else {
        put(sums[FROM][0], C[j + FROM] + i, 2);
        put(sums[FROM][1], C[j + FROM] + i + 2, 2);
    }
}
#else
typedef __m256i bytes;
typedef __m256 sums_of_rows;
constexpr int PER = 1;

inline sums_of_rows zero() { return _mm256_setzero_ps(); }

template <class Block>
inline bytes each_row(const Block * const * rows, int64_t at, size_t offset) {
    return _mm256_loadu_si256((const __m256i *) ((const char *) (rows[0] + at) + offset));
}

inline bytes every_row(const void * of) { return _mm256_loadu_si256((const __m256i *) of); }

inline bytes none() { return _mm256_setzero_si256(); }
inline bytes bits(bytes of, int mask) { return _mm256_and_si256(of, _mm256_set1_epi8(char(mask))); }
inline bytes either(bytes a, bytes b) { return _mm256_or_si256(a, b); }
inline bytes less(bytes a, bytes b) { return _mm256_sub_epi8(a, b); }
inline bytes right(bytes of, int by) { return _mm256_srli_epi16(of, by); }
inline bytes left(bytes of, int by) { return _mm256_slli_epi16(of, by); }
inline bytes looked_up(__m128i table, bytes places) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), places);
}

template <class Block>
inline bytes each_half(const Block * const * rows, int64_t at, size_t offset) {
    const __m128i low = _mm_loadu_si128((const __m128i *) ((const char *) (rows[0] + at) + offset));
    return bits(_mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_srli_epi16(low, 4), 1), 15);
}

template <class Block>
inline sums_of_rows scales(const Block * const * rows, int64_t at) {
    return _mm256_set1_ps(_cvtsh_ss(rows[0][at].scale));
}

inline sums_of_rows every_float(float value) { return _mm256_set1_ps(value); }

inline sums_of_rows scaled(sums_of_rows scale, sums_of_rows input_scale, sums_of_rows values, sums_of_rows sums) {
    return _mm256_fmadd_ps(_mm256_mul_ps(scale, input_scale), values, sums);
}

inline void put(sums_of_rows sums, float * out, int64_t) { out[0] = fold(sums); }
#endif

// All m rows of weights of a product, two vectors of them at a time while there are as many.
template <int MOST, class Share, class Product>
inline void in_strips(const Share & share_rows, int64_t m, int64_t row_bytes, const Product & of) {
    share_rows(m, row_bytes, [&](int64_t from, int64_t to) {
        int64_t i = from;
        for (; i + 2 * PER <= to; i += 2 * PER) {
            strip<2, MOST>(of, i);
        }
        for (; i < to; i += PER) {
            strip<1, MOST>(of, i);
        }
    });
}

} // namespace

#endif // FEW_ROWS_FLOATS
