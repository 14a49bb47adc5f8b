// Blocks of 256 whole numbers ("K quants" and IQ4_XS), and how they are unpacked: groups of 32 or 16 with a scale each,
// itself a whole number, and one scale for all. Some have least values, too, which are taken away; others an offset.
#pragma once

#include "rows.h"

#include <cstddef>
#include <cstring>

#if defined(FEW_ROWS_FLOATS)

namespace {

constexpr int64_t SUPER_BLOCK = 256, GROUP = 32, GROUPS = SUPER_BLOCK / GROUP, HALF_GROUPS = 2 * GROUPS;

struct block_k2 {
    uint8_t groups[HALF_GROUPS];     // of half groups: the scale in the low half, the least value in the high one
    uint8_t values[SUPER_BLOCK / 4]; // in 32 bytes four groups, two bits of each byte for one
    half scale, least;
};
static_assert(sizeof(block_k2) == 84, "blocks lie one after the other");

struct block_k3 {
    uint8_t third[SUPER_BLOCK / 8];  // the highest bits, those of a group in one bit of all bytes
    uint8_t values[SUPER_BLOCK / 4]; // the others, as above
    uint8_t groups[12];              // scales of half groups, of six bits
    half scale;
};
static_assert(sizeof(block_k3) == 110, "blocks lie one after the other");

struct block_k4 {
    half scale, least;
    uint8_t groups[12];              // scales and least values of the groups, of six bits
    uint8_t values[SUPER_BLOCK / 2]; // in 32 bytes, the low halves are one group, the high ones the next
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
    int8_t groups[HALF_GROUPS];      // scales of half groups
    half scale;
};
static_assert(sizeof(block_k6) == 210, "blocks lie one after the other");

struct block_x4 { // "IQ4_XS"
    half scale;
    uint16_t groups_high;            // two bits of the scales of the groups
    uint8_t groups_low[GROUPS / 2];  // the four others
    uint8_t values[SUPER_BLOCK / 2]; // places in a table: in 16 bytes, the low halves of a group, then the high ones
};
static_assert(sizeof(block_x4) == 136, "blocks lie one after the other");

struct block_k8 {
    float scale;
    int8_t values[SUPER_BLOCK];
    int16_t sums[HALF_GROUPS];
};
static_assert(sizeof(block_k8) == 292, "blocks lie one after the other");

enum class Least { NONE, OF_GROUPS, OF_GROUPS_ADDED_UP, OF_HALF_GROUPS };
template <class Block> constexpr Least LEAST = Least::NONE;
template <> constexpr Least LEAST<block_k2> = Least::OF_HALF_GROUPS;
template <> constexpr Least LEAST<block_k4> = Least::OF_GROUPS;
template <> constexpr Least LEAST<block_k5> = Least::OF_GROUPS_ADDED_UP;

// What must be added to every value to make it positive.
template <class Block> constexpr int SUPER_OFFSET = 0;
template <> constexpr int SUPER_OFFSET<block_k3> = 4;
template <> constexpr int SUPER_OFFSET<block_k6> = 32;
template <> constexpr int SUPER_OFFSET<block_x4> = 128;

// Whether positive values can be so large that products of two of them take more than sixteen bits: then they are halved.
template <class Block> constexpr bool HALVED = SUPER_OFFSET<Block> > 64;

// Scales of the groups, and the one of a group for each pair of its values. Least values of the groups.
#if defined(TWO_ROWS_A_VECTOR)
typedef __m256i least_values; // eight a row
typedef __m256 least_sums;    // four a row

inline bytes scales_of(const __m128i (&groups)[PER]) {
    const __m256i one = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(groups[0]));
    const __m256i other = _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(groups[1]));
    return _mm512_inserti64x4(_mm512_castsi256_si512(one), other, 1);
}
inline bytes scale_of(bytes scales, int group) {
    return _mm512_shuffle_epi8(scales, _mm512_set1_epi16(short(0x0100 + 0x0202 * group)));
}
inline bytes half_scales_of(const __m128i (&groups)[PER]) {
    return _mm512_cvtepi8_epi16(_mm256_inserti128_si256(_mm256_castsi128_si256(groups[0]), groups[1], 1));
}
inline bytes half_scale_of(bytes scales, int group) {
    const __m512i low = _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_setzero_si256(), _mm_set1_epi16(1), 1));
    const __m512i both = _mm512_inserti64x4(low, _mm256_set_m128i(_mm_set1_epi16(17), _mm_set1_epi16(16)), 1);
    return _mm512_permutexvar_epi16(_mm512_add_epi16(both, _mm512_set1_epi16(short(2 * group))), scales);
}
inline bytes times(bytes scales, int factor) { return _mm512_mullo_epi16(scales, _mm512_set1_epi16(short(factor))); }

