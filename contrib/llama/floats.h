// Products of floats: one vector of sums for each result, added up along the row, folded together at its end.
#pragma once

#include "tiles.h"

#if defined(FEW_ROWS_FLOATS)

namespace {

// Rows of inputs in one go: with four rows of weights, and with two. More go with two, or with four where that is said.
#if defined(__AVX512F__)
constexpr int MANY = 6, MOST = 12;
constexpr bool MORE_WITH_FOUR = true;
#else
constexpr int MANY = 3, MOST = 6;
constexpr bool MORE_WITH_FOUR = false;
#endif

// Adds to RN times RM sums a vector of each row of weights times one of each row of inputs. The fewer ones stay in
// registers, beside all sums; a single row of inputs is no reason to, and compilers make code of that which is half as quick.
template <int RM, int RN, class Weight, class Input>
inline void add_products(floats (&sums)[RN][RM], const Weight * const * weights, const Input * const * inputs, int64_t at) {
    if constexpr (RM > RN && RN > 1) {
        floats b[RN];
        for (int c = 0; c < RN; ++c) {
            b[c] = load(inputs[c] + at);
        }
        for (int r = 0; r < RM; ++r) {
            const floats a = held(load(weights[r] + at));
            for (int c = 0; c < RN; ++c) {
                sums[c][r] = madd(a, b[c], sums[c][r]);
            }
        }
    } else {
        floats a[RM];
        for (int r = 0; r < RM; ++r) {
            a[r] = held(load(weights[r] + at));
        }
        for (int c = 0; c < RN; ++c) {
            const floats b = held(load(inputs[c] + at));
            for (int r = 0; r < RM; ++r) {
                sums[c][r] = madd(a[r], b, sums[c][r]);
            }
        }
    }
}

#if defined(__AVX512F__)
inline void put_pairs(__m128 of, float * low, float * high) {
    _mm_storel_pi((__m64 *) low, of);
    _mm_storeh_pi((__m64 *) high, of);
}
#endif

// Folds the sums of a tile, from the input row FROM on, and puts them where they belong. To fold sixteen together takes a
// third of the operations, and gives the same bits.
template <int FROM, int RM, int RN>
inline void put_folded(const floats (&sums)[RN][RM], float * const * C, int64_t i, int64_t j) {
#if defined(__AVX512F__)
    constexpr int LEFT = RN - FROM, LAST = RN - 1;
    if constexpr (RM == 4 && LEFT >= 2) {
        constexpr int b = FROM + 1, c = FROM + 2 < RN ? FROM + 2 : LAST, d = FROM + 3 < RN ? FROM + 3 : LAST;
        const floats first = four_quarters_of(sums[FROM][0], sums[b][0], sums[c][0], sums[d][0]);
        const floats second = four_quarters_of(sums[FROM][1], sums[b][1], sums[c][1], sums[d][1]);
        const floats third = four_quarters_of(sums[FROM][2], sums[b][2], sums[c][2], sums[d][2]);
        const floats fourth = four_quarters_of(sums[FROM][3], sums[b][3], sums[c][3], sums[d][3]);
        const floats folded = folded_quarters(first, second, third, fourth);
        put_quarters(folded, C[j + FROM] + i, C[j + b] + i, C[j + c] + i, C[j + d] + i);
        if constexpr (LEFT > 4) {
            put_folded<FROM + 4>(sums, C, i, j);
        }
        return;
    }
    if constexpr (RM == 2 && LEFT >= 4) {
        constexpr int c = FROM, d = LEFT >= 8 ? FROM + 4 : FROM; // four more rows of inputs, or the same again
        const floats first = four_quarters_of(sums[c][0], sums[c + 1][0], sums[c + 2][0], sums[c + 3][0]);
        const floats second = four_quarters_of(sums[c][1], sums[c + 1][1], sums[c + 2][1], sums[c + 3][1]);
        const floats third = four_quarters_of(sums[d][0], sums[d + 1][0], sums[d + 2][0], sums[d + 3][0]);
        const floats fourth = four_quarters_of(sums[d][1], sums[d + 1][1], sums[d + 2][1], sums[d + 3][1]);
        const floats folded = folded_quarters(first, second, third, fourth);
        put_pairs(quarter_of<0>(folded), C[j + c] + i, C[j + d] + i);
        put_pairs(quarter_of<1>(folded), C[j + c + 1] + i, C[j + d + 1] + i);
        put_pairs(quarter_of<2>(folded), C[j + c + 2] + i, C[j + d + 2] + i);
        put_pairs(quarter_of<3>(folded), C[j + c + 3] + i, C[j + d + 3] + i);
        if constexpr (d + 4 < RN) {
            put_folded<d + 4>(sums, C, i, j);
        }
        return;
    }
#endif
    for (int c = FROM; c < RN; ++c) {
        for (int r = 0; r < RM; ++r) {
            C[j + c][i + r] = fold(sums[c][r]);
        }
    }
}

// A product of rows of weights with n rows of inputs, all of length k.
template <class Weight>
struct ProductOfFloats {
    const Weight * A;
    int64_t lda;
    const float * const * B;
    float * const * C;
    int64_t n, k;

