// Attention for llama.cpp's CPU backend: its operation "flash attention", over a cache of keys and values of any type.
//
// As few_rows.cpp does for matrices, this stands in front of llama.cpp's own function and hands on what it does not take.
// Two things differ:
//
// * One row goes the same way as many, at any depth. llama.cpp has one kernel for single rows (and splits a long cache
//   among the threads), one for windows and one for 64 rows and more, which round in different places. Here a row's
//   result depends on its own query and the keys that it sees, which are gone through in blocks that begin at fixed
//   places; what it does not see changes nothing.
// * A block of keys and values is unpacked once for several rows, and sixteen keys are weighed at a time.

#include "lanes.h"

#include "ggml-cpu.h"
#include "ops.h"
#include "vec.h"

#include <cmath>
#include <cstring>
#include <vector>

extern "C" {
void ggml_compute_forward_flash_attn_ext_of_llama(const struct ggml_compute_params * params, struct ggml_tensor * dst);
// Whether this build has it for keys and values of these lengths; then one row goes the same way as many.
GGML_BACKEND_API bool twd_attention(int64_t key_length, int64_t value_length);
}

namespace {

#if defined(FEW_ROWS_FLOATS)

constexpr int64_t BLOCK = 64; // keys that are weighed together
constexpr int64_t ROWS = 16;  // queries of one head that one thread takes at a time
constexpr int GROUP = 4;      // those that share what is in the registers
constexpr int WIDE = 4;       // vectors of a value that are summed up at a time

// The operation: its tensors and numbers.
struct Attention {
    const ggml_tensor *out, *q, *k, *v, *mask, *sinks;
    float scale, bias, cap;
    int64_t n, heads, streams, keys, key_length, value_length;

    explicit Attention(const ggml_tensor * dst)
        : out(dst), q(dst->src[0]), k(dst->src[1]), v(dst->src[2]), mask(dst->src[3]), sinks(dst->src[4]),
          n(q->ne[1]), heads(q->ne[2]), streams(q->ne[3]), keys(k->ne[1]), key_length(k->ne[0]),
          value_length(v->ne[0]) {
        memcpy(&scale, (const float *) dst->op_params + 0, sizeof(float));
        memcpy(&bias, (const float *) dst->op_params + 1, sizeof(float));
        memcpy(&cap, (const float *) dst->op_params + 2, sizeof(float));
        if (cap != 0.0f) {
            scale /= cap;
        }
    }

    // How much the distance counts for a head (ALiBi); without that, the mask counts as it is.
    float slope(int64_t head) const {
        if (bias <= 0.0f) {
            return 1.0f;
        }
        const int64_t power = int64_t(1) << int64_t(std::floor(std::log2(double(heads))));
        const float first = std::pow(2.0f, -bias / power), second = std::pow(2.0f, -bias / 2.0f / power);
        return head < power ? std::pow(first, head + 1) : std::pow(second, 2 * (head - power) + 1);
    }
};

// The rows of a tensor of the cache, for one head and stream.
struct Rows {
    const char * data;
    size_t stride;
    ggml_type type;
    int64_t length;

    Rows(const ggml_tensor * of, int64_t head, int64_t heads, int64_t stream, int64_t streams)
        : data((const char *) of->data + head / (heads / of->ne[2]) * of->nb[2] +
               stream / (streams / of->ne[3]) * of->nb[3]),
          stride(of->nb[1]), type(of->type), length(of->ne[0]) {}

