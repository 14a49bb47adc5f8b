// Random operations for the kernels: sound ones as llama.cpp makes them, some then spoilt in one place.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

// Numbers that a seed decides.
struct Random {
    uint64_t state;

    explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15ull + 0xD1B54A32D192ED03ull) {}

    uint64_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state * 0x2545F4914F6CDD1Dull;
    }
    int64_t upto(int64_t most) { return int64_t((next() >> 11) % uint64_t(most)) + 1; } // 1 .. most
    bool one_in(int64_t n) { return upto(n) == 1; }
    template <class T, size_t N>
    T one_of(const T (&items)[N]) { return items[upto(N) - 1]; }
};

constexpr ggml_type WEIGHTS[] = {
    GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_0, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL,
    GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_XS, GGML_TYPE_Q4_1};
constexpr ggml_type CACHES[] = {GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_BF16};

// One operation, its tensors without data yet.
struct Operation {
    ggml_context * context;
    ggml_tensor * result = nullptr;
    std::vector<ggml_tensor *> tensors; // those that need data, the result among them
    ggml_tensor * chosen = nullptr;     // the experts that rows chose
    int64_t experts = 0;
    int broken = 0; // whether a place was spoilt

    explicit Operation(ggml_context * context) : context(context) {}

    ggml_tensor * tensor(ggml_type type, int64_t a, int64_t b, int64_t c, int64_t d) {
        tensors.push_back(ggml_new_tensor_4d(context, type, a, b, c, d));
        return tensors.back();
    }
};

// Few rows mostly, now and then many.
inline int64_t some_rows(Random & random) { return random.one_in(6) ? random.upto(90) : random.upto(9); }

// A product of a matrix, or of several, with rows of inputs that may lie apart.
inline void make_product(Operation & op, Random & random) {
    const ggml_type type = random.one_of(WEIGHTS);
    const int64_t block = ggml_blck_size(type), k = block * random.upto(block > 32 ? 3 : block > 1 ? 8 : 80);
    const int64_t m = some_rows(random), n = some_rows(random), groups = random.one_in(3) ? random.upto(3) : 1;
    const int64_t each = random.one_in(3) ? random.upto(3) : 1, apart = random.one_in(4) ? random.upto(3) : 1;
    ggml_tensor * weights = op.tensor(type, k, m, groups, 1);
    const ggml_type inputs_type = random.one_in(5) && ggml_blck_size(type) == 1 ? type : GGML_TYPE_F32;
    ggml_tensor * inputs = op.tensor(inputs_type, k, n, groups * each, 1);
    for (int i = 1; i < GGML_MAX_DIMS; ++i) {
        inputs->nb[i] *= apart;
    }
    op.tensors.push_back(op.result = ggml_mul_mat(op.context, weights, inputs));
}

// A product with the experts that rows chose.
inline void make_expert_product(Operation & op, Random & random) {
    const ggml_type type = random.one_of(WEIGHTS);
    const int64_t block = ggml_blck_size(type), k = block * random.upto(block > 32 ? 3 : block > 1 ? 8 : 80);
    const int64_t used = random.upto(4), count = some_rows(random);
    op.experts = used + random.upto(4);
    ggml_tensor * weights = op.tensor(type, k, some_rows(random), op.experts, 1);
    ggml_tensor * inputs = op.tensor(GGML_TYPE_F32, k, random.one_in(2) ? 1 : used, count, 1);
    op.chosen = op.tensor(GGML_TYPE_I32, used, count, 1, 1);
    op.tensors.push_back(op.result = ggml_mul_mat_id(op.context, weights, inputs, op.chosen));
}

inline void make_attention(Operation & op, Random & random) {
    const ggml_type type_k = random.one_of(CACHES), type_v = random.one_in(2) ? type_k : random.one_of(CACHES);
    const int64_t key = 32 * random.upto(5), value = 32 * random.upto(5), kv = random.upto(3), heads = kv * random.upto(3);
    const int64_t rows = random.one_in(5) ? random.upto(40) : random.upto(5), streams = random.one_in(4) ? 2 : 1;
    const int64_t places = random.one_in(6) ? random.upto(700) : random.upto(150);
    ggml_tensor * q = op.tensor(GGML_TYPE_F32, key, rows, heads, streams);
    ggml_tensor * k = op.tensor(type_k, key, places, kv, streams);
    ggml_tensor * v = op.tensor(type_v, value, places, kv, streams);
    ggml_tensor * mask = random.one_in(5) ? nullptr : op.tensor(GGML_TYPE_F16, places, rows + random.upto(3) - 1, 1, random.one_in(2) ? streams : 1);
    const float bias = mask != nullptr && random.one_in(4) ? 8.0f : 0.0f, cap = random.one_in(4) ? 30.0f : 0.0f;
    op.result = ggml_flash_attn_ext(op.context, q, k, v, mask, 0.125f, bias, cap);
    if (random.one_in(4)) {
        ggml_flash_attn_ext_add_sinks(op.result, op.tensor(GGML_TYPE_F32, heads, 1, 1, 1));
    }
    op.tensors.push_back(op.result);
}

// A number near one that is right, or far from any.
inline int64_t other_number(Random & random, int64_t now) {
    constexpr int64_t NEAR[] = {0, 1, 2, 3, 7, 16, 31, 33, 64, 255, 256, 1000, 4096, 65536};
    switch (random.upto(4)) {
        case 1: return now + random.upto(5) - 3;
        case 2: return now * random.upto(3);
        case 3: return now / 2;
        default: return random.one_of(NEAR);
    }
}

// One thing of one tensor becomes another one.
inline void spoil(Operation & op, Random & random) {
    ++op.broken;
    ggml_tensor * of = op.tensors[random.upto(int64_t(op.tensors.size())) - 1];
    // ggml itself reads the chosen experts before it asks us, and believes that they are of 32 bits and two dimensions
    const int64_t at = random.upto(of == op.chosen ? 2 : GGML_MAX_DIMS) - 1;
    switch (random.upto(8)) {
        case 1:
        case 2:
        case 3: of->ne[at] = other_number(random, of->ne[at]); break;
        case 4:
        case 5: of->nb[at] = size_t(other_number(random, int64_t(of->nb[at]))); break;
        case 6: of->type = of == op.chosen ? of->type : random.one_of(WEIGHTS); break;
        case 7: op.result->op_params[random.upto(3) - 1] = int32_t(random.next()); break;
        default: op.result->src[2 + random.upto(2)] = random.one_in(2) ? nullptr : op.tensors[0]; // the mask or the sinks
    }
}