inline least_values least_of(const __m128i (&groups)[PER]) {
    return _mm256_cvtepu8_epi16(_mm_unpackhi_epi64(groups[0], groups[1]));
}
template <class Block>
inline sums_of_rows least_scale_of(const Block * const * rows, int64_t at) {
    return each_float(-_cvtsh_ss(rows[0][at].least), -_cvtsh_ss(rows[1][at].least));
}
#else
typedef __m128i least_values;
typedef __m128 least_sums;

inline bytes scales_of(const __m128i (&groups)[PER]) {
    return _mm256_broadcastsi128_si256(_mm_cvtepu8_epi16(groups[0]));
}
inline bytes scale_of(bytes scales, int group) {
    return _mm256_shuffle_epi8(scales, _mm256_set1_epi16(short(0x0100 + 0x0202 * group)));
}
inline bytes half_scales_of(const __m128i (&groups)[PER]) { return _mm256_cvtepi8_epi16(groups[0]); }
inline bytes half_scale_of(bytes scales, int group) {
    const __m128i of = group < 4 ? _mm256_castsi256_si128(scales) : _mm256_extracti128_si256(scales, 1);
    const __m128i first = _mm_shuffle_epi8(of, _mm_set1_epi16(short(0x0100 + 0x0404 * (group % 4))));
    return _mm256_set_m128i(_mm_shuffle_epi8(of, _mm_set1_epi16(short(0x0302 + 0x0404 * (group % 4)))), first);
}
inline bytes times(bytes scales, int factor) { return _mm256_mullo_epi16(scales, _mm256_set1_epi16(short(factor))); }

inline least_values least_of(const __m128i (&groups)[PER]) {
    return _mm_cvtepu8_epi16(_mm_unpackhi_epi64(groups[0], groups[0]));
}
template <class Block>
inline sums_of_rows least_scale_of(const Block * const * rows, int64_t at) {
    return _mm256_set1_ps(-_cvtsh_ss(rows[0][at].least));
}
#endif

// A block of each row of a vector, unpacked.
struct Unpacked {
    bytes values[GROUPS], rest[GROUPS]; // the rest of those that are halved
    bytes scales[GROUPS];
    sums_of_rows scale, least_scale;
    bytes of_half_groups; // what is multiplied with the sums of the inputs' half groups: offsets, or least values
    least_values of_groups;
};

inline void unpack_half_scales(const __m128i (&groups)[PER], int offset, Unpacked & to) {
    const bytes scales = half_scales_of(groups);
    for (int g = 0; g < GROUPS; ++g) {
        to.scales[g] = half_scale_of(scales, g);
    }
    to.of_half_groups = times(scales, -offset);
}

// What Q4_K and Q5_K say of a block's groups: eight scales in the low bytes, eight least values in the high ones.
inline __m128i of_groups(const uint8_t * packed) {
    uint32_t a, b, c;
    std::memcpy(&a, packed, sizeof(a));
    std::memcpy(&b, packed + 4, sizeof(b));
    std::memcpy(&c, packed + 8, sizeof(c));
    return _mm_set_epi32(int(((c >> 4) & 0x0F0F0F0F) | ((b >> 2) & 0x30303030)), int(b & 0x3F3F3F3F),
                         int((c & 0x0F0F0F0F) | ((a >> 2) & 0x30303030)), int(a & 0x3F3F3F3F));
}

template <class Block>
inline void unpack_groups(const Block * const * rows, int64_t at, Unpacked & to) {
    __m128i groups[PER];
    for (int r = 0; r < PER; ++r) {
        groups[r] = of_groups(rows[r][at].groups);
    }
    const bytes scales = scales_of(groups);
    for (int g = 0; g < GROUPS; ++g) {
        to.scales[g] = scale_of(scales, g);
    }
    to.of_groups = least_of(groups);
    to.least_scale = least_scale_of(rows, at);
}

