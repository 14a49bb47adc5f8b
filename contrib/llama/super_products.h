// Products of blocks of 256 whole numbers. All that is whole is summed up exactly; what is rounded is one sum a block, in
// the order of the blocks.
#pragma once

#include "super_blocks.h"

#if defined(FEW_ROWS_FLOATS)

namespace {

// A block of inputs, ready for use.
struct alignas(64) SuperInput {
    int8_t values[SUPER_BLOCK];
    int16_t half_groups[HALF_GROUPS]; // the sums of the values
    int16_t groups[GROUPS];
    float scale;
};

#if defined(TWO_ROWS_A_VECTOR)
constexpr int SUPER_WIDE = 8; // rows of inputs in one go

inline sums_of_rows as_floats(bytes of) { return _mm512_cvtepi32_ps(of); }

// Products of bytes in pairs; and what these add, by a scale for each.
inline bytes pairs_of(bytes positive, bytes others) { return _mm512_maddubs_epi16(positive, others); }
inline bytes add_scaled(bytes sums, bytes scale, bytes pairs) { return _mm512_dpwssd_epi32(sums, scale, pairs); }

// What the least values of groups take away: four sums a row.
inline least_sums no_least() { return _mm256_setzero_ps(); }
template <bool ADDED_UP>
inline least_sums add_least(least_sums sums, const Unpacked & of, const SuperInput & input) {
    const __m256i groups = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *) input.groups));
    __m256i products = _mm256_madd_epi16(of.of_groups, groups);
    if constexpr (ADDED_UP) {
        products = _mm256_add_epi32(products, _mm256_shuffle_epi32(products, 0x4E));
        products = _mm256_add_epi32(products, _mm256_shuffle_epi32(products, 0xB1));
    }
    const __m256 scale = _mm256_set_m128(_mm512_extractf32x4_ps(of.least_scale, 2), _mm512_castps512_ps128(of.least_scale));
    return _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(input.scale)), _mm256_cvtepi32_ps(products), sums);
}
inline __m128 least_of_row(least_sums sums, int row) {
    return row == 0 ? _mm256_castps256_ps128(sums) : _mm256_extractf128_ps(sums, 1);
}
#else
constexpr int SUPER_WIDE = 4;

inline sums_of_rows as_floats(bytes of) { return _mm256_cvtepi32_ps(of); }

inline bytes pairs_of(bytes positive, bytes others) { return _mm256_maddubs_epi16(positive, others); }
inline bytes add_scaled(bytes sums, bytes scale, bytes pairs) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(scale, pairs));
}

inline least_sums no_least() { return _mm_setzero_ps(); }
template <bool ADDED_UP>
inline least_sums add_least(least_sums sums, const Unpacked & of, const SuperInput & input) {
    __m128i products = _mm_madd_epi16(of.of_groups, _mm_load_si128((const __m128i *) input.groups));
    if constexpr (ADDED_UP) {
        products = _mm_add_epi32(products, _mm_shuffle_epi32(products, 0x4E));
        products = _mm_add_epi32(products, _mm_shuffle_epi32(products, 0xB1));
    }
    const __m128 scale = _mm_mul_ps(_mm256_castps256_ps128(of.least_scale), _mm_set1_ps(input.scale));
    return _mm_fmadd_ps(scale, _mm_cvtepi32_ps(products), sums);
}
inline __m128 least_of_row(least_sums sums, int) { return sums; }
#endif

// Four sums as one.
inline float folded(__m128 of) {
    of = _mm_add_ps(of, _mm_movehl_ps(of, of));
    return _mm_cvtss_f32(_mm_add_ss(of, _mm_movehdup_ps(of)));
}

template <class Block>
struct ProductOfSuperBlocks {
    const Block * A;
    int64_t lda;
    const SuperInput * B; // n rows of k blocks
    float * const * C;
    int64_t n, k;
    int64_t last; // the last row of weights; it stands in for those that a vector has room for, and that there are not
    Unpacked * kept; // room for two vectors of rows, where one go is not enough for all inputs: the first unpacks for all

    static constexpr bool OF_HALF_GROUPS = LEAST<Block> == Least::OF_HALF_GROUPS;
    static constexpr bool ADDED_UP = LEAST<Block> == Least::OF_GROUPS_ADDED_UP;
    static constexpr bool OF_GROUPS = LEAST<Block> == Least::OF_GROUPS || ADDED_UP;

