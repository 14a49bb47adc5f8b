// Matrix products for llama.cpp's CPU backend, made for few rows: what a step of one token or a window of guesses asks.
//
// ggml asks `llamafile_sgemm` first. The build gives llama.cpp's own function another name (see kernels.cmake), so that
// this one answers, and hands on what it has no kernel for. Two things differ from llama.cpp:
//
// * One row goes the same way as many. llama.cpp has another kernel for one row of floats, which sums up in another
//   order, so that a single step and a window disagree in their last bits. Here each result is summed up in one order,
//   whatever its neighbours; it is that of llama.cpp's kernel for many rows, so the results are bit for bit the same.
// * Weights come as fast as memory gives them: they are asked for some rows ahead, and read once for many rows.

#include "lanes.h"

#include <vector>

extern "C" {
bool llamafile_sgemm_of_llama(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                              const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc,
                              int a_type, int b_type, int c_type);
GGML_BACKEND_API bool llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                                      const void * A, int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc,
                                      int a_type, int b_type, int c_type);
// Whether this build has a kernel for weights of a type in rows of `columns`; then one row goes the same way as many.
GGML_BACKEND_API bool twd_few_rows(int type, int64_t columns, int64_t rows);
}

namespace {

constexpr int64_t AT_ONCE = 64;         // rows of inputs that are unpacked at once
constexpr int64_t AHEAD_BYTES = 9216;   // how far ahead weights are asked for, at least
constexpr int64_t CHUNK_BYTES = 131072; // how much of a matrix a thread takes at once: many times what is asked ahead

// Calls work(from, to) for parts of the m rows of a matrix until all are taken. Parts are multiples of eight rows.
template <class Work>
void share_rows(const ggml_compute_params * params, int64_t m, int64_t row_bytes, const Work & work) {
    const int64_t fair = m / (params->nth * 4);
    const int64_t part = std::max<int64_t>(8, std::min<int64_t>(fair, CHUNK_BYTES / row_bytes) / 8 * 8);
    share(params, (m + part - 1) / part, [&](int64_t number) {
        work(number * part, std::min(m, (number + 1) * part));
    });
}

#if defined(FEW_ROWS_FLOATS)

// ---- floats: one vector of sums for each result, added up along the row, folded together at its end ----

// Rows of B in one go: with four rows of A, and with two.
#if defined(__AVX512F__)
constexpr int MANY = 6, MOST = 12;
#else
constexpr int MANY = 2, MOST = 5;
#endif

// A product of m rows of weights with n rows of inputs, all of length k.
template <class Weight>
struct Product {
    const Weight * A;
    int64_t lda;
    const float * B;
    int64_t ldb;
    float * C;
    int64_t ldc;
    int64_t n, k;
};

// RM rows of A with RN rows of B. The first to read these rows of A asks for those that come later.
template <int RM, int RN, bool FIRST, class Weight>
inline void tile(const Product<Weight> & of, int64_t i, int64_t j) {
    const Weight * a_row[RM];
    const float * b_row[RN];
    for (int r = 0; r < RM; ++r) {
        a_row[r] = of.A + of.lda * (i + r);
    }
    for (int c = 0; c < RN; ++c) {
        b_row[c] = of.B + of.ldb * (j + c);
    }
    const int64_t step = of.lda * RM;
    const int64_t ahead = step * std::max<int64_t>(1, AHEAD_BYTES / int64_t(sizeof(Weight)) / step);
    constexpr int64_t LINE = 64 / sizeof(Weight);
    floats sums[RN][RM];
    for (int c = 0; c < RN; ++c) {
        for (int r = 0; r < RM; ++r) {
            sums[c][r] = all(0.0f);
        }
    }
    for (int64_t at = 0; at < of.k; at += LANES) {
        floats a[RM];
        for (int r = 0; r < RM; ++r) {
            a[r] = load(a_row[r] + at);
            if (FIRST && at % LINE == 0) {
                _mm_prefetch((const char *) (a_row[r] + at + ahead), _MM_HINT_T1);
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
            of.C[of.ldc * (j + c) + i + r] = fold(sums[c][r]);
        }
    }
}

// ---- for products of both kinds: `tile` says what a go is, RM how many rows, or vectors of rows, of A it takes ----

// `tile` for a width that is known only now.
template <int RM, int RN, bool FIRST, class AnyProduct>
inline void tile_of(int width, const AnyProduct & of, int64_t i, int64_t j) {
    if constexpr (RN > 0) {
        if (width == RN) {
            tile<RM, RN, FIRST>(of, i, j);
        } else {
            tile_of<RM, RN - 1, FIRST>(width, of, i, j);
        }
    }
}

// The rows of A from i on with all rows of B, in as few and as equal goes as MOST_WIDE allows.
template <int RM, int MOST_WIDE, class AnyProduct>
inline void strip(const AnyProduct & of, int64_t i) {
    const int64_t goes = (of.n + MOST_WIDE - 1) / MOST_WIDE;
    int64_t j = 0;
    for (int64_t go = 0; go < goes; ++go) {
        const int width = int((of.n - j + goes - go - 1) / (goes - go));
        if (go == 0) {
            tile_of<RM, MOST_WIDE, true>(width, of, i, j);
        } else {
            tile_of<RM, MOST_WIDE, false>(width, of, i, j);
        }
        j += width;
    }
}

template <class Weight>
void multiply(const ggml_compute_params * params, int64_t m, const Product<Weight> & of) {
    share_rows(params, m, of.lda * int64_t(sizeof(Weight)), [&](int64_t from, int64_t to) {
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

// The rows of B as floats, unpacked once for all rows of A.
const float * widened(const half * B, int64_t ldb, int64_t n, int64_t k) {
    static thread_local std::vector<float> room;
    if (int64_t(room.size()) < n * k) {
        room.resize(n * k);
    }
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t at = 0; at < k; at += LANES) {
            store(room.data() + j * k + at, load(B + ldb * j + at));
        }
    }
    return room.data();
}

// ---- blocks of 32 whole numbers and one scale ----
//
// Where the processor has the instructions, it multiplies bytes without a sign by bytes with one and sums up four products
// at a time. So weights are taken with an OFFSET that makes them positive, and what that adds is taken away again, known
// beforehand from the inputs. Elsewhere Q8_0 moves its signs over to the inputs.

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VNNI__)
#define TWO_ROWS_A_VECTOR
#endif

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

// The offset that makes every value of a type of block positive.
template <class Block> constexpr int OFFSET = 0;
template <> constexpr int OFFSET<block_q8> = 128;
template <> constexpr int OFFSET<block_q4> = 8; // that is how these are stored

// A block of inputs, ready for use.
struct Input {
    int8_t values[BLOCK];
    int32_t surplus[BLOCK / 4]; // what the offset adds, with the sign turned
    float scale;
};

template <class Block>
struct ProductOfBlocks {
    const Block * A;
    int64_t lda;
    const Input * B; // n rows of k blocks
    float * C;
    int64_t ldc;
    int64_t n, k;
    int64_t last; // the last row of A; it stands in for those that a vector has room for, and that there are not
};

// Vectors of whole numbers: a block each of PER rows of A, and as many times the same block of B.
#if defined(TWO_ROWS_A_VECTOR)
typedef __m512i bytes;
typedef __m512 sums_of_block;
constexpr int PER = 2;
constexpr int WIDE = 8; // rows of B in one go

struct Weights {
    bytes values;
};

inline sums_of_block zero() { return _mm512_setzero_ps(); }

template <class Block>
inline sums_of_block scales(const Block * const * rows, int64_t at) {
    const __m256 low = _mm256_set1_ps(_cvtsh_ss(rows[0][at].scale));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), _mm256_set1_ps(_cvtsh_ss(rows[1][at].scale)), 1);
}

