// How a matrix product is cut up: parts of the weights' rows for the threads, then tiles of some rows of weights with some
// rows of inputs. What a tile computes, the products say (floats.h, blocks.h, super_products.h).
#pragma once

#include "lanes.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t AT_ONCE = 64;         // rows of inputs that are unpacked at once
constexpr int64_t AHEAD_BYTES = 9216;   // how far ahead weights are asked for, at least
constexpr int64_t CHUNK_BYTES = 131072; // how much of a matrix a thread takes at once: many times what is asked ahead

// Rows of inputs, AT_ONCE at most, and where the results of each go.
struct Rows {
    const void * inputs[AT_ONCE];
    float * results[AT_ONCE];
    int64_t count;
};

// Calls work(from, to) for parts of the m rows of a matrix until all are taken. Parts are multiples of eight rows.
struct TakeTurns {
    const ggml_compute_params * params;

    template <class Work>
    void operator()(int64_t m, int64_t row_bytes, const Work & work) const {
        const int64_t fair = m / (params->nth * 4);
        const int64_t part = std::max<int64_t>(8, std::min<int64_t>(fair, CHUNK_BYTES / row_bytes) / 8 * 8);
        share(params, (m + part - 1) / part, [&](int64_t number) {
            work(number * part, std::min(m, (number + 1) * part));
        });
    }
};

// The same for one part a thread, where the threads need not wait for each other.
struct OnePartEach {
    const ggml_compute_params * params;

    template <class Work>
    void operator()(int64_t m, int64_t, const Work & work) const {
        const int64_t part = ((m + params->nth - 1) / params->nth + 7) / 8 * 8;
        const int64_t from = std::min(m, params->ith * part), to = std::min(m, from + part);
        if (from < to) {
            work(from, to);
        }
    }
};

// How many bytes ahead of a tile those are that come AHEAD_BYTES later: whole tiles, each of so many bytes.
inline int64_t ahead_of(int64_t tile_bytes) { return tile_bytes * std::max<int64_t>(1, AHEAD_BYTES / tile_bytes); }

// Asks for about so many bytes, in the order in which they lie: memory is quicker so than with a place in each row in turn.
// Returns where to go on.
template <int BYTES>
inline const char * asked_for(const char * from) {
    for (int line = 0; line < (BYTES + 63) / 64; ++line) {
        _mm_prefetch(from + 64 * line, _MM_HINT_T1);
    }
    return from + BYTES;
}

// A vector in a register. Compilers take what is used twice from memory twice, or compute it anew.
template <class Vector>
inline Vector held(Vector value) {
    asm("" : "+v"(value));
    return value;
}

// A tile whose width is known only now: RM rows, or vectors of rows, of weights with `width` rows of inputs. The FIRST
// to read these weights asks for those that come later.
template <int RM, int RN, bool FIRST, class Product>
inline void tile_of(int width, const Product & of, int64_t i, int64_t j) {
    if constexpr (RN > 0) {
        if (width == RN) {
            of.template tile<RM, RN, FIRST>(i, j);
        } else {
            tile_of<RM, RN - 1, FIRST>(width, of, i, j);
        }
    }
}

// The rows of weights from i on with all n rows of inputs, in as few and as equal goes as MOST allows.
template <int RM, int MOST, class Product>
inline void strip(const Product & of, int64_t i) {
    const int64_t goes = (of.n + MOST - 1) / MOST;
    int64_t j = 0;
    for (int64_t go = 0; go < goes; ++go) {
        const int width = int((of.n - j + goes - go - 1) / (goes - go));
        if (go == 0) {
            tile_of<RM, MOST, true>(width, of, i, j);
        } else {
            tile_of<RM, MOST, false>(width, of, i, j);
        }
        j += width;
    }
}

// Room that a thread keeps for so many of something; whoever asks for the same kind of thing gets it again.
template <class Thing>
inline Thing * room_for(int64_t count) {
    static thread_local std::vector<Thing> room;
    if (int64_t(room.size()) < count) {
        room.resize(count);
    }
    return room.data();
}

} // namespace