    // VECTORS vectors of rows of weights with RN rows of inputs.
    template <int VECTORS, int RN, bool FIRST>
    inline void tile(int64_t i, int64_t j) const {
        constexpr int ROWS = VECTORS * PER;
        const Block * a_row[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            a_row[r] = A + lda * std::min(i + r, last);
        }
        const char * next = (const char *) a_row[0] + ahead_of(lda * ROWS * int64_t(sizeof(Block)));
        sums_of_rows sums[RN][VECTORS];
        least_sums least[RN][VECTORS];
        for (int c = 0; c < RN; ++c) {
            for (int v = 0; v < VECTORS; ++v) {
                sums[c][v] = zero();
                least[c][v] = no_least();
            }
        }
        for (int64_t at = 0; at < k; ++at) {
            const SuperInput * input = B + k * j + at;
            Unpacked used_once[VECTORS];
            Unpacked * a = n > SUPER_WIDE ? kept + at * VECTORS : used_once;
            if constexpr (FIRST) {
                for (int v = 0; v < VECTORS; ++v) {
                    unpack(a_row + v * PER, at, a[v]);
                    a[v].scale = scales(a_row + v * PER, at);
                }
                next = asked_for<ROWS * sizeof(Block)>(next);
            }
            bytes whole[RN][VECTORS];
            for (int c = 0; c < RN; ++c) {
                for (int v = 0; v < VECTORS; ++v) {
                    whole[c][v] = none();
                    if constexpr (SUPER_OFFSET<Block> > 0) {
                        whole[c][v] = add_scaled(none(), a[v].of_half_groups, every_row(input[k * c].half_groups));
                    }
                }
            }
            for (int g = 0; g < GROUPS; ++g) {
                for (int c = 0; c < RN; ++c) {
                    const bytes b = every_row(input[k * c].values + GROUP * g);
                    for (int v = 0; v < VECTORS; ++v) {
                        whole[c][v] = add_scaled(whole[c][v], a[v].scales[g], pairs_of(a[v].values[g], b));
                        if constexpr (HALVED<Block>) {
                            whole[c][v] = add_scaled(whole[c][v], a[v].scales[g], pairs_of(a[v].rest[g], b));
                        }
                    }
                }
            }
            for (int v = 0; v < VECTORS; ++v) {
                for (int c = 0; c < RN; ++c) {
                    const SuperInput & of = input[k * c];
                    if constexpr (OF_HALF_GROUPS) {
                        const bytes products = add_scaled(none(), a[v].of_half_groups, every_row(of.half_groups));
                        sums[c][v] = scaled(a[v].least_scale, every_float(of.scale), as_floats(products), sums[c][v]);
                    }
                    sums[c][v] = scaled(a[v].scale, every_float(of.scale), as_floats(whole[c][v]), sums[c][v]);
                    if constexpr (OF_GROUPS) {
                        least[c][v] = add_least<ADDED_UP>(least[c][v], a[v], of);
                    }
                }
            }
        }
        for (int c = 0; c < RN; ++c) {
            for (int v = 0; v < VECTORS; ++v) {
                float * out = C[j + c] + i + v * PER;
                const int64_t rows = std::min<int64_t>(PER, last + 1 - i - v * PER);
                put(sums[c][v], out, rows);
                for (int r = 0; OF_GROUPS && r < rows; ++r) {
                    const __m128 of = least_of_row(least[c][v], r);
                    out[r] += ADDED_UP ? _mm_cvtss_f32(of) : folded(of);
                }
            }
        }
    }
};

inline const SuperInput * prepared(const Rows & rows, int64_t k) {
    SuperInput * room = room_for<SuperInput>(rows.count * k);
    for (int64_t j = 0; j < rows.count; ++j) {
        for (int64_t at = 0; at < k; ++at) {
            const block_k8 & block = ((const block_k8 *) rows.inputs[j])[at];
            SuperInput & input = room[j * k + at];
            std::memcpy(input.values, block.values, sizeof(input.values));
            std::memcpy(input.half_groups, block.sums, sizeof(input.half_groups));
            for (int g = 0; g < GROUPS; ++g) {
                input.groups[g] = int16_t(block.sums[2 * g] + block.sums[2 * g + 1]);
            }
            input.scale = block.scale;
        }
    }
    return room;
}

template <class Block, class Share>
void multiply_super(const Share & share_rows, int64_t m, int64_t k, const void * A, int64_t lda, const Rows & rows) {
    const SuperInput * inputs = prepared(rows, k);
    Unpacked * kept = room_for<Unpacked>(2 * k);
    const ProductOfSuperBlocks<Block> of{(const Block *) A, lda, inputs, rows.results, rows.count, k, m - 1, kept};
    in_strips<SUPER_WIDE>(share_rows, m, lda * int64_t(sizeof(Block)), of);
}

} // namespace

#endif // FEW_ROWS_FLOATS