    template <int RM, int RN, bool FIRST>
    inline void tile(int64_t i, int64_t j) const {
        const Weight * a_row[RM];
        const float * b_row[RN];
        for (int r = 0; r < RM; ++r) {
            a_row[r] = A + lda * (i + r);
        }
        for (int c = 0; c < RN; ++c) {
            b_row[c] = B[j + c];
        }
        const char * next = (const char *) a_row[0] + ahead_of(lda * RM * int64_t(sizeof(Weight)));
        floats sums[RN][RM];
        for (int c = 0; c < RN; ++c) {
            for (int r = 0; r < RM; ++r) {
                sums[c][r] = all(0.0f);
            }
        }
        for (int64_t at = 0; at < k; at += LANES) {
            if (FIRST) {
                next = asked_for<RM * LANES * sizeof(Weight)>(next);
            }
            add_products<RM, RN>(sums, a_row, b_row, at);
        }
        put_folded<0>(sums, C, i, j);
    }
};

#if !defined(__AVX512F__)
// A few rows of weights, widened, with many rows of inputs that stay as they are. They go through the caches part by part: what
// was summed up so far is kept for each result.
template <class Input>
struct ProductOfPart {
    const float * part;
    const Input * const * B;
    float * const * C;
    int64_t n, from, length;
    floats * kept;
    bool begins, ends;

    template <int RM, int RN, bool FIRST>
    inline void tile(int64_t i, int64_t j) const {
        const float * a_row[RM];
        const Input * b_row[RN];
        floats sums[RN][RM];
        for (int r = 0; r < RM; ++r) {
            a_row[r] = part + r * length;
        }
        for (int c = 0; c < RN; ++c) {
            b_row[c] = B[j + c] + from;
            for (int r = 0; r < RM; ++r) {
                sums[c][r] = begins ? all(0.0f) : kept[(j + c) * RM + r];
            }
        }
        for (int64_t at = 0; at < length; at += LANES) {
            add_products<RM, RN>(sums, a_row, b_row, at);
        }
        for (int c = 0; c < RN; ++c) {
            for (int r = 0; r < RM; ++r) {
                if (ends) {
                    C[j + c][i + r] = fold(sums[c][r]);
                } else {
                    kept[(j + c) * RM + r] = sums[c][r];
                }
            }
        }
    }
};

constexpr int64_t WIDENED = 16; // with more rows of inputs weights are widened, or copied together, once for all of them
constexpr int64_t PART = 768; // columns of widened weights that lie in the nearest cache, beside those of inputs

// RM rows of weights from i on with all rows of inputs.
template <int RM, int RN, class Weight>
void widened_strip(const Weight * A, int64_t lda, int64_t k, const Rows & rows, int64_t i) {
    const int64_t parts = (k + PART - 1) / PART, length = (k / LANES + parts - 1) / parts * LANES;
    const int64_t ahead = ahead_of(lda * RM * int64_t(sizeof(Weight)));
    constexpr int64_t LINE = 64 / sizeof(Weight);
    alignas(64) float widened[RM * PART];
    alignas(64) floats kept[RM * AT_ONCE];
    for (int64_t from = 0; from < k; from += length) {
        const int64_t now = std::min(length, k - from);
        for (int r = 0; r < RM; ++r) {
            const Weight * row = A + lda * (i + r) + from;
            for (int64_t at = 0; at < now; at += LANES) {
                if (at % LINE == 0) {
                    _mm_prefetch((const char *) (row + at) + ahead, _MM_HINT_T1);
                }
                store(widened + r * now + at, load(row + at));
            }
        }
        const ProductOfPart<Weight> of{widened, (const Weight * const *) rows.inputs, rows.results, rows.count, from,
                                       now,     kept, from == 0, from + now == k};
        strip<RM, RN>(of, i);
    }
}

template <class Weight, class Share>
void multiply_widened(const Share & share_rows, int64_t m, int64_t k, const Weight * A, int64_t lda, const Rows & rows) {
    share_rows(m, lda * int64_t(sizeof(Weight)), [&](int64_t i, int64_t to) {
        for (; i + 6 <= to; i += 6) {
            widened_strip<6, 2>(A, lda, k, rows, i);
        }
        for (; i + 4 <= to; i += 4) {
            widened_strip<4, 3>(A, lda, k, rows, i);
        }
        for (; i < to; ++i) {
            widened_strip<1, 4>(A, lda, k, rows, i);
        }
    });
}
#endif

// The rows of inputs as floats, widened once for all rows of weights.
template <class Weight>
void widen(const Rows & rows, int64_t k, const float ** to) {
    float * room = room_for<float>(rows.count * k);
    for (int64_t j = 0; j < rows.count; ++j) {
        float * out = room + j * k;
        for (int64_t at = 0; at < k; at += LANES) {
            store(out + at, load((const Weight *) rows.inputs[j] + at));
        }
        to[j] = out;
    }
}

template <>
inline void widen<float>(const Rows & rows, int64_t, const float ** to) {
    for (int64_t j = 0; j < rows.count; ++j) {
        to[j] = (const float *) rows.inputs[j];
    }
}

// Inputs are of the weights' own type.
template <class Weight, class Share>
void multiply_floats(const Share & share_rows, int64_t m, int64_t k, const void * A, int64_t lda, const Rows & rows) {
#if !defined(__AVX512F__)
    if (rows.count > WIDENED) {
        multiply_widened(share_rows, m, k, (const Weight *) A, lda, rows);
        return;
    }
#endif
    const float * inputs[AT_ONCE];
    widen<Weight>(rows, k, inputs);
    const ProductOfFloats<Weight> of{(const Weight *) A, lda, inputs, rows.results, rows.count, k};
    share_rows(m, lda * int64_t(sizeof(Weight)), [&](int64_t from, int64_t to) {
        int64_t i = from;
        if (of.n <= MANY || (MORE_WITH_FOUR && of.n > MOST)) {
            for (; i + 4 <= to; i += 4) {
                strip<4, MANY>(of, i);
            }
        }
        for (; i + 2 <= to; i += 2) {
            strip<2, MOST>(of, i);
        }
        for (; i < to; ++i) {
            strip<1, MOST>(of, i);
        }
    });
}

} // namespace

#endif // FEW_ROWS_FLOATS
