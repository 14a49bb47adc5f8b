// Products of blocks of 32 whole numbers and one scale.
//
// Where the processor has the instructions, it multiplies bytes without a sign by bytes with one and sums up four products
// at a time. So weights are taken with an OFFSET that makes them positive, and what that adds is taken away again, known
// beforehand from the inputs. Elsewhere the larger ones move their signs over to the inputs.
#pragma once

#include "rows.h"

#include <cstddef>
#include <cstring>

#if defined(FEW_ROWS_FLOATS)

namespace {

constexpr int64_t BLOCK = 32;

struct block_q8 {
    half scale;
    int8_t values[BLOCK];
};
static_assert(sizeof(block_q8) == 34, "blocks lie one after the other");

struct block_q4 {
    half scale;
    uint8_t values[BLOCK / 2]; // the low halves of the bytes come first, then the high ones
};
static_assert(sizeof(block_q4) == 18, "blocks lie one after the other");

struct block_n4 : block_q4 {}; // the same, but the halves of the bytes are places in a table ("IQ4_NL")

struct block_q5 {
    half scale;
    uint8_t fifth[BLOCK / 8]; // the highest bit of each
    uint8_t values[BLOCK / 2];
};
static_assert(sizeof(block_q5) == 22, "blocks lie one after the other");

// The offset that makes every value of a type of block positive.
template <class Block> constexpr int OFFSET = 0;
template <> constexpr int OFFSET<block_q8> = 128;
template <> constexpr int OFFSET<block_q4> = 8; // that is how these are stored
template <> constexpr int OFFSET<block_n4> = 128;
template <> constexpr int OFFSET<block_q5> = 16;

// A block of inputs, ready for use.
struct Input {
    int8_t values[BLOCK];
    int32_t surplus[BLOCK / 4]; // what the offset adds, with the sign turned
    float scale;
};

#if defined(TWO_ROWS_A_VECTOR)
constexpr int WIDE = 8; // rows of inputs in one go

struct Weights {
    bytes values;
};

inline Weights weights(const block_q8 * const * rows, int64_t at) {
    const bytes both = each_row(rows, at, offsetof(block_q8, values));
    return {_mm512_xor_si512(both, _mm512_set1_epi8(-128))}; // the same as adding 128
}

inline Weights weights(const block_q4 * const * rows, int64_t at) {
    return {each_half(rows, at, offsetof(block_q4, values))};
}

inline Weights weights(const block_n4 * const * rows, int64_t at) {
    const __m128i table = _mm_xor_si128(table_of_four_bits(), _mm_set1_epi8(-128));
    return {looked_up(table, each_half(rows, at, offsetof(block_n4, values)))};
}

inline Weights weights(const block_q5 * const * rows, int64_t at) {
    uint32_t fifth[PER];
    std::memcpy(&fifth[0], rows[0][at].fifth, sizeof(uint32_t));
    std::memcpy(&fifth[1], rows[1][at].fifth, sizeof(uint32_t));
    const bytes high = _mm512_maskz_set1_epi8(uint64_t(fifth[1]) << 32 | fifth[0], 16);
    return {either(each_half(rows, at, offsetof(block_q5, values)), high)};
}

template <class Block>
inline sums_of_rows dots(const Weights & of, const Input & input) {
    return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(every_row(input.surplus), of.values, every_row(input.values)));
}
#else
constexpr int WIDE = 4;

struct Weights {
    bytes values, signs;
};

inline Weights weights(const block_q8 * const * rows, int64_t at) {
    const bytes values = held(each_row(rows, at, offsetof(block_q8, values)));
    return {held(_mm256_abs_epi8(values)), values};
}

inline Weights weights(const block_q4 * const * rows, int64_t at) {
    const bytes values = each_half(rows, at, offsetof(block_q4, values));
    return {values, values};
}

inline Weights weights(const block_n4 * const * rows, int64_t at) {
    const bytes values = looked_up(table_of_four_bits(), each_half(rows, at, offsetof(block_n4, values)));
    return {_mm256_abs_epi8(values), values};
}

inline Weights weights(const block_q5 * const * rows, int64_t at) {
    uint32_t fifth;
    std::memcpy(&fifth, rows[0][at].fifth, sizeof(fifth));
    const bytes spread = _mm256_shuffle_epi8(_mm256_set1_epi32(int(fifth)),
                                             _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, //
                                                               0x0101010101010101, 0));
    const bytes bit = _mm256_set1_epi64x(int64_t(0x8040201008040201));
    const bytes high = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8(16));
    const bytes values = either(each_half(rows, at, offsetof(block_q5, values)), high);
    return {values, values};
}