inline Weights weights(const block_q8 * const * rows, int64_t at) {
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *) rows[0][at].values));
    const __m512i both = _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *) rows[1][at].values), 1);
    return {_mm512_xor_si512(both, _mm512_set1_epi8(-128))}; // the same as adding 128
}

inline Weights weights(const block_q4 * const * rows, int64_t at) {
    const __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) rows[0][at].values));
    const __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) rows[1][at].values));
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i shifts = _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0, //
                                            0x0004000400040004, 0x0004000400040004, 0, 0);
    return {_mm512_and_si512(_mm512_srlv_epi16(both, shifts), _mm512_set1_epi8(15))};
}

template <class Block>
inline sums_of_block dots(const Weights & of, const Input & input) {
    const __m512i b = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) input.values));
    const __m512i surplus = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *) input.surplus));
    return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(surplus, of.values, b));
}

inline sums_of_block scaled(sums_of_block scale, float b_scale, sums_of_block values, sums_of_block sums) {
    return _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(b_scale)), values, sums);
}

inline void put(sums_of_block sums, float * out, int64_t rows) {
    out[0] = fold(_mm512_castps512_ps256(sums));
    if (rows > 1) {
        out[1] = fold(_mm512_extractf32x8_ps(sums, 1));
    }
}
#else
typedef __m256i bytes;
typedef __m256 sums_of_block;
constexpr int PER = 1;
constexpr int WIDE = 4;

