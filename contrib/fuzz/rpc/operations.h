// Random operations that language models use, as ggml's own functions make them.
#pragma once

#include "../kernels/shapes.h"

#include <functional>

// Makes the inputs of one operation, with sizes that fit.
struct Maker {
    ggml_context * context;
    Random & random;
    std::vector<ggml_tensor *> tensors;
    std::vector<std::pair<ggml_tensor *, int64_t>> choices; // numbers below a limit

    ggml_tensor * of(ggml_type type, int64_t a, int64_t b = 1, int64_t c = 1, int64_t d = 1) {
        tensors.push_back(ggml_new_tensor_4d(context, type, a, b, c, d));
        return tensors.back();
    }
    ggml_tensor * floats(int64_t a, int64_t b = 1, int64_t c = 1, int64_t d = 1) { return of(GGML_TYPE_F32, a, b, c, d); }
    ggml_tensor * numbers(int64_t limit, int64_t a, int64_t b = 1, int64_t c = 1) {
        choices.emplace_back(of(GGML_TYPE_I32, a, b, c), limit);
        return choices.back().first;
    }
    ggml_tensor * some() { return floats(random.upto(70), random.upto(5), random.upto(3), random.upto(2)); }
    ggml_tensor * like(const ggml_tensor * other) {
        return floats(other->ne[0], other->ne[1], other->ne[2], other->ne[3]);
    }
};

using Make = std::function<ggml_tensor *(Maker &)>;

inline ggml_tensor * make_rope(Maker & m) {
    const int64_t heads = m.random.upto(4), tokens = m.random.upto(6), row = 16 * m.random.upto(4);
    const bool sections = m.random.one_in(4);
    const int modes[] = {0, 2}, mode = sections ? GGML_ROPE_TYPE_MROPE : m.random.one_of(modes);
    int parts[4] = {int(row) / 4, int(row) / 8, int(row) / 8, 0};
    ggml_tensor * rows = m.floats(row, heads, tokens);
    ggml_tensor * at = m.numbers(4096, tokens * (sections ? 4 : 1));
    ggml_tensor * factors = m.random.one_in(3) ? m.floats(row / 2) : nullptr;
    return ggml_rope_multi(m.context, rows, at, factors, int(row), parts, mode, 512, 10000, 1, 0, 1, 32, 1);
}

inline ggml_tensor * make_scan(Maker & m) {
    const int64_t state = 8 * m.random.upto(3), dim = 4 * m.random.upto(3), groups = m.random.upto(2);
    const int64_t heads = groups * m.random.upto(2), tokens = m.random.upto(4), sequences = m.random.upto(2);
    ggml_tensor * s = m.floats(state, dim, heads, sequences + 1);
    ggml_tensor * x = m.floats(dim, heads, tokens, sequences);
    ggml_tensor * dt = m.floats(heads, tokens, sequences);
    ggml_tensor * a = m.floats(m.random.one_in(2) ? 1 : state, heads);
    ggml_tensor * b = m.floats(state, groups, tokens, sequences);
    ggml_tensor * c = m.floats(state, groups, tokens, sequences);
    return ggml_ssm_scan(m.context, s, x, dt, a, b, c, m.numbers(sequences + 1, sequences), 1);
}

inline ggml_tensor * make_attention_node(Maker & m) {
    const int64_t row = 32 * m.random.upto(3), groups = m.random.upto(2), heads = groups * m.random.upto(3);
    const int64_t tokens = m.random.upto(4), depth = 32 * m.random.upto(3);
    const ggml_type type = m.random.one_of(CACHES);
    ggml_tensor * q = m.floats(row, tokens, heads);
    ggml_tensor *k = m.of(type, row, depth, groups), *v = m.of(type, row, depth, groups);
    ggml_tensor * mask = m.random.one_in(3) ? nullptr : m.of(GGML_TYPE_F16, depth, tokens + m.random.upto(3) - 1);
    ggml_tensor * made = ggml_flash_attn_ext(m.context, q, k, v, mask, 0.2f, 0, m.random.one_in(4) ? 30 : 0);
    if (m.random.one_in(4)) {
        ggml_flash_attn_ext_add_sinks(made, m.floats(heads));
    }
    return made;
}

