// Attention for llama.cpp's CPU backend: its operation "flash attention", over a cache of keys and values of any type.
//
// As few_rows.cpp does for matrices, this stands in front of llama.cpp's own function and hands on what it does not take.
// Two things differ:
//
// * One row goes the same way as many, at any depth. llama.cpp has one kernel for single rows (and splits a long cache
//   among the threads), one for windows and one for 64 rows and more, which round in different places. Here a row's
//   result depends on its own query and on the keys that it sees, in their order, 64 after 64. Where they lie, and what
//   lies between them, changes nothing.
// * Queries go through the cache together: a block of keys and values is unpacked once for all heads that share it, and for
//   all rows that see everything up to some place. Sixteen keys are weighed at a time. The heads of a row that sees
//   something else go without other rows.

#include "lanes.h"

#include "ggml-cpu.h"
#include "ops.h"
#include "vec.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

extern "C" {
void ggml_compute_forward_flash_attn_ext_of_llama(const struct ggml_compute_params * params, struct ggml_tensor * dst);
// Whether this build has it for keys and values of these lengths; then one row goes the same way as many.
GGML_BACKEND_API bool twd_attention(int64_t key_length, int64_t value_length);
}

namespace {

#if defined(FEW_ROWS_FLOATS)

constexpr int64_t BLOCK = 64; // keys that are weighed together
constexpr int64_t QUERIES = 16; // that one thread takes at a time
constexpr int GROUP = 4;      // those that share what is in the registers
constexpr int WIDE = 4;       // vectors of a value that are summed up at a time
constexpr half NOT_SEEN = 0xFC00; // minus infinity

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

// Which places of the cache are gone through: all of them from the first on, or those of a list.
struct Places {
    const int32_t * list;

    int64_t operator[](int64_t number) const { return list == nullptr ? number : list[number]; }
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

    // Some rows as floats; rows of zeros after them, up to `room`.
    void unpack(const Places & places, int64_t from, int64_t count, int64_t room, float * out) const {
        const ggml_to_float_t widen = ggml_get_type_traits(type)->to_float;
        for (int64_t number = from; number < from + count; ++number, out += length) {
            const char * at = data + places[number] * stride;
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

// What is known of some queries after some blocks.
struct State {
    float most[QUERIES];  // the largest weight so far, before its exponential
    float total[QUERIES]; // the sum of all, relative to that
    float weight[QUERIES][BLOCK];
    bool every[QUERIES]; // whether none of the block's weights is zero
    std::vector<float> keys, values, sums;
};

State & state_of(const Attention & of, int64_t queries) {
    static thread_local State state;
    state.keys.resize(BLOCK * of.key_length);
    state.values.resize(BLOCK * of.value_length);
    state.sums.resize(QUERIES * of.value_length);
    std::fill(state.sums.begin(), state.sums.begin() + queries * of.value_length, 0.0f);
    std::fill(state.most, state.most + queries, -INFINITY);
    std::fill(state.total, state.total + queries, 0.0f);
    return state;
}

// How many places of a line of the mask are seen, and where the last of them ends.
void look(const half * mask, int64_t places, int64_t & seen, int64_t & end) {
    seen = end = 0;
    int64_t place = 0;
    for (; place + 16 <= places; place += 16) {
        const __m256i line = _mm256_loadu_si256((const __m256i *) (mask + place));
        const uint32_t two_each = ~uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi16(line, _mm256_set1_epi16(short(NOT_SEEN)))));
        if (two_each != 0) {
            seen += __builtin_popcount(two_each) / 2;
            end = place + 16 - __builtin_clz(two_each) / 2;
        }
    }
    for (; place < places; ++place) {
        if (mask[place] != NOT_SEEN) {
            ++seen;
            end = place + 1;
        }
    }
}

// What a query sees: its line of the mask, how many places, and whether those are the first ones.
struct Sight {
    const half * mask;
    float slope;
    int64_t count;
    bool first_ones;

    Sight(const Attention & of, int64_t row, int64_t head, int64_t stream, float slope)
        : mask(nullptr), slope(slope), count(of.keys), first_ones(true) {
        if (of.mask == nullptr) {
            return;
        }
        const size_t * strides = of.mask->nb;
        mask = (const half *) ((const char *) of.mask->data + row * strides[1] + head % of.mask->ne[2] * strides[2] +
                               stream % of.mask->ne[3] * strides[3]);
        int64_t end;
        look(mask, of.keys, count, end);
        first_ones = count == end;
    }

