// Products of blocks of 256 whole numbers ("K quants"): groups of 32 or 16 with a scale each, itself a whole number, and
// one scale for all. Q4_K and Q5_K have a least value for each group as well, which is taken away; Q6_K has an offset.
#pragma once

#include "rows.h"

#include <cstddef>
#include <cstring>
#include <vector>

#if defined(FEW_ROWS_FLOATS)

namespace {

constexpr int64_t SUPER_BLOCK = 256, GROUP = 32, GROUPS = SUPER_BLOCK / GROUP;

struct block_k4 {
    half scale, least;
    uint8_t groups[12];                // scales and least values of the groups, of six bits
    uint8_t values[SUPER_BLOCK / 2];   // in 32 bytes, the low halves are one group, the high ones the next
};
static_assert(sizeof(block_k4) == 144, "blocks lie one after the other");

struct block_k5 {
    half scale, least;
    uint8_t groups[12];
    uint8_t fifth[SUPER_BLOCK / 8]; // the highest bits, those of a group in one bit of all bytes
    uint8_t values[SUPER_BLOCK / 2];
};
static_assert(sizeof(block_k5) == 176, "blocks lie one after the other");

struct block_k6 {
    uint8_t values[SUPER_BLOCK / 2]; // the low four bits: in 64 bytes, the low halves are two groups, the high ones two more
    uint8_t high[SUPER_BLOCK / 4];   // the other two: 32 bytes for four groups
    int8_t groups[SUPER_BLOCK / 16]; // scales of half groups
    half scale;
};
static_assert(sizeof(block_k6) == 210, "blocks lie one after the other");

struct block_k8 {
    float scale;
    int8_t values[SUPER_BLOCK];
    int16_t sums[SUPER_BLOCK / 16];
};
static_assert(sizeof(block_k8) == 292, "blocks lie one after the other");

template <class Block> constexpr bool HAS_LEAST = true;
template <> constexpr bool HAS_LEAST<block_k6> = false;

// A block of inputs, ready for use.
struct alignas(64) SuperInput {
    int8_t values[SUPER_BLOCK];
    int16_t halves[SUPER_BLOCK / 16]; // the sums of the half groups
    int16_t groups[GROUPS];           // those of the groups
    float scale;
};

// What Q4_K and Q5_K say of a block's groups: eight scales in the low bytes, eight least values in the high ones.
inline __m128i of_groups(const uint8_t * packed) {
    uint32_t a, b, c;
    std::memcpy(&a, packed, sizeof(a));
    std::memcpy(&b, packed + 4, sizeof(b));
    std::memcpy(&c, packed + 8, sizeof(c));
    return _mm_set_epi32(int(((c >> 4) & 0x0F0F0F0F) | ((b >> 2) & 0x30303030)), int(b & 0x3F3F3F3F),
                         int((c & 0x0F0F0F0F) | ((a >> 2) & 0x30303030)), int(a & 0x3F3F3F3F));
}

// Four sums a row for what the least values take away.
#if defined(TWO_ROWS_A_VECTOR)
constexpr int SUPER_WIDE = 8; // rows of inputs in one go
typedef __m256i least_values;
typedef __m256 least_sums;

inline bytes none() { return _mm512_setzero_si512(); }
inline bytes bits(bytes of, int mask) { return _mm512_and_si512(of, _mm512_set1_epi8(char(mask))); }
inline bytes either(bytes a, bytes b) { return _mm512_or_si512(a, b); }
inline bytes right(bytes of, int by) { return _mm512_srli_epi16(of, by); }
inline bytes left(bytes of, int by) { return _mm512_slli_epi16(of, by); }
inline sums_of_rows as_floats(bytes of) { return _mm512_cvtepi32_ps(of); }

// Sums of pairs of products of bytes, by a scale for each pair of pairs.
inline bytes add_scaled(bytes sums, bytes scale, bytes pairs) { return _mm512_dpwssd_epi32(sums, scale, pairs); }
inline bytes pairs_of(bytes positive, bytes others) { return _mm512_maddubs_epi16(positive, others); }

// The scales of all groups, and that of one, for each pair of its values.
inline bytes scales_of(const __m128i (&groups)[PER]) {
    const __m256i one = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(groups[0]));
    const __m256i other = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(groups[1]));
    return _mm512_inserti64x4(_mm512_castsi256_si512(one), other, 1);
}
inline bytes scale_of(bytes scales, int group) {
    return _mm512_shuffle_epi8(scales, _mm512_set1_epi16(short(0x0100 + 0x0202 * group)));
}