inline ggml_tensor * make_delta(Maker & m) {
    const int64_t row = 8 * m.random.upto(4), few = m.random.upto(2), heads = few * m.random.upto(2);
    const int64_t tokens = m.random.upto(4), sequences = m.random.upto(2);
    ggml_tensor *q = m.floats(row, few, tokens, sequences), *k = m.floats(row, few, tokens, sequences);
    ggml_tensor * v = m.floats(row, heads, tokens, sequences);
    ggml_tensor * gate = m.floats(m.random.one_in(2) ? 1 : row, heads, tokens, sequences);
    ggml_tensor * beta = m.floats(1, heads, tokens, sequences);
    ggml_tensor * state = m.floats(row, row, heads, sequences);
    return ggml_gated_delta_net(m.context, q, k, v, gate, beta, state, m.random.upto(3));
}

inline ggml_tensor * make_wkv(Maker & m, int which) {
    const int64_t size = which == 1 ? 64 * m.random.upto(2) : 8 * m.random.upto(9), heads = m.random.upto(3), sequences = m.random.upto(2);
    const int64_t tokens = sequences * m.random.upto(3);
    auto part = [&] { return m.floats(size, heads, tokens); };
    ggml_tensor *p[6] = {part(), part(), part(), part(), part(), part()};
    ggml_tensor * state = m.floats(size * size * heads, sequences);
    if (which == 0) {
        return ggml_rwkv_wkv6(m.context, p[0], p[1], p[2], m.floats(size, heads), p[3], state);
    }
    return which == 1 ? ggml_rwkv_wkv7(m.context, p[0], p[1], p[2], p[3], p[4], p[5], state)
                      : ggml_gated_linear_attn(m.context, p[0], p[1], p[2], p[3], state, 0.5f);
}

inline ggml_tensor * make_mat(Maker & m) {
    const ggml_type type = m.random.one_of(WEIGHTS);
    const int64_t block = ggml_blck_size(type), k = block * m.random.upto(block > 32 ? 2 : block > 1 ? 4 : 60);
    const int64_t groups = m.random.upto(2);
    ggml_tensor * weights = m.of(type, k, m.random.upto(9), groups);
    return ggml_mul_mat(m.context, weights, m.floats(k, m.random.upto(9), groups * m.random.upto(2)));
}

inline ggml_tensor * make_mat_id(Maker & m) {
    const ggml_type type = m.random.one_of(WEIGHTS);
    const int64_t block = ggml_blck_size(type), k = block * m.random.upto(2), experts = m.random.upto(6) + 1;
    const int64_t used = m.random.upto(2), tokens = m.random.upto(5);
    ggml_tensor *weights = m.of(type, k, m.random.upto(9), experts), *rows = m.floats(k, used, tokens);
    return ggml_mul_mat_id(m.context, weights, rows, m.numbers(experts, used, tokens));
}

inline ggml_tensor * make_get_rows(Maker & m) {
    const ggml_type type = m.random.one_of(WEIGHTS);
    const int64_t rows = m.random.upto(20);
    ggml_tensor * table = m.of(type, ggml_blck_size(type) * m.random.upto(3), rows);
    return ggml_get_rows(m.context, table, m.numbers(rows, m.random.upto(6)));
}

inline ggml_tensor * make_set_rows(Maker & m) {
    const ggml_type type = m.random.one_of(CACHES);
    const int64_t rows = m.random.upto(20), row = 32 * m.random.upto(3), count = m.random.upto(6);
    ggml_tensor *table = m.of(type, row, rows), *from = m.floats(row, count);
    return ggml_set_rows(m.context, table, from, m.numbers(rows, count));
}