struct Weights {
    bytes values, signs;
};

inline sums_of_block zero() { return _mm256_setzero_ps(); }

template <class Block>
inline sums_of_block scales(const Block * const * rows, int64_t at) { return _mm256_set1_ps(_cvtsh_ss(rows[0][at].scale)); }

inline Weights weights(const block_q8 * const * rows, int64_t at) {
    const __m256i values = _mm256_loadu_si256((const __m256i *) rows[0][at].values);
    return {_mm256_abs_epi8(values), values};
}

inline Weights weights(const block_q4 * const * rows, int64_t at) {
    const __m128i low = _mm_loadu_si128((const __m128i *) rows[0][at].values);
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_srli_epi16(low, 4), 1);
    return {_mm256_and_si256(both, _mm256_set1_epi8(15)), both};
}

inline __m256i sums_of_four(__m256i positive, __m256i others) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(positive, others), _mm256_set1_epi16(1));
}

template <class Block>
inline sums_of_block dots(const Weights & of, const Input & input) {
    const __m256i b = _mm256_loadu_si256((const __m256i *) input.values);
    if constexpr (OFFSET<Block> == OFFSET<block_q8>) {
        return _mm256_cvtepi32_ps(sums_of_four(of.values, _mm256_sign_epi8(b, of.signs)));
    }
    const __m256i surplus = _mm256_loadu_si256((const __m256i *) input.surplus);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sums_of_four(of.values, b), surplus));
}

inline sums_of_block scaled(sums_of_block scale, float b_scale, sums_of_block values, sums_of_block sums) {
    return _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(b_scale)), values, sums);
}

inline void put(sums_of_block sums, float * out, int64_t) { out[0] = fold(sums); }
#endif

// VECTORS vectors of rows of A with RN rows of B.
template <int VECTORS, int RN, bool FIRST, class Block>
inline void tile(const ProductOfBlocks<Block> & of, int64_t i, int64_t j) {
    constexpr int ROWS = VECTORS * PER;
    const Block * a_row[ROWS];
    const Input * b_row[RN];
    for (int r = 0; r < ROWS; ++r) {
        a_row[r] = of.A + of.lda * std::min(i + r, of.last);
    }
    for (int c = 0; c < RN; ++c) {
        b_row[c] = of.B + of.k * (j + c);
    }
    const int64_t step = of.lda * ROWS * int64_t(sizeof(Block));
    const int64_t ahead = step * std::max<int64_t>(1, AHEAD_BYTES / step);
    sums_of_block sums[RN][VECTORS];
    for (int c = 0; c < RN; ++c) {
        for (int v = 0; v < VECTORS; ++v) {
            sums[c][v] = zero();
        }
    }
    for (int64_t at = 0; at < of.k; ++at) {
        Weights a[VECTORS];
        sums_of_block scale[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            a[v] = weights(a_row + v * PER, at);
            scale[v] = scales(a_row + v * PER, at);
            for (int r = v * PER; FIRST && r < (v + 1) * PER; ++r) {
                _mm_prefetch((const char *) (a_row[r] + at) + ahead, _MM_HINT_T1);
            }
        }
        for (int c = 0; c < RN; ++c) {
            const Input & input = b_row[c][at];
            for (int v = 0; v < VECTORS; ++v) {
                sums[c][v] = scaled(scale[v], input.scale, dots<Block>(a[v], input), sums[c][v]);
            }
        }
    }
    for (int c = 0; c < RN; ++c) {
        for (int v = 0; v < VECTORS; ++v) {
            put(sums[c][v], of.C + of.ldc * (j + c) + i + v * PER, of.last + 1 - i - v * PER);
        }
    }
}