// The same for half groups.
inline bytes half_scales(const block_k6 * const * rows, int64_t at) {
    const __m128i one = _mm_loadu_si128((const __m128i *) rows[0][at].groups);
    const __m128i other = _mm_loadu_si128((const __m128i *) rows[1][at].groups);
    return _mm512_cvtepi8_epi16(_mm256_inserti128_si256(_mm256_castsi128_si256(one), other, 1));
}
inline bytes half_scale(bytes scales, int group) {
    const __m512i low = _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_setzero_si256(), _mm_set1_epi16(1), 1));
    const __m512i both = _mm512_inserti64x4(low, _mm256_set_m128i(_mm_set1_epi16(17), _mm_set1_epi16(16)), 1);
    return _mm512_permutexvar_epi16(_mm512_add_epi16(both, _mm512_set1_epi16(short(2 * group))), scales);
}
inline bytes offsets_of(bytes scales) { return _mm512_sub_epi16(none(), _mm512_slli_epi16(scales, 5)); }

inline least_sums no_least() { return _mm256_setzero_ps(); }
inline least_values least_of(const __m128i (&groups)[PER]) {
    return _mm256_cvtepu8_epi16(_mm_unpackhi_epi64(groups[0], groups[1]));
}
template <class Block>
inline least_sums least_scale(const Block * const * rows, int64_t at) {
    const __m128 one = _mm_set1_ps(-_cvtsh_ss(rows[0][at].least));
    return _mm256_set_m128(_mm_set1_ps(-_cvtsh_ss(rows[1][at].least)), one);
}
template <bool ADDED_UP>
inline least_sums add_least(least_sums sums, least_sums scale, least_values values, const SuperInput & input) {
    const __m256i groups = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *) input.groups));
    __m256i products = _mm256_madd_epi16(values, groups);
    if constexpr (ADDED_UP) {
        products = _mm256_add_epi32(products, _mm256_shuffle_epi32(products, 0x4E));
        products = _mm256_add_epi32(products, _mm256_shuffle_epi32(products, 0xB1));
    }
    return _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(input.scale)), _mm256_cvtepi32_ps(products), sums);
}
inline __m128 least_of_row(least_sums sums, int row) {
    return row == 0 ? _mm256_castps256_ps128(sums) : _mm256_extractf128_ps(sums, 1);
}
#else
constexpr int SUPER_WIDE = 4;
typedef __m128i least_values;
typedef __m128 least_sums;

inline bytes none() { return _mm256_setzero_si256(); }
inline bytes bits(bytes of, int mask) { return _mm256_and_si256(of, _mm256_set1_epi8(char(mask))); }
inline bytes either(bytes a, bytes b) { return _mm256_or_si256(a, b); }
inline bytes right(bytes of, int by) { return _mm256_srli_epi16(of, by); }
inline bytes left(bytes of, int by) { return _mm256_slli_epi16(of, by); }
inline sums_of_rows as_floats(bytes of) { return _mm256_cvtepi32_ps(of); }

inline bytes add_scaled(bytes sums, bytes scale, bytes pairs) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(scale, pairs));
}
inline bytes pairs_of(bytes positive, bytes others) { return _mm256_maddubs_epi16(positive, others); }

inline bytes scales_of(const __m128i (&groups)[PER]) {
    return _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(groups[0]));
}
inline bytes scale_of(bytes scales, int group) {
    return _mm256_shuffle_epi8(scales, _mm256_set1_epi16(short(0x0100 + 0x0202 * group)));
}

inline bytes half_scales(const block_k6 * const * rows, int64_t at) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) rows[0][at].groups));
}
inline bytes half_scale(bytes scales, int group) {
    const __m128i of = group < 4 ? _mm256_castsi256_si128(scales) : _mm256_extracti128_si256(scales, 1);
    const __m128i first = _mm_shuffle_epi8(of, _mm_set1_epi16(short(0x0100 + 0x0404 * (group % 4))));
    return _mm256_set_m128i(_mm_shuffle_epi8(of, _mm_set1_epi16(short(0x0302 + 0x0404 * (group % 4)))), first);
}
inline bytes offsets_of(bytes scales) { return _mm256_sub_epi16(none(), _mm256_slli_epi16(scales, 5)); }