inline bytes sums_of_four(bytes positive, bytes others) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(positive, others), _mm256_set1_epi16(1));
}

template <class Block>
inline sums_of_rows dots(const Weights & of, const Input & input) {
    const bytes b = every_row(input.values);
    if constexpr (OFFSET<Block> == OFFSET<block_q8>) {
        return _mm256_cvtepi32_ps(sums_of_four(of.values, _mm256_sign_epi8(b, of.signs)));
    }
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sums_of_four(of.values, b), every_row(input.surplus)));
}
#endif

template <class Block>
struct ProductOfBlocks {
    const Block * A;
    int64_t lda;
    const Input * B; // n rows of k blocks
    float * const * C;
    int64_t n, k;
    int64_t last; // the last row of weights; it stands in for those that a vector has room for, and that there are not

    // VECTORS vectors of rows of weights with RN rows of inputs.
    template <int VECTORS, int RN, bool FIRST>
    inline void tile(int64_t i, int64_t j) const {
        constexpr int ROWS = VECTORS * PER;
        const Block * a_row[ROWS];
        const Input * b_row[RN];
        for (int r = 0; r < ROWS; ++r) {
            a_row[r] = A + lda * std::min(i + r, last);
        }
        for (int c = 0; c < RN; ++c) {
            b_row[c] = B + k * (j + c);
        }
        const char * next = (const char *) a_row[0] + ahead_of(lda * ROWS * int64_t(sizeof(Block)));
        sums_of_rows sums[RN][VECTORS];
        for (int c = 0; c < RN; ++c) {
            for (int v = 0; v < VECTORS; ++v) {
                sums[c][v] = zero();
            }
        }
        for (int64_t at = 0; at < k; ++at) {
            if (FIRST) {
                next = asked_for<ROWS * sizeof(Block)>(next);
            }
            Weights a[VECTORS];
            sums_of_rows scale[VECTORS];
            for (int v = 0; v < VECTORS; ++v) {
                a[v] = weights(a_row + v * PER, at);
                scale[v] = held(scales(a_row + v * PER, at));
            }
            for (int c = 0; c < RN; ++c) {
                const Input & input = b_row[c][at];
                const sums_of_rows input_scale = held(every_float(input.scale));
                for (int v = 0; v < VECTORS; ++v) {
                    sums[c][v] = scaled(scale[v], input_scale, dots<Block>(a[v], input), sums[c][v]);
                }
            }
        }
#if defined(TWO_ROWS_A_VECTOR)
        if constexpr (VECTORS == 2) {
            put_rows<0>(sums, C, i, j);
            return;
        }
#endif
        for (int c = 0; c < RN; ++c) {
            for (int v = 0; v < VECTORS; ++v) {
                put(sums[c][v], C[j + c] + i + v * PER, last + 1 - i - v * PER);
            }
        }
    }
};

inline const Input * prepared(const Rows & rows, int64_t k, int offset) {
    Input * room = room_for<Input>(rows.count * k);
    for (int64_t j = 0; j < rows.count; ++j) {
        for (int64_t at = 0; at < k; ++at) {
            const block_q8 & block = ((const block_q8 *) rows.inputs[j])[at];
            Input & input = room[j * k + at];
            const __m256i values = _mm256_loadu_si256((const __m256i *) block.values);
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), values);
            const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(short(-offset)));
            _mm256_storeu_si256((__m256i *) input.values, values);
            _mm256_storeu_si256((__m256i *) input.surplus, fours);
            input.scale = _cvtsh_ss(block.scale);
        }
    }
    return room;
}

template <class Block, class Share>
void multiply_blocks(const Share & share_rows, int64_t m, int64_t k, const void * A, int64_t lda, const Rows & rows) {
    const Input * inputs = prepared(rows, k, OFFSET<Block>);
    const ProductOfBlocks<Block> of{(const Block *) A, lda, inputs, rows.results, rows.count, k, m - 1};
    in_strips<WIDE>(share_rows, m, lda * int64_t(sizeof(Block)), of);
}

} // namespace

#endif // FEW_ROWS_FLOATS