    // What the mask adds to the weights of a block: nothing but minus infinity where there is no more to see.
    void fill(const Places & places, int64_t from, float * out) const {
        if (mask != nullptr && places.list == nullptr && from + BLOCK <= count) {
            for (int64_t i = 0; i < BLOCK; i += LANES) {
                store(out + i, mul(load(mask + from + i), all(slope)));
            }
            return;
        }
        const int64_t seen = std::min(BLOCK, count - from);
        for (int64_t i = 0; i < seen; ++i) {
            out[i] = mask == nullptr ? 0.0f : slope * GGML_CPU_FP16_TO_FP32(mask[places[from + i]]);
        }
        std::fill(out + seen, out + BLOCK, -INFINITY);
    }
};

// Products of a block, no larger than the cap.
floats capped(floats products, float cap) {
    float each[LANES];
    store(each, products);
    for (float & one : each) {
        one = cap * std::tanh(one);
    }
    return load(each);
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
        floats products = mul(fold_each(sums), all(of.scale));
        if (of.cap != 0.0f) {
            products = capped(products, of.cap);
        }
        const floats masked = load(weight + key), sum = add_unless(-INFINITY, masked, products);
        store(weight + key, sum);
        most = larger(most, sum);
    }
    const float before = state.most[r], now = std::max(before, largest(most));
    const float fade = before == now ? 1.0f : std::exp(before - now);
    floats total = all(0.0f);
    bool every = true;
    for (int64_t key = 0; key < count; key += LANES) {
        const floats values = ggml_v_expf(sub(load(weight + key), all(now)));
        total = add(total, values);
        store(weight + key, values);
        const uint32_t nothing = zeros(values), wanted = count - key < LANES ? (1u << (count - key)) - 1 : (1u << LANES) - 1;
        every = every && (nothing & wanted) == 0;
    }
    state.every[r] = every;
    state.most[r] = now;
    state.total[r] = state.total[r] * fade + fold(total);
    if (fade != 1.0f) {
        float * sums = state.sums.data() + r * of.value_length;
        for (int64_t at = 0; at < of.value_length; at += LANES) {
            store(sums + at, mul(load(sums + at), all(fade)));
        }
    }
}

// The block's values, weighed by each of GROUP queries, added to their sums: V vectors of each value from `at` on. EVERY:
// no weight is zero.
template <int G, int V, bool EVERY>
void add_values(const Attention & of, State & state, const int64_t (&rows)[GROUP], int64_t count, int64_t at) {
    floats sums[G][V];
    for (int g = 0; g < G; ++g) {
        for (int i = 0; i < V; ++i) {
            sums[g][i] = load(state.sums.data() + rows[g] * of.value_length + at + i * LANES);
        }
    }
    for (int64_t key = 0; key < count; ++key) {
        if constexpr (!EVERY) {
            float any = 0.0f;
            for (int g = 0; g < G; ++g) {
                any += state.weight[rows[g]][key];
            }
            if (any == 0.0f) {
                continue; // nobody sees it, and nobody knows what lies there
            }
        }
        const float * value = state.values.data() + key * of.value_length + at;
        floats parts[V];
        for (int i = 0; i < V; ++i) {
            parts[i] = load(value + i * LANES);
        }
        for (int g = 0; g < G; ++g) {
            if (!EVERY && state.weight[rows[g]][key] == 0.0f) {
                continue; // this query does not see it, and would take over an infinite value
            }
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

template <int G, bool EVERY>
void add_whole_values(const Attention & of, State & state, const int64_t (&rows)[GROUP], int64_t count) {
    int64_t at = 0;
    for (; at + WIDE * LANES <= of.value_length; at += WIDE * LANES) {
        add_values<G, WIDE, EVERY>(of, state, rows, count, at);
    }
    for (; at < of.value_length; at += LANES) {
        add_values<G, 1, EVERY>(of, state, rows, count, at);
    }
}

template <int G>
void add_all_values(const Attention & of, State & state, const int64_t (&rows)[GROUP], int64_t count) {
    if (std::all_of(rows, rows + G, [&](int64_t row) { return state.every[row]; })) {
        add_whole_values<G, true>(of, state, rows, count);
    } else {
        add_whole_values<G, false>(of, state, rows, count);
    }
}

// Some heads of one stream that share keys and values, and some rows of their queries: the heads of the first row, then
// those of the next one.
struct Heads {
    const Attention & of;
    State & state;
    const Rows keys, values;
    const char * queries;
    const int64_t heads;

    Heads(const Attention & of, State & state, int64_t stream, int64_t head, int64_t heads, int64_t first)
        : of(of), state(state), keys(of.k, head, of.heads, stream, of.streams),
          values(of.v, head, of.heads, stream, of.streams),
          queries((const char *) of.q->data + first * of.q->nb[1] + head * of.q->nb[2] + stream * of.q->nb[3]),
          heads(heads) {}

    const float * query(int64_t number) const {
        return (const float *) (queries + number / heads * of.q->nb[1] + number % heads * of.q->nb[2]);
    }

    // Queries numbers[0], ... go through these places, each as far as it sees.
    void go(const Places & places, const int64_t * numbers, int64_t rows, const Sight * sights) const {
        int64_t farthest = 0;
        for (int64_t i = 0; i < rows; ++i) {
            farthest = std::max(farthest, sights[numbers[i]].count);
        }
        for (int64_t from = 0; from < farthest; from += BLOCK) {
            const int64_t count = std::min(BLOCK, farthest - from);
            keys.unpack(places, from, count, (count + LANES - 1) / LANES * LANES, state.keys.data());
            values.unpack(places, from, count, count, state.values.data());
            int64_t seeing[QUERIES] = {}, number = 0;
            for (int64_t i = 0; i < rows; ++i) {
                const int64_t r = numbers[i];
                if (sights[r].count > from) {
                    seeing[number++] = r;
                    sights[r].fill(places, from, state.weight[r]);
                    weigh(of, state, r, query(r), count);
                }
            }
            for (int64_t i = 0; i < number; i += GROUP) {
                int64_t group[GROUP] = {};
                const int64_t together = std::min<int64_t>(GROUP, number - i);
                std::copy(seeing + i, seeing + i + together, group);
                switch (together) {
                    case 4: add_all_values<4>(of, state, group, count); break;
                    case 3: add_all_values<3>(of, state, group, count); break;
                    case 2: add_all_values<2>(of, state, group, count); break;
                    default: add_all_values<1>(of, state, group, count);
                }
            }
        }
    }
};

// Whether the heads or streams of one tensor are shared evenly by those of another.
bool divides(int64_t part, int64_t whole) { return part > 0 && whole % part == 0; }

// Stops at an operation that no kernel could compute without reading or writing outside of its tensors. The graph may
// come from another machine, which tells the shapes.
void require_sound(const Attention & of) {
    for (const ggml_tensor * cache : {of.k, of.v}) {
        GGML_ASSERT(cache->ne[1] == of.keys && of.keys >= 0 && of.keys <= INT32_MAX);
        GGML_ASSERT(divides(cache->ne[2], of.heads) && divides(cache->ne[3], of.streams));
        GGML_ASSERT(cache->nb[0] == ggml_type_size(cache->type) && ggml_blck_size(cache->type) > 0);
        GGML_ASSERT(cache->ne[0] % ggml_blck_size(cache->type) == 0);
    }
    GGML_ASSERT(of.q->type == GGML_TYPE_F32); // llama.cpp reads it as such, whatever it says
    GGML_ASSERT(of.q->ne[0] == of.key_length && of.q->nb[0] == sizeof(float));
    GGML_ASSERT(of.out->type == GGML_TYPE_F32 && ggml_is_contiguous(of.out));
    GGML_ASSERT(of.out->nb[1] == of.value_length * sizeof(float)); // with a single head, nothing else tells
    GGML_ASSERT(of.out->ne[0] == of.value_length && of.out->ne[1] == of.heads);
    GGML_ASSERT(of.out->ne[2] == of.n && of.out->ne[3] == of.streams);
    if (of.mask != nullptr) {
        GGML_ASSERT(of.mask->ne[0] >= of.keys && of.mask->ne[1] >= of.n && ggml_is_contiguous(of.mask));
        GGML_ASSERT(of.mask->type == GGML_TYPE_F16 && of.mask->ne[2] > 0 && of.mask->ne[3] > 0);
    }
    if (of.sinks != nullptr) {
        GGML_ASSERT(of.sinks->type == GGML_TYPE_F32 && of.sinks->ne[0] == of.heads && of.sinks->nb[0] == sizeof(float));
        GGML_ASSERT(ggml_nelements(of.sinks) == of.heads);
    }
}

// Whether it can be unpacked here.
bool has_rows(const ggml_tensor * of) {
    const bool floats = of->type == GGML_TYPE_F16 || of->type == GGML_TYPE_F32;
    return strides_fit(of) && (floats || ggml_get_type_traits(of->type)->to_float != nullptr);
}

// How many heads and rows a thread takes at a time.
struct Portion {
    int64_t heads = 1, rows = 1, parts = 1;

    // Heads that share keys and values share the work of unpacking them, but there must be enough for all threads. One query
    // takes twice as long as unpacking.
    Portion(const Attention & of, int64_t threads) {
        const bool alike = of.mask == nullptr || of.mask->ne[2] == 1;
        const int64_t sharing = alike ? std::gcd(of.heads / of.k->ne[2], of.heads / of.v->ne[2]) : 1;
        int64_t least = INT64_MAX;
        for (int64_t some = 1; some <= std::min(sharing, QUERIES); ++some) {
            if (sharing % some == 0) {
                const int64_t most = std::max<int64_t>(1, std::min(of.n, QUERIES / some));
                const int64_t times = (of.n + most - 1) / most, tasks = of.streams * of.heads / some * times;
                const int64_t takes = (tasks + threads - 1) / threads * (1 + 2 * some * most);
                if (takes <= least) {
                    least = takes;
                    heads = some;
                    rows = most;
                    parts = times;
                }
            }
        }
    }
};

// Some queries, from the first block to their results.
void attend(const Attention & of, int64_t stream, int64_t head, int64_t heads, int64_t first, int64_t end) {
    static thread_local std::vector<Sight> sights;
    static thread_local std::vector<int32_t> list;
    const int64_t queries = (end - first) * heads;
    State & state = state_of(of, queries);
    const Heads cache(of, state, stream, head, heads, first);
    int64_t together[QUERIES], number = 0;
    sights.clear();
    for (int64_t row = first; row < end; ++row) {
        const Sight sight(of, row, head, stream, 1.0f); // all of these heads have the same
        for (int64_t i = 0; i < heads; ++i) {
            if (sight.first_ones) {
                together[number++] = int64_t(sights.size());
            }
            sights.push_back(sight);
            sights.back().slope = of.slope(head + i);
        }
    }
    cache.go({nullptr}, together, number, sights.data());
    for (int64_t row = 0; row < queries; row += heads) {
        if (!sights[row].first_ones) {
            list.clear();
            for (int32_t place = 0; place < of.keys; ++place) {
                if (sights[row].mask[place] != NOT_SEEN) {
                    list.push_back(place);
                }
            }
            for (int64_t i = 0; i < heads; ++i) {
                together[i] = row + i;
            }
            cache.go({list.data()}, together, heads, sights.data());
        }
    }
    for (int64_t r = 0; r < queries; ++r) {
        const int64_t row = first + r / heads, own = head + r % heads;
        float * sums = state.sums.data() + r * of.value_length;
        float total = state.total[r], fade = 1.0f;
        if (of.sinks != nullptr) {
            const float sink = ((const float *) of.sinks->data)[own];
            const float most = std::max(state.most[r], sink);
            fade = std::exp(state.most[r] - most);
            total = total * fade + std::exp(sink - most);
        }
        const float part = total == 0.0f ? 0.0f : fade / total;
        float * out = (float *) ((char *) of.out->data +
                                 (stream * of.out->ne[2] * of.out->ne[1] + own + row * of.out->ne[1]) * of.out->nb[1]);
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
    GGML_ASSERT(dst->src[0] != nullptr && dst->src[1] != nullptr && dst->src[2] != nullptr);
    const Attention of(dst);
    require_sound(of);
    const bool plain = of.q->type == GGML_TYPE_F32 && strides_fit(of.q) && has_rows(of.k) && has_rows(of.v);
    if (plain && twd_attention(of.key_length, of.value_length)) {
        const Portion each(of, params->nth);
        const int64_t groups = of.heads / each.heads;
        share(params, of.streams * groups * each.parts, [&](int64_t number) {
            const int64_t first = number % each.parts * each.rows, group = number / each.parts % groups;
            const int64_t stream = number / each.parts / groups;
            attend(of, stream, group * each.heads, each.heads, first, std::min(of.n, first + each.rows));
        });
        return;
    }
#endif
    ggml_compute_forward_flash_attn_ext_of_llama(params, dst);
}