inline ggml_tensor * make_soft_max(Maker & m) {
    ggml_tensor * rows = m.some();
    const bool half = m.random.one_in(2), mask = m.random.one_in(2);
    ggml_tensor * with = mask ? m.of(half ? GGML_TYPE_F16 : GGML_TYPE_F32, rows->ne[0], rows->ne[1]) : nullptr;
    ggml_tensor * made = ggml_soft_max_ext(m.context, rows, with, 0.3f, 0);
    if (m.random.one_in(4)) {
        ggml_soft_max_add_sinks(made, m.floats(rows->ne[2]));
    }
    return made;
}

inline ggml_tensor * make_concat(Maker & m) {
    ggml_tensor *a = m.some(), *b = m.like(a);
    return ggml_concat(m.context, a, b, int(m.random.upto(4)) - 1);
}

inline ggml_tensor * make_copy(Maker & m) {
    ggml_tensor * from = m.floats(32 * m.random.upto(3), m.random.upto(5), m.random.upto(2));
    const ggml_type type = m.random.one_of(CACHES);
    if (m.random.one_in(2)) {
        return ggml_cpy(m.context, from, m.of(type, from->ne[0], from->ne[1], from->ne[2]));
    }
    return ggml_cont(m.context, ggml_permute(m.context, from, 1, 0, 2, 3));
}

inline ggml_tensor * make_indexer(Maker & m) {
    const int64_t row = 32 * m.random.upto(2), heads = m.random.upto(3), tokens = m.random.upto(3), depth = m.random.upto(9);
    ggml_tensor *q = m.floats(row, heads, tokens), *k = m.of(GGML_TYPE_F16, row, 1, depth);
    ggml_tensor *weights = m.floats(heads, tokens), *mask = m.of(GGML_TYPE_F16, depth, tokens);
    return ggml_lightning_indexer(m.context, q, k, weights, mask);
}

inline ggml_tensor * make_mixed(Maker & m, int which) {
    const int64_t row = m.random.upto(40), tokens = m.random.upto(5), ways = 4;
    if (which == 0) {
        return ggml_dsv4_hc_comb(m.context, m.floats(24, tokens), m.floats(3), m.floats(24), 1e-6f, 2);
    }
    ggml_tensor * streams = m.floats(row, ways, tokens);
    if (which == 1) {
        return ggml_dsv4_hc_pre(m.context, streams, m.floats(ways, tokens));
    }
    ggml_tensor *x = m.floats(row, tokens), *post = m.floats(ways, tokens), *comb = m.floats(ways, ways, tokens);
    return ggml_dsv4_hc_post(m.context, x, streams, post, comb);
}

