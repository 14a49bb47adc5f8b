// Snapshots of recurrent states for more architectures than llama.cpp has them for (`n_rs_seq` of a context).
//
// llama.cpp's graphs of Mamba-2 and of gated delta nets keep states to roll back to; it lets only some of the architectures
// that have such layers use them. Its graph of Mamba-1 keeps none: that one is built here. It puts the state after each of the
// last tokens where llama_memory_recurrent expects it: planes of `get_size()` rows, the latest state in the first.
//
// Of the columns that a gated delta net's convolution reads next, llama.cpp writes every plane in every pass, however few
// tokens it has. Here a pass writes as many as it has tokens: for a single token that is most of the cost of snapshots.

// llama-context.cpp is compiled with this name, too (kernels.cmake), so it asks for our number.
#define n_tensors twd_graph_tensors
#include "llama-arch.h"
#include "llama-memory-recurrent.h"
#include "models/models.h"

#include <algorithm>
#include <stdexcept>

bool llm_arch_supports_rs_rollback_of_llama(const llm_arch & arch);

extern "C" {
GGML_BACKEND_API void twd_scan_with_snapshots(ggml_tensor * dst, int ith, int nth, void * unused);
}

namespace {

// Whether llama.cpp builds layers of Mamba, and lets nobody keep snapshots of them.
bool is_mamba(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_FALCON_H1:
        case LLM_ARCH_GRANITE_HYBRID:
        case LLM_ARCH_JAMBA:
        case LLM_ARCH_MAMBA:
        case LLM_ARCH_MAMBA2:
            return true;
        default:
            return false;
    }
}

struct Kept {
    int64_t before, width, sequences; // what the convolution sees of the tokens before, of how many numbers
    int64_t tokens, kept;             // of each sequence in this pass, and after how many of them
    int64_t head, plane;              // the first row of the sequences, and the rows of a plane
};

// Copies the columns after each of the last tokens into the cache, the latest into its first plane.
void keep_columns(ggml_context * context, ggml_cgraph * graph, ggml_tensor * columns, ggml_tensor * past, const Kept & of) {
    for (int64_t later = 0; later < of.kept; ++later) {
        ggml_tensor * last = ggml_view_3d(context, columns, of.before, of.width, of.sequences, columns->nb[1], columns->nb[2],
                                          (of.tokens - later) * columns->nb[0]);
        ggml_tensor * to = ggml_view_2d(context, past, of.before * of.width, of.sequences, past->nb[1],
                                        size_t(later * of.plane + of.head) * past->nb[1]);
        ggml_build_forward_expand(graph, ggml_cpy(context, last, to));
    }
}

} // namespace

bool llm_arch_supports_rs_rollback(const llm_arch & arch) {
    return is_mamba(arch) || arch == LLM_ARCH_QWEN3NEXT || llm_arch_supports_rs_rollback_of_llama(arch);
}

// llama.cpp sizes its graphs by the number of a model's tensors. Snapshots add three operations for each of them and layer.
size_t llama_model::twd_graph_tensors() const {
    const bool many = is_mamba(arch) || arch == LLM_ARCH_NEMOTRON_H || arch == LLM_ARCH_NEMOTRON_H_MOE;
    return (many ? 2 : 1) * tensors_by_name.size();
}

// The columns that the convolution of a gated delta net reads. The last ones stay for the next pass: those after the last
// token in the first plane, those after the one before in the second, and so on.
ggml_tensor * llm_build_delta_net_base::build_conv_state(llm_graph_input_rs * inp, ggml_tensor * past, ggml_tensor * mixed,
                                                         int64_t kernel, int64_t width, int) {
    const int64_t head = inp->mctx->get_head(), plane = inp->mctx->get_size();
    const int64_t tokens = ubatch.n_seq_tokens, sequences = ubatch.n_seqs, before = kernel - 1;
    const int64_t kept = std::min<int64_t>(tokens, int64_t(cparams.n_rs_seq) + 1);
    ggml_tensor * columns = ggml_reshape_3d(ctx0, build_rs(inp, past, hparams.n_embd_r(), sequences), before, width, sequences);
    columns = ggml_concat(ctx0, columns, ggml_transpose(ctx0, mixed), 0);
    keep_columns(ctx0, gf, columns, past, {before, width, sequences, tokens, kept, head, plane});
    return columns;
}