inline least_sums no_least() { return _mm_setzero_ps(); }
inline least_values least_of(const __m128i (&groups)[PER]) {
    return _mm_cvtepu8_epi16(_mm_unpackhi_epi64(groups[0], groups[0]));
}
template <class Block>
inline least_sums least_scale(const Block * const * rows, int64_t at) {
    return _mm_set1_ps(-_cvtsh_ss(rows[0][at].least));
}
template <bool ADDED_UP>
inline least_sums add_least(least_sums sums, least_sums scale, least_values values, const SuperInput & input) {
    __m128i products = _mm_madd_epi16(values, _mm_load_si128((const __m128i *) input.groups));
    if constexpr (ADDED_UP) {
        products = _mm_add_epi32(products, _mm_shuffle_epi32(products, 0x4E));
        products = _mm_add_epi32(products, _mm_shuffle_epi32(products, 0xB1));
    }
    return _mm_fmadd_ps(_mm_mul_ps(scale, _mm_set1_ps(input.scale)), _mm_cvtepi32_ps(products), sums);
}
inline __m128 least_of_row(least_sums sums, int) { return sums; }
#endif

// A block of each row of a vector, unpacked.
struct Unpacked {
    bytes values[GROUPS], scales[GROUPS];
    bytes offsets; // what the offset of the values adds, for the sums of the inputs' half groups
    sums_of_rows scale;
    least_values least; // of the groups
    least_sums least_scale;
};

template <class Block>
inline void unpack_groups(const Block * const * rows, int64_t at, Unpacked & to) {
    __m128i groups[PER];
    for (int r = 0; r < PER; ++r) {
        groups[r] = of_groups(rows[r][at].groups);
    }
    const bytes all_scales = scales_of(groups);
    for (int g = 0; g < GROUPS; ++g) {
        to.scales[g] = scale_of(all_scales, g);
    }
    to.scale = scales(rows, at);
    to.least = least_of(groups);
    to.least_scale = least_scale(rows, at);
}

inline void unpack(const block_k4 * const * rows, int64_t at, Unpacked & to) {
    unpack_groups(rows, at, to);
    for (int g = 0; g < GROUPS; g += 2) {
        const bytes both = each_row(rows, at, offsetof(block_k4, values) + GROUP * g / 2);
        to.values[g] = bits(both, 15);
        to.values[g + 1] = bits(right(both, 4), 15);
    }
}

inline void unpack(const block_k5 * const * rows, int64_t at, Unpacked & to) {
    unpack_groups(rows, at, to);
    const bytes fifth = each_row(rows, at, offsetof(block_k5, fifth));
    for (int g = 0; g < GROUPS; g += 2) {
        const bytes both = each_row(rows, at, offsetof(block_k5, values) + GROUP * g / 2);
        to.values[g] = either(bits(both, 15), left(bits(right(fifth, g), 1), 4));
        to.values[g + 1] = either(bits(right(both, 4), 15), left(bits(right(fifth, g + 1), 1), 4));
    }
}

inline void unpack(const block_k6 * const * rows, int64_t at, Unpacked & to) {
    const bytes groups = half_scales(rows, at);
    for (int g = 0; g < GROUPS; ++g) {
        to.scales[g] = half_scale(groups, g);
    }
    to.scale = scales(rows, at);
    to.offsets = offsets_of(groups);
    for (int g = 0; g < GROUPS; g += 4) {
        const bytes one = each_row(rows, at, offsetof(block_k6, values) + GROUP * g / 2);
        const bytes other = each_row(rows, at, offsetof(block_k6, values) + GROUP * g / 2 + GROUP);
        const bytes high = each_row(rows, at, offsetof(block_k6, high) + GROUP * g / 4);
        to.values[g] = either(bits(one, 15), left(bits(high, 0x03), 4));
        to.values[g + 1] = either(bits(other, 15), left(bits(high, 0x0C), 2));
        to.values[g + 2] = either(bits(right(one, 4), 15), bits(high, 0x30));
        to.values[g + 3] = either(bits(right(other, 4), 15), right(bits(high, 0xC0), 2));
    }
}

template <class Block>
struct ProductOfSuperBlocks {
    const Block * A;
    int64_t lda;
    const SuperInput * B; // n rows of k blocks
    float * C;
    int64_t ldc;
    int64_t n, k;
    int64_t last; // the last row of weights; it stands in for those that a vector has room for, and that there are not
    Unpacked * kept; // room for two vectors of rows, where one go is not enough for all inputs: the first unpacks for all

