// Products of floats: one vector of sums for each result, added up along the row, folded together at its end.
#pragma once

#include "tiles.h"

#if defined(FEW_ROWS_FLOATS)

namespace {

// Rows of inputs in one go: with four rows of weights, and with two.
#if defined(__AVX512F__)
constexpr int MANY = 6, MOST = 12;
#else
constexpr int MANY = 2, MOST = 5;
#endif

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
        const int64_t ahead = ahead_of(lda * RM * int64_t(sizeof(Weight)));
        constexpr int64_t LINE = 64 / sizeof(Weight);
        floats sums[RN][RM];
        for (int c = 0; c < RN; ++c) {
            for (int r = 0; r < RM; ++r) {
                sums[c][r] = all(0.0f);
            }
        }
        for (int64_t at = 0; at < k; at += LANES) {
            floats a[RM];
            for (int r = 0; r < RM; ++r) {
                a[r] = load(a_row[r] + at);
                if (FIRST && at % LINE == 0) {
                    _mm_prefetch((const char *) (a_row[r] + at) + ahead, _MM_HINT_T1);
                }
            }
            for (int c = 0; c < RN; ++c) {
                const floats b = load(b_row[c] + at);
                for (int r = 0; r < RM; ++r) {
                    sums[c][r] = madd(a[r], b, sums[c][r]);
                }
            }
        }
        for (int c = 0; c < RN; ++c) {
            for (int r = 0; r < RM; ++r) {
                C[j + c][i + r] = fold(sums[c][r]);
            }
        }
    }
};

// The rows of inputs as floats, unpacked once for all rows of weights.
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
    const float * inputs[AT_ONCE];
    widen<Weight>(rows, k, inputs);
    const ProductOfFloats<Weight> of{(const Weight *) A, lda, inputs, rows.results, rows.count, k};
    share_rows(m, lda * int64_t(sizeof(Weight)), [&](int64_t from, int64_t to) {
        int64_t i = from;
        if (of.n <= MANY || of.n > MOST) {
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
