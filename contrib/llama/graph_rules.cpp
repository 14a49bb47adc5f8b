// Each operation is made anew with ggml's own functions, which check its inputs, and the results are compared. Where
// these functions trust more than the kernels may, the rest is checked here.

#include "graph_rules.h"

#include "ggml-impl.h"

namespace twd {

namespace {

void need(bool holds, const char * why) {
    if (!holds) {
        throw Refused(why);
    }
}

// The node with its inputs and numbers.
struct Node {
    ggml_context * context;
    const ggml_tensor * node;

    ggml_tensor * source(int i) const {
        need(node->src[i] != nullptr, "an input that is missing");
        return node->src[i];
    }
    ggml_tensor * a() const { return source(0); }
    ggml_tensor * b() const { return source(1); }
    ggml_tensor * c() const { return source(2); }
    int32_t number(int i) const { return ggml_get_op_params_i32(node, i); }
    float real(int i) const { return ggml_get_op_params_f32(node, i); }
};

// As ggml allocates results: also where a size is one, its stride is that of the one before.
bool in_one_piece(const ggml_tensor * of) {
    for (int i = 1; i < GGML_MAX_DIMS; ++i) {
        const int64_t row = i == 1 ? ggml_blck_size(of->type) : 1;
        if (of->nb[i] != of->nb[i - 1] * size_t(of->ne[i - 1] / row)) {
            return false;
        }
    }
    return of->nb[0] == ggml_type_size(of->type);
}

bool is(const ggml_tensor * of, ggml_type type, int64_t a, int64_t b, int64_t c, int64_t d) {
    return of->type == type && of->ne[0] == a && of->ne[1] == b && of->ne[2] == c && of->ne[3] == d;
}

// ggml divides by these sizes.
ggml_tensor * divisor(ggml_tensor * of) {
    need(of == nullptr || (of->ne[1] > 0 && of->ne[2] > 0 && of->ne[3] > 0), "a size of zero");
    return of;
}

// Whether there are functions that read it as floats.
ggml_tensor * values(ggml_tensor * of) {
    need(of->type == GGML_TYPE_F32 || ggml_get_type_traits(of->type)->to_float != nullptr, "an input that holds no values");
    return of;
}

void all_floats(const Node & of, int sources) {
    for (int i = 0; i < sources; ++i) {
        need(of.source(i)->type == GGML_TYPE_F32, "an input that is not F32");
    }
}

ggml_tensor * rope(const Node & of) {
    const int dims = of.number(1), mode = of.number(2), offset = of.number(15);
    const int64_t row = of.a()->ne[0];
    need(dims >= 0 && dims % 2 == 0 && offset >= 0 && int64_t(dims) + offset <= row, "a rotation beyond its row");
    int sections[GGML_MROPE_SECTIONS];
    for (int i = 0; i < GGML_MROPE_SECTIONS; ++i) {
        sections[i] = of.number(11 + i);
    }
    return ggml_rope_multi(of.context, of.a(), of.b(), of.node->src[2], dims, sections, mode, of.number(4), of.real(5),
                           of.real(6), of.real(7), of.real(8), of.real(9), of.real(10));
}

ggml_tensor * soft_max(const Node & of) {
    ggml_tensor * made = ggml_soft_max_ext(of.context, of.a(), divisor(of.node->src[1]), of.real(0), of.real(1));
    ggml_soft_max_add_sinks(made, of.node->src[2]);
    return made;
}

ggml_tensor * attention(const Node & of) {
    const ggml_tensor *q = of.a(), *k = of.b(), *v = of.c(), *mask = of.node->src[3];
    need(q->type == GGML_TYPE_F32, "queries that are not F32");
    need(k->ne[1] == v->ne[1] && k->ne[2] == v->ne[2], "keys and values of other counts");
    need(k->ne[2] > 0 && q->ne[2] % k->ne[2] == 0, "heads that do not divide");
    need(mask == nullptr || (mask->ne[0] >= k->ne[1] && mask->ne[1] >= q->ne[1]), "a mask that is too small");
    ggml_tensor * made =
        ggml_flash_attn_ext(of.context, of.a(), values(divisor(of.b())), values(divisor(of.c())), divisor(of.node->src[3]),
                                               of.real(0), of.real(1), of.real(2));
    ggml_flash_attn_ext_add_sinks(made, of.node->src[4]);
    return made;
}

ggml_tensor * gated(const Node & of) {
    const auto op = ggml_glu_op(of.number(0));
    need(op >= 0 && op < GGML_GLU_OP_COUNT, "an unknown gate");
    return of.node->src[1] != nullptr ? ggml_glu_split(of.context, of.a(), of.b(), op)
                                      : ggml_glu(of.context, of.a(), op, of.number(1) != 0);
}

ggml_tensor * unary(const Node & of) {
    const auto op = ggml_unary_op(of.number(0));
    need(op >= 0 && op < GGML_UNARY_OP_COUNT, "an unknown function");
    return ggml_unary(of.context, of.a(), op);
}

ggml_tensor * padded(const Node & of) {
    for (int i = 0; i < 8; ++i) {
        need(of.number(i) >= 0, "a padding below nothing");
    }
    return ggml_pad_ext(of.context, of.a(), of.number(0), of.number(1), of.number(2), of.number(3), of.number(4),
                        of.number(5), of.number(6), of.number(7));
}

ggml_tensor * scan(const Node & of) {
    all_floats(of, 6);
    need(of.node->src[4]->ne[1] > 0 && of.node->src[1]->ne[1] % of.node->src[4]->ne[1] == 0, "groups that do not divide");
    return ggml_ssm_scan(of.context, of.a(), of.b(), of.c(), of.source(3), of.source(4), of.source(5), of.source(6),
                         of.number(0));
}

constexpr int64_t VECTOR = 64; // kernels read so many floats of a head at once

// Sequences of a state share the tokens evenly.
void check_state(const Node & of, int state) {
    all_floats(of, state + 1);
    const int64_t sequences = of.source(state)->ne[1];
    need(sequences > 0 && of.a()->ne[2] % sequences == 0, "tokens that sequences do not share evenly");
}

ggml_tensor * wkv6(const Node & of) {
    check_state(of, 5);
    need(ggml_nelements(of.source(3)) == of.a()->ne[0] * of.a()->ne[1], "a bonus of another size");
    return ggml_rwkv_wkv6(of.context, of.a(), of.b(), of.c(), of.source(3), of.source(4), of.source(5));
}

ggml_tensor * wkv7(const Node & of) {
    check_state(of, 6);
    need(of.a()->ne[0] % VECTOR == 0, "a head that vectors do not fill");
    return ggml_rwkv_wkv7(of.context, of.a(), of.b(), of.c(), of.source(3), of.source(4), of.source(5), of.source(6));
}

ggml_tensor * linear_attention(const Node & of) {
    check_state(of, 4);
    return ggml_gated_linear_attn(of.context, of.a(), of.b(), of.c(), of.source(3), of.source(4), of.real(0));
}

ggml_tensor * delta_net(const Node & of) {
    const ggml_tensor *v = of.c(), *gate = of.source(3), *beta = of.source(4);
    for (const ggml_tensor * one : {of.a(), of.b()}) {
        need(one->ne[0] == v->ne[0] && one->ne[2] == v->ne[2], "queries or keys of another size");
        need(one->ne[1] > 0 && v->ne[1] % one->ne[1] == 0, "heads that do not divide");
        need(one->ne[3] > 0 && v->ne[3] % one->ne[3] == 0, "sequences that do not divide");
    }
    need(is(gate, GGML_TYPE_F32, gate->ne[0], v->ne[1], v->ne[2], v->ne[3]), "a gate of another size");
    need(is(beta, GGML_TYPE_F32, 1, v->ne[1], v->ne[2], v->ne[3]), "a beta of another size");
    return ggml_gated_delta_net(of.context, of.a(), of.b(), of.c(), of.source(3), of.source(4), of.source(5),
                                of.number(0));
}

ggml_tensor * pooled(const Node & of) {
    const auto how = ggml_op_pool(of.number(0));
    need(how >= 0 && how < GGML_OP_POOL_COUNT, "an unknown way to pool");
    for (int i = 1; i < 5; ++i) {
        need(of.number(i) > 0, "a window or a step of nothing");
    }
    need(of.number(5) >= 0 && of.number(6) >= 0, "a padding below nothing");
    need(in_one_piece(of.a()), "an input in pieces");
    return ggml_pool_2d(of.context, of.a(), how, of.number(1), of.number(2), of.number(3), of.number(4),
                        float(of.number(5)), float(of.number(6)));
}

ggml_tensor * copied(const Node & of) {
    need(ggml_nelements(of.a()) == ggml_nelements(of.node), "another count of elements");
    return nullptr;
}

ggml_tensor * rows_set(const Node & of) {
    need(ggml_are_same_layout(of.node, of.c()), "a result that is not its destination");
    return ggml_set_rows(of.context, of.c(), of.a(), divisor(of.b()));
}

ggml_tensor * set(const Node & of) {
    for (int i = 0; i < 4; ++i) {
        need(of.number(i) >= 0, "a place before the tensor");
    }
    const ggml_tensor * part = of.b();
    __int128 end = of.number(3) + __int128(part->ne[0]) * ggml_element_size(of.a());
    for (int i = 1; i < GGML_MAX_DIMS; ++i) {
        end += __int128(part->ne[i] - 1) * of.number(i - 1);
    }
    need(ggml_is_empty(part) || end <= __int128(ggml_nbytes(of.node)), "a part beyond the tensor");
    need(part->type == of.a()->type, "a part of another type");
    return ggml_set(of.context, of.a(), of.b(), of.number(0), of.number(1), of.number(2), of.number(3));
}

// The operation with the same inputs; nullptr: all was checked already.
ggml_tensor * made_anew(const Node & of) {
    ggml_context * in = of.context;
    switch (of.node->op) {
        case GGML_OP_ADD: return ggml_add(in, of.a(), of.b());
        case GGML_OP_ADD_ID: return ggml_add_id(in, of.a(), of.b(), of.c());
        case GGML_OP_SUB: return ggml_sub(in, of.a(), of.b());
        case GGML_OP_MUL: return ggml_mul(in, of.a(), of.b());
        case GGML_OP_DIV: return ggml_div(in, of.a(), of.b());
        case GGML_OP_SQR: return ggml_sqr(in, of.a());
        case GGML_OP_SQRT: return ggml_sqrt(in, of.a());
        case GGML_OP_LOG: return ggml_log(in, of.a());
        case GGML_OP_SIN: return ggml_sin(in, of.a());
        case GGML_OP_COS: return ggml_cos(in, of.a());
        case GGML_OP_SUM: return ggml_sum(in, of.a());
        case GGML_OP_SUM_ROWS: return ggml_sum_rows(in, of.a());
        case GGML_OP_CUMSUM: return ggml_cumsum(in, of.a());
        case GGML_OP_MEAN: return ggml_mean(in, of.a());
        case GGML_OP_ARGMAX: return ggml_argmax(in, of.a());
        case GGML_OP_REPEAT:
            return ggml_repeat_4d(in, of.a(), of.node->ne[0], of.node->ne[1], of.node->ne[2], of.node->ne[3]);
        case GGML_OP_CONCAT: return ggml_concat(in, of.a(), of.b(), of.number(0));
        case GGML_OP_NORM: return ggml_norm(in, of.a(), of.real(0));
        case GGML_OP_RMS_NORM: return ggml_rms_norm(in, of.a(), of.real(0));
        case GGML_OP_L2_NORM: return ggml_l2_norm(in, of.a(), of.real(0));
        case GGML_OP_GROUP_NORM:
            need(of.number(0) > 0, "no group");
            return ggml_group_norm(in, of.a(), of.number(0), of.real(1));
        case GGML_OP_MUL_MAT: return ggml_mul_mat(in, values(divisor(of.a())), of.b());
        case GGML_OP_MUL_MAT_ID:
            need(of.b()->ne[1] > 0, "a size of zero");
            return ggml_mul_mat_id(in, values(divisor(of.a())), of.b(), of.c());
        case GGML_OP_SCALE: return ggml_scale(in, of.a(), of.real(0));
        case GGML_OP_SET: return set(of);
        case GGML_OP_CPY:
        case GGML_OP_DUP: return copied(of);
        case GGML_OP_CONT: need(of.node->type == of.a()->type, "another type"); return copied(of);
        case GGML_OP_GET_ROWS: return ggml_get_rows(in, of.a(), of.b());
        case GGML_OP_SET_ROWS: return rows_set(of);
        case GGML_OP_DIAG: return ggml_diag(in, of.a());
        case GGML_OP_DIAG_MASK_INF: return ggml_diag_mask_inf(in, of.a(), of.number(0));
        case GGML_OP_SOFT_MAX: return soft_max(of);
        case GGML_OP_ROPE:
        case GGML_OP_ROPE_BACK: return rope(of);
        case GGML_OP_CLAMP: return ggml_clamp(in, of.a(), of.real(0), of.real(1));
        case GGML_OP_PAD: return padded(of);
        case GGML_OP_ARANGE: return ggml_arange(in, of.real(0), of.real(1), of.real(2));
        case GGML_OP_ARGSORT: return ggml_argsort(in, of.a(), ggml_sort_order(of.number(0)));
        case GGML_OP_TOP_K: return ggml_top_k(in, of.a(), int(of.node->ne[0]));
        case GGML_OP_TRI: return ggml_tri(in, of.a(), ggml_tri_type(of.number(0)));
        case GGML_OP_FILL: return ggml_fill(in, of.a(), of.real(0));
        case GGML_OP_FLASH_ATTN_EXT: return attention(of);
        case GGML_OP_SSM_CONV: all_floats(of, 2); return ggml_ssm_conv(in, of.a(), of.b());
        case GGML_OP_SSM_SCAN: return scan(of);
        case GGML_OP_RWKV_WKV6: return wkv6(of);
        case GGML_OP_RWKV_WKV7: return wkv7(of);
        case GGML_OP_GATED_LINEAR_ATTN: return linear_attention(of);
        case GGML_OP_GATED_DELTA_NET: return delta_net(of);
        case GGML_OP_SOLVE_TRI: return ggml_solve_tri(in, of.a(), of.b(), true, true, false);
        case GGML_OP_LIGHTNING_INDEXER: return ggml_lightning_indexer(in, of.a(), of.b(), of.c(), divisor(of.source(3)));
        case GGML_OP_DSV4_HC_COMB: return ggml_dsv4_hc_comb(in, of.a(), of.b(), of.c(), of.real(0), of.number(1));
        case GGML_OP_DSV4_HC_PRE:
            return of.number(1) != 0 ? ggml_dsv4_hc_pre_gated(in, of.a(), of.b(), of.real(0))
                                     : ggml_dsv4_hc_pre(in, of.a(), of.b());
        case GGML_OP_POOL_2D: return pooled(of);
        case GGML_OP_DSV4_HC_POST: return ggml_dsv4_hc_post(in, of.a(), of.b(), of.c(), of.node->src[3]);
        case GGML_OP_UNARY: return unary(of);
        case GGML_OP_GLU: return gated(of);
        default: throw Refused("an operation that no language model uses");
    }
}

// Operations whose kernels take any distance between the numbers of an input.
bool takes_any_stride(ggml_op op, int source) {
    switch (op) {
        case GGML_OP_CPY:
        case GGML_OP_DUP:
        case GGML_OP_CONT:
        case GGML_OP_CONCAT:
        case GGML_OP_REPEAT: return true;
        case GGML_OP_ADD:
        case GGML_OP_SUB:
        case GGML_OP_MUL:
        case GGML_OP_DIV: return source == 1;
        default: return false;
    }
}

// Operations whose kernels walk over rows by one stride.
bool walks_over_rows(ggml_op op) { return op == GGML_OP_CLAMP || sorts(op); }

bool writes_by_strides(ggml_op op) { return op == GGML_OP_CPY || op == GGML_OP_SET_ROWS; }

} // namespace

bool computes_nothing(ggml_op op) {
    return op == GGML_OP_NONE || op == GGML_OP_VIEW || op == GGML_OP_RESHAPE || op == GGML_OP_PERMUTE ||
           op == GGML_OP_TRANSPOSE;
}

bool sorts(ggml_op op) { return op == GGML_OP_ARGSORT || op == GGML_OP_TOP_K; }

void check_operation(ggml_context * context, const ggml_tensor * node) {
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        const ggml_tensor * source = node->src[i];
        const bool close = source == nullptr || source->nb[0] == ggml_type_size(source->type);
        need(close || ggml_is_empty(source) || takes_any_stride(node->op, i), "an input whose numbers lie apart");
        need(source == nullptr || !walks_over_rows(node->op) || rows_are_even(source), "rows that lie unevenly");
    }
    const ggml_tensor * made = made_anew({context, node});
    if (made != nullptr) {
        need(made->type == node->type && ggml_are_same_shape(made, node), "a result of another shape");
    }
    need(writes_by_strides(node->op) || in_one_piece(node) ||
             (!sorts(node->op) && node->src[0] != nullptr && ggml_are_same_layout(node, node->src[0])),
         "a result in pieces");
}

} // namespace twd