inline const std::vector<Make> & operations() {
    static const std::vector<Make> all = {
        [](Maker & m) { auto a = m.some(); return ggml_add(m.context, a, m.like(a)); },
        [](Maker & m) { auto a = m.some(); return ggml_mul(m.context, a, m.floats(a->ne[0])); },
        [](Maker & m) { auto a = m.some(); return ggml_sub(m.context, a, m.floats(1, a->ne[1])); },
        [](Maker & m) { auto a = m.some(); return ggml_div(m.context, a, m.like(a)); },
        [](Maker & m) { return ggml_sqr(m.context, m.some()); },
        [](Maker & m) { return ggml_sqrt(m.context, m.some()); },
        [](Maker & m) { return ggml_log(m.context, m.some()); },
        [](Maker & m) { return ggml_sin(m.context, m.some()); },
        [](Maker & m) { return ggml_sum(m.context, m.some()); },
        [](Maker & m) { return ggml_pool_2d(m.context, m.floats(2 + m.random.upto(9), 2 + m.random.upto(9), m.random.upto(3)), GGML_OP_POOL_MAX, 2, 2, 2, 1, 0, 0); },
        [](Maker & m) { return ggml_sum_rows(m.context, m.some()); },
        [](Maker & m) { return ggml_cumsum(m.context, m.some()); },
        [](Maker & m) { return ggml_mean(m.context, m.some()); },
        [](Maker & m) { return ggml_argmax(m.context, m.floats(m.random.upto(50), m.random.upto(5))); },
        [](Maker & m) { auto a = m.some(); return ggml_repeat_4d(m.context, a, 2 * a->ne[0], a->ne[1], 3 * a->ne[2], a->ne[3]); },
        [](Maker & m) { return ggml_norm(m.context, m.some(), 1e-5f); },
        [](Maker & m) { return ggml_rms_norm(m.context, m.some(), 1e-5f); },
        [](Maker & m) { return ggml_l2_norm(m.context, m.some(), 1e-5f); },
        [](Maker & m) { return ggml_group_norm(m.context, m.floats(8, 3, 4 * m.random.upto(3)), 4, 1e-5f); },
        [](Maker & m) { return ggml_scale_bias(m.context, m.some(), 0.5f, 0.1f); },
        [](Maker & m) { return ggml_clamp(m.context, m.some(), -1, 1); },
        [](Maker & m) { return ggml_diag(m.context, m.floats(m.random.upto(20), 1, m.random.upto(3))); },
        [](Maker & m) { return ggml_diag_mask_inf(m.context, m.some(), int(m.random.upto(5)) - 1); },
        [](Maker & m) { return ggml_pad(m.context, m.some(), 1, 2, 0, 1); },
        [](Maker & m) { return ggml_arange(m.context, 0, float(m.random.upto(30)), 1); },
        [](Maker & m) { return ggml_argsort(m.context, m.some(), GGML_SORT_ORDER_DESC); },
        [](Maker & m) { auto a = m.some(); return ggml_top_k(m.context, a, int(m.random.upto(a->ne[0]))); },
        [](Maker & m) { auto n = m.random.upto(20); return ggml_tri(m.context, m.floats(n, n, m.random.upto(3)), GGML_TRI_TYPE_LOWER); },
        [](Maker & m) { return ggml_fill(m.context, m.some(), 2); },
        [](Maker & m) { auto n = m.random.upto(20); return ggml_solve_tri(m.context, m.floats(n, n, 2), m.floats(m.random.upto(9), n, 2), true, true, false); },
        [](Maker & m) { auto d = m.random.upto(4), c = m.random.upto(9); return ggml_ssm_conv(m.context, m.floats(d + m.random.upto(5) - 1, c, m.random.upto(2)), m.floats(d, c)); },
        [](Maker & m) { return ggml_unary(m.context, m.some(), ggml_unary_op(m.random.upto(GGML_UNARY_OP_COUNT) - 1)); },
        [](Maker & m) { return ggml_glu(m.context, m.floats(2 * m.random.upto(30), m.random.upto(5)), GGML_GLU_OP_SWIGLU, m.random.one_in(2)); },
        [](Maker & m) { auto a = m.some(); return ggml_glu_split(m.context, a, m.like(a), GGML_GLU_OP_GEGLU); },
        [](Maker & m) { auto n = m.random.upto(5), r = m.random.upto(40), t = m.random.upto(4), u = m.random.upto(3); auto a = m.floats(r, u, t); return ggml_add_id(m.context, a, m.floats(r, n), m.numbers(n, u, t)); },
        [](Maker & m) { auto a = m.some(); return ggml_set_1d(m.context, a, m.floats(m.random.upto(a->ne[0])), 0); },
        make_rope, make_scan, make_attention_node, make_delta, make_mat, make_mat_id, make_get_rows, make_set_rows,
        make_soft_max, make_concat, make_copy, make_indexer,
        [](Maker & m) { return make_wkv(m, 0); }, [](Maker & m) { return make_wkv(m, 1); }, [](Maker & m) { return make_wkv(m, 2); },
        [](Maker & m) { return make_mixed(m, 0); }, [](Maker & m) { return make_mixed(m, 1); }, [](Maker & m) { return make_mixed(m, 2); },
    };
    return all;
}