inline void unpack(const block_k2 * const * rows, int64_t at, Unpacked & to) {
    __m128i scales[PER], least[PER];
    for (int r = 0; r < PER; ++r) {
        const __m128i both = _mm_loadu_si128((const __m128i *) rows[r][at].groups);
        scales[r] = _mm_and_si128(both, _mm_set1_epi8(15));
        least[r] = _mm_and_si128(_mm_srli_epi16(both, 4), _mm_set1_epi8(15));
    }
    unpack_half_scales(scales, 0, to);
    to.of_half_groups = half_scales_of(least);
    to.least_scale = least_scale_of(rows, at);
    for (int g = 0; g < GROUPS; ++g) {
        const bytes four = each_row(rows, at, offsetof(block_k2, values) + GROUP * (g / 4));
        to.values[g] = bits(right(four, 2 * (g % 4)), 3);
    }
}

inline void unpack(const block_k3 * const * rows, int64_t at, Unpacked & to) {
    __m128i groups[PER];
    for (int r = 0; r < PER; ++r) {
        uint32_t a, b, c;
        std::memcpy(&a, rows[r][at].groups, sizeof(a));
        std::memcpy(&b, rows[r][at].groups + 4, sizeof(b));
        std::memcpy(&c, rows[r][at].groups + 8, sizeof(c));
        const __m128i scales = _mm_set_epi32(
            int(((b >> 4) & 0x0F0F0F0F) | ((c >> 2) & 0x30303030)), int(((a >> 4) & 0x0F0F0F0F) | (c & 0x30303030)),
            int((b & 0x0F0F0F0F) | ((c << 2) & 0x30303030)), int((a & 0x0F0F0F0F) | ((c << 4) & 0x30303030)));
        groups[r] = _mm_sub_epi8(scales, _mm_set1_epi8(32));
    }
    unpack_half_scales(groups, SUPER_OFFSET<block_k3>, to);
    const bytes third = each_row(rows, at, offsetof(block_k3, third));
    for (int g = 0; g < GROUPS; ++g) {
        const bytes four = each_row(rows, at, offsetof(block_k3, values) + GROUP * (g / 4));
        to.values[g] = either(bits(right(four, 2 * (g % 4)), 3), left(bits(right(third, g), 1), 2));
    }
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
    __m128i groups[PER];
    for (int r = 0; r < PER; ++r) {
        groups[r] = _mm_loadu_si128((const __m128i *) rows[r][at].groups);
    }
    unpack_half_scales(groups, SUPER_OFFSET<block_k6>, to);
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

inline void unpack(const block_x4 * const * rows, int64_t at, Unpacked & to) {
    const __m128i upwards = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    __m128i groups[PER];
    for (int r = 0; r < PER; ++r) {
        uint32_t packed;
        std::memcpy(&packed, rows[r][at].groups_low, sizeof(packed));
        const __m128i even = _mm_cvtsi32_si128(int(packed & 0x0F0F0F0F));
        const __m128i odd = _mm_cvtsi32_si128(int((packed >> 4) & 0x0F0F0F0F));
        const __m128i low = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(even, odd));
        const __m128i high = _mm_mullo_epi16(_mm_set1_epi16(short(rows[r][at].groups_high)), upwards);
        const __m128i scales = _mm_or_si128(low, _mm_slli_epi16(_mm_srli_epi16(high, 14), 4));
        const __m128i with_sign = _mm_sub_epi16(scales, _mm_set1_epi16(32));
        groups[r] = _mm_packs_epi16(_mm_unpacklo_epi16(with_sign, with_sign), _mm_unpackhi_epi16(with_sign, with_sign));
    }
    unpack_half_scales(groups, SUPER_OFFSET<block_x4>, to);
    const __m128i table = _mm_xor_si128(table_of_four_bits(), _mm_set1_epi8(-128)); // the same as adding 128
    for (int g = 0; g < GROUPS; ++g) {
        const bytes all = looked_up(table, each_half(rows, at, offsetof(block_x4, values) + GROUP / 2 * g));
        to.values[g] = bits(right(all, 1), 0x7F);
        to.rest[g] = less(all, to.values[g]);
    }
}

} // namespace

#endif // FEW_ROWS_FLOATS
