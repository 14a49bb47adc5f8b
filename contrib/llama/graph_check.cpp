// The door of RPC workers: a graph that comes over the network is checked before it is computed.
//
// llama.cpp's worker checks that each tensor lies in memory of its own. It does not check that an operation fits its
// tensors, and it computes operations that contain a pointer to a function. So whoever reaches its port can write
// anywhere, and run anything. Here each node is described anew with ggml's own functions, which check the inputs; what
// comes out must be what the graph says. Operations that no language model uses are refused.

#include "graph_rules.h"

#include "ggml-cpp.h"
#include "ggml-impl.h"

#include <cstdint>

namespace {

using twd::Refused;

// Whether a tensor's last byte is where ggml, which counts in 64 bits, believes it to be.
bool reach_is_true(const ggml_tensor * of) {
    const int64_t block = ggml_blck_size(of->type);
    __int128 elements = 1, total = 0;
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (of->ne[i] < 0 || of->ne[i] > INT32_MAX) {
            return false;
        }
        elements *= of->ne[i];
        const bool blocks = i == 0 && block > 1;
        total += (blocks ? __int128(of->ne[0] / block) : __int128(of->ne[i]) - 1) * __int128(of->nb[i]);
    }
    if (elements == 0) {
        return true;
    }
    total += block > 1 ? 0 : ggml_type_size(of->type);
    return elements < __int128(INT64_MAX) / 64 && total == __int128(ggml_nbytes(of));
}

void check_tensor(const ggml_tensor * of) {
    const bool blocks = ggml_blck_size(of->type) > 1;
    if (!reach_is_true(of)) {
        throw Refused("sizes that overflow");
    }
    if (blocks && (of->ne[0] % ggml_blck_size(of->type) != 0 || of->nb[0] != ggml_type_size(of->type))) {
        throw Refused("blocks that are cut");
    }
    if (!ggml_is_empty(of) && (of->buffer == nullptr || of->data == nullptr)) {
        throw Refused("a tensor without memory");
    }
}

bool overlap(const ggml_tensor * a, const ggml_tensor * b) {
    const char *first = (const char *) a->data, *second = (const char *) b->data;
    return !ggml_is_empty(a) && !ggml_is_empty(b) && first < second + ggml_nbytes(b) && second < first + ggml_nbytes(a);
}

// Kernels check numbers that choose rows while they read them, sort by an order that stays, and copy what does not move. So
// a result may take the place of an input, as ggml has it where sizes agree, and may not lie over a part of one.
void check_overlaps(const ggml_tensor * node) {
    for (const ggml_tensor * source : node->src) {
        const bool in_place = source != nullptr && source->data == node->data && ggml_are_same_layout(source, node);
        if (source != nullptr && overlap(node, source) && (!in_place || twd::sorts(node->op))) {
            throw Refused("a result over a part of an input");
        }
    }
}

void check_node(const ggml_tensor * node, ggml_context * scratch) {
    if (node == nullptr) {
        throw Refused("a node that is missing");
    }
    if (twd::computes_nothing(node->op)) {
        return; // llama.cpp has views of memory that is elsewhere
    }
    check_tensor(node);
    for (const ggml_tensor * source : node->src) {
        if (source != nullptr) {
            check_tensor(source);
        }
    }
    ggml_reset(scratch);
    twd::check_operation(scratch, node);
    check_overlaps(node);
}

} // namespace

// What ggml-rpc.cpp calls instead of `ggml_backend_graph_compute`.
extern "C" enum ggml_status twd_compute_checked(ggml_backend_t backend, ggml_cgraph * graph) {
    const ggml_context_ptr scratch(ggml_init({8 * ggml_tensor_overhead(), nullptr, true}));
    for (int i = 0; i < graph->n_nodes; ++i) {
        try {
            check_node(graph->nodes[i], scratch.get());
        } catch (const Refused & refused) {
            const ggml_tensor * node = graph->nodes[i];
            const unsigned op = node == nullptr ? 0 : unsigned(node->op);
            GGML_LOG_ERROR("refused: node %d of a client's graph, %s: %s\n", i,
                           op < GGML_OP_COUNT ? ggml_op_name((ggml_op) op) : "no operation", refused.why);
            return GGML_STATUS_FAILED;
        }
    }
    return ggml_backend_graph_compute(backend, graph);
}