    // VECTORS vectors of rows of weights with RN rows of inputs.
    template <int VECTORS, int RN, bool FIRST>
    inline void tile(int64_t i, int64_t j) const {
        constexpr int ROWS = VECTORS * PER;
        constexpr bool LEAST = HAS_LEAST<Block>, ADDED_UP = sizeof(Block) == sizeof(block_k5);
        const Block * a_row[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            a_row[r] = A + lda * std::min(i + r, last);
        }
        const int64_t ahead = ahead_of(lda * ROWS * int64_t(sizeof(Block)));
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
                }
                for (int r = 0; r < ROWS; ++r) {
                    for (size_t line = 0; line < sizeof(Block); line += 64) {
                        _mm_prefetch((const char *) (a_row[r] + at) + ahead + line, _MM_HINT_T1);
                    }
                }
            }
            bytes whole[RN][VECTORS];
            for (int c = 0; c < RN; ++c) {
                for (int v = 0; v < VECTORS; ++v) {
                    whole[c][v] = LEAST ? none() : add_scaled(none(), a[v].offsets, every_row(input[k * c].halves));
                }
            }
            for (int g = 0; g < GROUPS; ++g) {
                for (int c = 0; c < RN; ++c) {
                    const bytes b = every_row(input[k * c].values + GROUP * g);
                    for (int v = 0; v < VECTORS; ++v) {
                        whole[c][v] = add_scaled(whole[c][v], a[v].scales[g], pairs_of(a[v].values[g], b));
                    }
                }
            }
            for (int v = 0; v < VECTORS; ++v) {
                for (int c = 0; c < RN; ++c) {
                    sums[c][v] = scaled(a[v].scale, input[k * c].scale, as_floats(whole[c][v]), sums[c][v]);
                    if constexpr (LEAST) {
                        least[c][v] = add_least<ADDED_UP>(least[c][v], a[v].least_scale, a[v].least, input[k * c]);
                    }
                }
            }
        }
        for (int c = 0; c < RN; ++c) {
            for (int v = 0; v < VECTORS; ++v) {
                float * out = C + ldc * (j + c) + i + v * PER;
                const int64_t rows = std::min<int64_t>(PER, last + 1 - i - v * PER);
                put(sums[c][v], out, rows);
                for (int r = 0; LEAST && r < rows; ++r) {
                    const __m128 of = least_of_row(least[c][v], r);
                    out[r] += _mm_cvtss_f32(ADDED_UP ? of : folded(of));
                }
            }
        }
    }

    // Four sums of a row, in the first place.
    static inline __m128 folded(__m128 of) {
        of = _mm_add_ps(of, _mm_movehl_ps(of, of));
        return _mm_add_ss(of, _mm_movehdup_ps(of));
    }
};

inline const SuperInput * prepared(const block_k8 * B, int64_t ldb, int64_t n, int64_t k) {
    static thread_local std::vector<SuperInput> room;
    if (int64_t(room.size()) < n * k) {
        room.resize(n * k);
    }
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t at = 0; at < k; ++at) {
            const block_k8 & block = B[ldb * j + at];
            SuperInput & input = room[j * k + at];
            std::memcpy(input.values, block.values, sizeof(input.values));
            std::memcpy(input.halves, block.sums, sizeof(input.halves));
            for (int g = 0; g < GROUPS; ++g) {
                input.groups[g] = int16_t(block.sums[2 * g] + block.sums[2 * g + 1]);
            }
            input.scale = block.scale;
        }
    }
    return room.data();
}

inline Unpacked * room_for(int64_t blocks) {
    static thread_local std::vector<Unpacked> room;
    if (int64_t(room.size()) < blocks) {
        room.resize(blocks);
    }
    return room.data();
}

// All n rows of inputs, some at a time.
template <class Block>
void multiply_super(const ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A, int64_t lda,
                    const void * B, int64_t ldb, void * C, int64_t ldc) {
    for (int64_t j = 0; j < n; j += AT_ONCE) {
        const int64_t rows = std::min(AT_ONCE, n - j);
        const SuperInput * inputs = prepared((const block_k8 *) B + j * ldb, ldb, rows, k);
        float * out = (float *) C + j * ldc;
        const ProductOfSuperBlocks<Block> of{(const Block *) A, lda, inputs, out, ldc, rows, k, m - 1, room_for(2 * k)};
        share_rows(params, m, lda * int64_t(sizeof(Block)), [&](int64_t from, int64_t to) {
            int64_t i = from;
            for (; i + 2 * PER <= to; i += 2 * PER) {
                strip<2, SUPER_WIDE>(of, i);
            }
            for (; i < to; i += PER) {
                strip<1, SUPER_WIDE>(of, i);
            }
        });
    }
}

} // namespace

#endif // FEW_ROWS_FLOATS