    // Rows from..from+count as floats; rows of zeros after them, up to `room`.
    void unpack(int64_t from, int64_t count, int64_t room, float * out) const {
        const ggml_to_float_t widen = ggml_get_type_traits(type)->to_float;
        for (int64_t row = 0; row < count; ++row, out += length) {
            const char * at = data + (from + row) * stride;
            if (type == GGML_TYPE_F16) {
                for (int64_t i = 0; i < length; i += LANES) {
                    store(out + i, load((const half *) at + i));
                }
            } else if (type == GGML_TYPE_F32) {
                memcpy(out, at, length * sizeof(float));
            } else {
                widen(at, out, length);
            }
        }
        std::fill(out, out + (room - count) * length, 0.0f);
    }
};

// What is known of some queries of one head after some blocks.
struct State {
    float most[ROWS];         // the largest weight so far, before its exponential
    float total[ROWS];        // the sum of all, relative to that
    float weight[ROWS][BLOCK];
    std::vector<float> keys, values, sums;
};

State & state_of(const Attention & of) {
    static thread_local State state;
    state.keys.resize(BLOCK * of.key_length);
    state.values.resize(BLOCK * of.value_length);
    state.sums.assign(ROWS * of.value_length, 0.0f);
    std::fill(state.most, state.most + ROWS, -INFINITY);
    std::fill(state.total, state.total + ROWS, 0.0f);
    return state;
}

// What the mask adds to the weights of a block; how many of its keys it leaves, up to the last one.
int64_t masked(const Attention & of, int64_t row, int64_t head, int64_t stream, float slope, int64_t from, int64_t count,
               float * out) {
    if (of.mask == nullptr) {
        std::fill(out, out + count, 0.0f);
        std::fill(out + count, out + BLOCK, -INFINITY);
        return count;
    }
    const ggml_tensor & mask = *of.mask;
    const half * at = (const half *) ((const char *) mask.data + row * mask.nb[1] + head % mask.ne[2] * mask.nb[2] +
                                      stream % mask.ne[3] * mask.nb[3]) + from;
    int64_t seen = 0;
    for (int64_t key = 0; key < BLOCK; key += LANES) {
        if (key + LANES <= count) {
            store(out + key, mul(load(at + key), all(slope)));
        } else {
            for (int64_t i = key; i < key + LANES; ++i) {
                out[i] = i < count ? slope * GGML_CPU_FP16_TO_FP32(at[i]) : -INFINITY;
            }
        }
        if (largest(load(out + key)) > -INFINITY) {
            seen = key + LANES;
        }
    }
    return std::min(seen, count);
}

// How a query weighs the keys of the block: products, scaled, capped and masked, and then their exponentials.
void weigh(const Attention & of, State & state, int64_t r, const float * query, int64_t count) {
    float * weight = state.weight[r]; // holds the mask
    floats most = all(-INFINITY);
    for (int64_t key = 0; key < count; key += LANES) {
        floats sums[LANES];
        for (int i = 0; i < LANES; ++i) {
            sums[i] = all(0.0f);
        }
        for (int64_t at = 0; at < of.key_length; at += LANES) {
            const floats part = load(query + at);
            const float * keys = state.keys.data() + key * of.key_length + at;
            for (int i = 0; i < LANES; ++i) {
                sums[i] = madd(part, load(keys + i * of.key_length), sums[i]);
            }
        }
        float products[LANES];
        store(products, mul(fold_each(sums), all(of.scale)));
        for (int i = 0; i < LANES; ++i) {
            const float product = of.cap != 0.0f ? of.cap * std::tanh(products[i]) : products[i];
            weight[key + i] = weight[key + i] == -INFINITY ? -INFINITY : product + weight[key + i];
        }
        most = larger(most, load(weight + key));
    }
    const float before = state.most[r], now = std::max(before, largest(most));
    const float fade = before == now ? 1.0f : std::exp(before - now);
    floats total = all(0.0f);
    for (int64_t key = 0; key < count; key += LANES) {
        const floats values = ggml_v_expf(sub(load(weight + key), all(now)));
        total = madd(values, all(1.0f), total);
        store(weight + key, values);
    }
    state.most[r] = now;
    state.total[r] = state.total[r] * fade + fold(total);
    if (fade != 1.0f) {
        float * sums = state.sums.data() + r * of.value_length;
        for (int64_t at = 0; at < of.value_length; at += LANES) {
            store(sums + at, mul(load(sums + at), all(fade)));
        }
    }
}

// The block's values, weighed by each of GROUP queries, added to their sums: V vectors of each value from `at` on.
template <int G, int V>
void add_values(const Attention & of, State & state, const int64_t (&rows)[GROUP], int64_t count, int64_t at) {
    floats sums[G][V];
    for (int g = 0; g < G; ++g) {
        for (int i = 0; i < V; ++i) {
            sums[g][i] = load(state.sums.data() + rows[g] * of.value_length + at + i * LANES);
        }
    }
    for (int64_t key = 0; key < count; ++key) {
        float any = 0.0f;
        for (int g = 0; g < G; ++g) {
            any += state.weight[rows[g]][key];
        }
        if (any == 0.0f) {
            continue; // nobody sees it, and nobody knows what lies there
        }
        const float * value = state.values.data() + key * of.value_length + at;
        floats parts[V];
        for (int i = 0; i < V; ++i) {
            parts[i] = load(value + i * LANES);
        }
        for (int g = 0; g < G; ++g) {
            const floats weight = all(state.weight[rows[g]][key]);
            for (int i = 0; i < V; ++i) {
                sums[g][i] = madd(weight, parts[i], sums[g][i]);
            }
        }
    }
    for (int g = 0; g < G; ++g) {
        for (int i = 0; i < V; ++i) {
            store(state.sums.data() + rows[g] * of.value_length + at + i * LANES, sums[g][i]);
        }
    }
}

template <int G>
void add_all_values(const Attention & of, State & state, const int64_t (&rows)[GROUP], int64_t count) {
    int64_t at = 0;
    for (; at + WIDE * LANES <= of.value_length; at += WIDE * LANES) {
        add_values<G, WIDE>(of, state, rows, count, at);
    }
    for (; at < of.value_length; at += LANES) {
        add_values<G, 1>(of, state, rows, count, at);
    }
}

// Some queries of one head of one stream, from the first block to their results.
void attend(const Attention & of, int64_t stream, int64_t head, int64_t first, int64_t end) {
    State & state = state_of(of);
    const Rows keys(of.k, head, of.heads, stream, of.streams), values(of.v, head, of.heads, stream, of.streams);
    const float slope = of.slope(head);
    const char * queries = (const char *) of.q->data + head * of.q->nb[2] + stream * of.q->nb[3];
    for (int64_t from = 0; from < of.keys; from += BLOCK) {
        int64_t seeing[ROWS], number = 0, count = 0;
        for (int64_t r = 0; r < end - first; ++r) {
            const int64_t seen = masked(of, first + r, head, stream, slope, from, std::min(BLOCK, of.keys - from),
                                        state.weight[r]);
            if (seen > 0) {
                seeing[number++] = r;
                count = std::max(count, seen);
            }
        }
        if (number == 0) {
            continue;
        }
        keys.unpack(from, count, (count + LANES - 1) / LANES * LANES, state.keys.data());
        values.unpack(from, count, count, state.values.data());
        for (int64_t i = 0; i < number; ++i) {
            weigh(of, state, seeing[i], (const float *) (queries + (first + seeing[i]) * of.q->nb[1]), count);
        }
        for (int64_t i = 0; i < number;) {
            int64_t rows[GROUP] = {};
            const int64_t together = std::min<int64_t>(GROUP, number - i);
            std::copy(seeing + i, seeing + i + together, rows);
            switch (together) {
                case 4: add_all_values<4>(of, state, rows, count); break;
                case 3: add_all_values<3>(of, state, rows, count); break;
                case 2: add_all_values<2>(of, state, rows, count); break;
                default: add_all_values<1>(of, state, rows, count);
            }
            i += together;
        }
    }
    for (int64_t r = 0; r < end - first; ++r) {
        float * sums = state.sums.data() + r * of.value_length;
        float total = state.total[r], fade = 1.0f;
        if (of.sinks != nullptr) {
            const float sink = ((const float *) of.sinks->data)[head];
            const float most = std::max(state.most[r], sink);
            fade = std::exp(state.most[r] - most);
            total = total * fade + std::exp(sink - most);
        }
        const float part = total == 0.0f ? 0.0f : fade / total;
        float * out = (float *) ((char *) of.out->data +
                                 (stream * of.out->ne[2] * of.out->ne[1] + head + (first + r) * of.out->ne[1]) * of.out->nb[1]);
        for (int64_t at = 0; at < of.value_length; at += LANES) {
            store(out + at, mul(load(sums + at), all(part)));
        }
    }
}

#endif // FEW_ROWS_FLOATS

} // namespace

bool twd_attention(int64_t key_length, int64_t value_length) {
#if defined(FEW_ROWS_FLOATS)
    return key_length > 0 && value_length > 0 && key_length % LANES == 0 && value_length % LANES == 0;
#else
    GGML_UNUSED(key_length);
    GGML_UNUSED(value_length);
    return false;
#endif
}

void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params * params, struct ggml_tensor * dst) {
#if defined(FEW_ROWS_FLOATS)
    const Attention of(dst);
    const bool plain = of.q->type == GGML_TYPE_F32 && of.q->nb[0] == sizeof(float) && dst->nb[0] == sizeof(float) &&
                       (of.mask == nullptr || of.mask->type == GGML_TYPE_F16);
    if (plain && twd_attention(of.key_length, of.value_length)) {
        const int64_t parts = (of.n + ROWS - 1) / ROWS;
        share(params, of.streams * of.heads * parts, [&](int64_t number) {
            const int64_t first = number % parts * ROWS, head = number / parts % of.heads;
            attend(of, number / parts / of.heads, head, first, std::min(of.n, first + ROWS));
        });
        return;
    }
#endif
    ggml_compute_forward_flash_attn_ext_of_llama(params, dst);
}