ggml_tensor * llm_build_mamba_base::build_mamba_layer(llm_graph_input_rs * inp, ggml_tensor * cur, const llama_model & model,
                                                      const llama_ubatch & ubatch, int il) {
    const auto * memory = inp->mctx;
    const auto & layer = model.layers[il];
    ggml_tensor *past = memory->get_r_l(il), *states = memory->get_s_l(il);
    const int64_t head = memory->get_head(), plane = memory->get_size();
    const int64_t width = hparams.ssm_d_inner, size = hparams.ssm_d_state, rank = hparams.ssm_dt_rank;
    const int64_t before = hparams.ssm_d_conv - 1;
    const int64_t tokens = ubatch.n_seq_tokens, sequences = ubatch.n_seqs;
    const int64_t kept = std::min<int64_t>(tokens, int64_t(cparams.n_rs_seq) + 1);
    if (cparams.n_rs_seq > 0 && !ggml_backend_buffer_is_host(states->buffer)) {
        throw std::runtime_error("snapshots of Mamba-1 states are computed on processors only");
    }

    ggml_tensor * both = build_lora_mm(layer.ssm_in, ggml_reshape_3d(ctx0, cur, cur->ne[0], tokens, sequences), layer.ssm_in_s);
    ggml_tensor * x = ggml_view_3d(ctx0, both, width, tokens, sequences, both->nb[1], both->nb[2], 0);
    ggml_tensor * gate = ggml_view_3d(ctx0, both, width, tokens, sequences, both->nb[1], both->nb[2], width * both->nb[0]);

    // The convolution sees the columns before the first token, and leaves the last ones for the next pass.
    ggml_tensor * columns = ggml_reshape_3d(ctx0, build_rs(inp, past, hparams.n_embd_r(), sequences), before, width, sequences);
    columns = ggml_concat(ctx0, columns, ggml_transpose(ctx0, x), 0);
    keep_columns(ctx0, gf, columns, past, {before, width, sequences, tokens, kept, head, plane});
    x = ggml_silu(ctx0, ggml_add(ctx0, ggml_ssm_conv(ctx0, columns, layer.ssm_conv1d), layer.ssm_conv1d_b));

    // What each token does to the state is told by the token.
    ggml_tensor * told = build_lora_mm(layer.ssm_x, x);
    const auto part = [&](int64_t start) {
        return ggml_view_4d(ctx0, told, size, 1, tokens, sequences, size * told->nb[0], told->nb[1], told->nb[2],
                            start * told->nb[0]);
    };
    ggml_tensor * step = ggml_view_3d(ctx0, told, rank, tokens, sequences, told->nb[1], told->nb[2], 0);
    ggml_tensor *into = part(rank), *out = part(rank + size);
    if (hparams.ssm_dt_b_c_rms || (layer.ssm_dt_norm && layer.ssm_b_norm && layer.ssm_c_norm)) {
        step = build_norm(step, layer.ssm_dt_norm, nullptr, LLM_NORM_RMS, il);
        into = build_norm(into, layer.ssm_b_norm, nullptr, LLM_NORM_RMS, il);
        out = build_norm(out, layer.ssm_c_norm, nullptr, LLM_NORM_RMS, il);
    } else {
        step = ggml_cont(ctx0, step);
    }
    step = ggml_add(ctx0, build_lora_mm(layer.ssm_dt, step), layer.ssm_dt_b);

    ggml_tensor * each = ggml_reshape_4d(ctx0, x, 1, width, tokens, sequences);
    ggml_tensor * scanned = build_rs(inp, states, hparams.n_embd_s(), sequences,
                                     [&](ggml_context * context, ggml_tensor * rows, ggml_tensor * ids) {
        ggml_tensor * from = ggml_reshape_4d(context, rows, size, 1, width, rows->ne[1]);
        if (kept == 1) {
            return ggml_ssm_scan(context, from, each, step, layer.ssm_a, into, out, ids, 1);
        }
        ggml_tensor * sources[] = {from, each, step, layer.ssm_a, into, out, ids};
        return ggml_custom_4d(context, GGML_TYPE_F32, ggml_nelements(each) + kept * size * width * sequences, 1, 1, 1, sources, 7,
                              twd_scan_with_snapshots, GGML_N_TASKS_MAX, nullptr);
    });
    const size_t row = size * width * sizeof(float);
    ggml_tensor * after = ggml_view_3d(ctx0, scanned, size * width, sequences, kept, row, row * sequences, ggml_nbytes(each));
    ggml_tensor * to = ggml_view_3d(ctx0, states, size * width, sequences, kept, states->nb[1], size_t(plane) * states->nb[1],
                                    size_t(head) * states->nb[1]);
    ggml_build_forward_expand(gf, ggml_cpy(ctx0, after, to));

    ggml_tensor * y = ggml_view_3d(ctx0, scanned, width, tokens, sequences, width * sizeof(float),
                                   width * tokens * sizeof(float), 0);
    y = ggml_add(ctx0, y, ggml_mul(ctx0, x, layer.ssm_d));
    y = ggml_swiglu_split(ctx0, ggml_cont(ctx0, gate), y);
    cur = build_lora_mm(layer.ssm_out, y, layer.ssm_out_s);
    return ggml_reshape_2d(ctx0, cur, cur->ne[0], tokens * sequences);
}