const Input * prepared(const block_q8 * B, int64_t ldb, int64_t n, int64_t k, int offset) {
    static thread_local std::vector<Input> room;
    if (int64_t(room.size()) < n * k) {
        room.resize(n * k);
    }
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t at = 0; at < k; ++at) {
            const block_q8 & block = B[ldb * j + at];
            Input & input = room[j * k + at];
            const __m256i values = _mm256_loadu_si256((const __m256i *) block.values);
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), values);
            const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(short(-offset)));
            _mm256_storeu_si256((__m256i *) input.values, values);
            _mm256_storeu_si256((__m256i *) input.surplus, fours);
            input.scale = _cvtsh_ss(block.scale);
        }
    }
    return room.data();
}

template <class Block>
void multiply(const ggml_compute_params * params, int64_t m, const ProductOfBlocks<Block> & of) {
    share_rows(params, m, of.lda * int64_t(sizeof(Block)), [&](int64_t from, int64_t to) {
        int64_t i = from;
        for (; i + 2 * PER <= to; i += 2 * PER) {
            strip<2, WIDE>(of, i);
        }
        for (; i < to; i += PER) {
            strip<1, WIDE>(of, i);
        }
    });
}

// All n rows of inputs, some at a time.
template <class Block>
void multiply_all(const ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A, int64_t lda,
                  const void * B, int64_t ldb, void * C, int64_t ldc) {
    for (int64_t j = 0; j < n; j += AT_ONCE) {
        const int64_t rows = std::min(AT_ONCE, n - j);
        const Input * inputs = prepared((const block_q8 *) B + j * ldb, ldb, rows, k, OFFSET<Block>);
        multiply<Block>(params, m, {(const Block *) A, lda, inputs, (float *) C + j * ldc, ldc, rows, k, m - 1});
    }
}

#endif // FEW_ROWS_FLOATS

} // namespace

bool twd_few_rows(int type, int64_t columns, int64_t rows) {
    GGML_UNUSED(type);
    GGML_UNUSED(columns);
    GGML_UNUSED(rows);
#if defined(FEW_ROWS_FLOATS)
    if (type == GGML_TYPE_F32 || type == GGML_TYPE_F16) {
        return columns % LANES == 0 && rows % 4 == 0; // llama.cpp has its kernel for many rows under the same condition
    }
    if (type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0) {
        return columns % BLOCK == 0;
    }
#endif
    return false;
}

bool llamafile_sgemm(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k, const void * A,
                     int64_t lda, const void * B, int64_t ldb, void * C, int64_t ldc, int a_type, int b_type,
                     int c_type) {
#if defined(FEW_ROWS_FLOATS)
    const bool sound = m >= 1 && n >= 1 && c_type == GGML_TYPE_F32;
    const bool even = sound && a_type == b_type && twd_few_rows(a_type, k, m);
    if (even && a_type == GGML_TYPE_F32 && n <= AT_ONCE) {
        multiply<float>(params, m, {(const float *) A, lda, (const float *) B, ldb, (float *) C, ldc, n, k});
        return true;
    }
    if (even && a_type == GGML_TYPE_F16) {
        for (int64_t j = 0; j < n; j += AT_ONCE) {
            const int64_t rows = std::min(AT_ONCE, n - j);
            const float * inputs = widened((const half *) B + j * ldb, ldb, rows, k);
            multiply<half>(params, m, {(const half *) A, lda, inputs, k, (float *) C + j * ldc, ldc, rows, k});
        }
        return true;
    }
    if (sound && a_type == GGML_TYPE_Q8_0 && b_type == GGML_TYPE_Q8_0) {
        multiply_all<block_q8>(params, m, n, k, A, lda, B, ldb, C, ldc);
        return true;
    }
    if (sound && a_type == GGML_TYPE_Q4_0 && b_type == GGML_TYPE_Q8_0) {
        multiply_all<block_q4>(params, m, n, k, A, lda, B, ldb, C, ldc);
        return true;
    }
#endif
    return llamafile_sgemm_of_llama(params, m, n, k, A, lda, B, ldb, C, ldc, a_type, b_type, c_type);
}
