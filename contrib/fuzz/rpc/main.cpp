// Sends random graphs to an RPC worker's door: fuzz_rpc SEED COUNT [FIRST]. llama.cpp's server is compiled into this
// program; each tensor lies in a buffer of its own size, so that AddressSanitizer sees every step outside. A graph is
// computed or refused; anything else ends this program, which then says which graph it was.

#define ggml_backend_graph_compute twd_compute_checked
#include "ggml-rpc.cpp"
#undef ggml_backend_graph_compute

#include "../kernels/harness.h"
#include "operations.h"

#include "ggml-cpu.h"

#include <cmath>

namespace {

// A server's memory for the tensors of one graph.
struct Memory {
    rpc_server & server;
    std::vector<uint64_t> buffers;

    void give(ggml_tensor * to, std::unordered_map<const ggml_tensor *, uint64_t> & where) {
        rpc_msg_alloc_buffer_rsp got{};
        server.alloc_buffer({0, ggml_nbytes(to)}, got);
        buffers.push_back(got.remote_ptr);
        where[to] = got.remote_ptr;
        to->data = ggml_backend_buffer_get_base((ggml_backend_buffer_t) got.remote_ptr);
    }
    ~Memory() {
        for (uint64_t buffer : buffers) {
            server.free_buffer({buffer});
        }
    }
};

void fill(Maker & made, Random & random) {
    const float odd[] = {0, -1e30f, 1e30f, NAN, INFINITY};
    for (ggml_tensor * of : made.tensors) {
        const bool wild = random.one_in(8);
        if (of->type == GGML_TYPE_F32) {
            for (int64_t i = 0; i < ggml_nelements(of); ++i) {
                ((float *) of->data)[i] = wild ? random.one_of(odd) : float(random.upto(200) - 100) / 64;
            }
        } else {
            memset(of->data, int(random.upto(3)) * 0x15, ggml_nbytes(of));
        }
    }
    for (auto & [of, limit] : made.choices) {
        for (int64_t i = 0; i < ggml_nelements(of); ++i) {
            ((int32_t *) of->data)[i] = int32_t(random.upto(limit) - 1);
        }
    }
}

rpc_tensor told(ggml_tensor * of, const std::unordered_map<const ggml_tensor *, uint64_t> & where) {
    rpc_tensor out = serialize_tensor(of);
    const ggml_tensor * owner = of->view_src != nullptr ? of->view_src : of;
    out.buffer = where.at(owner);
    out.flags = of->op == GGML_OP_NONE ? 0 : GGML_TENSOR_FLAG_COMPUTE; // others are passed over
    out.data = (uint64_t) owner->data + (of->view_src != nullptr ? of->view_offs : 0);
    return out;
}

// Changes a number of a tensor, as somebody might who wants to write where he may not.
void spoil(std::vector<rpc_tensor> & tensors, Random & random) {
    rpc_tensor & one = tensors[random.upto(tensors.size()) - 1];
    const rpc_tensor & other = tensors[random.upto(tensors.size()) - 1];
    const uint64_t wide[] = {0, 1, 2, 3, 4, 8, 1u << 16, 1u << 30, UINT32_MAX, 0x80000000u};
    const auto some = uint32_t(random.one_in(2) ? random.one_of(wide) : random.upto(90));
    const int dim = int(random.upto(4)) - 1;
    switch (random.upto(12)) {
        case 1:
        case 2: one.ne[dim] = some; break;
        case 3: one.nb[dim] = some; break;
        case 4: one.type = uint32_t(random.upto(GGML_TYPE_COUNT)); break;
        case 5: one.op = uint32_t(random.upto(GGML_OP_COUNT + 2)) - 1; break;
        case 6: one.op_params[random.upto(16) - 1] = int32_t(some); break;
        case 7: one.src[random.upto(GGML_MAX_SRC) - 1] = random.one_in(3) ? 0 : other.id; break;
        case 8: one.data += random.one_in(2) ? some : -uint64_t(some); break;
        case 9: one.buffer = random.one_in(2) ? 0 : other.buffer; break;
        case 10: one.data = other.data, one.buffer = other.buffer; break;
        case 11: std::swap(one.ne[dim], one.ne[random.upto(4) - 1]); break;
        default: one.ne[dim] = other.ne[dim], one.nb[dim] = other.nb[dim];
    }
}

std::vector<uint8_t> message(const std::vector<uint64_t> & nodes, const std::vector<rpc_tensor> & tensors) {
    const uint32_t head[] = {0, uint32_t(nodes.size())}, count = uint32_t(tensors.size());
    std::vector<uint8_t> out(sizeof(head) + nodes.size() * 8 + 4 + tensors.size() * sizeof(rpc_tensor));
    uint8_t * at = out.data();
    auto put = [&](const void * from, size_t bytes) { memcpy(at, from, bytes), at += bytes; };
    put(head, sizeof(head)), put(nodes.data(), nodes.size() * 8), put(&count, 4);
    put(tensors.data(), tensors.size() * sizeof(rpc_tensor));
    return out;
}

Outcome one(rpc_server & server, Random & random) {
    const ggml_context_ptr context(ggml_init({64 * ggml_tensor_overhead(), nullptr, true}));
    Maker made{context.get(), random, {}, {}};
    ggml_tensor * result = operations()[random.upto(operations().size()) - 1](made);
    Memory memory{server, {}};
    std::unordered_map<const ggml_tensor *, uint64_t> where;
    for (ggml_tensor * input : made.tensors) {
        memory.give(input, where);
    }
    if (result->view_src == nullptr) {
        memory.give(result, where);
    }
    fill(made, random);
    std::vector<rpc_tensor> tensors{told(result, where)};
    for (ggml_tensor * of = ggml_get_first_tensor(context.get()); of != nullptr; of = ggml_get_next_tensor(context.get(), of)) {
        if (of != result) {
            tensors.push_back(told(of, where));
        }
    }
    const bool sound = !random.one_in(2);
    for (int64_t left = sound ? 0 : random.upto(3); left > 0; --left) {
        spoil(tensors, random);
    }
    return outcome_of(ggml_op_name(result->op), sound, [&] {
        return server.graph_compute(message({tensors[0].id}, tensors)) ? COMPUTED : REFUSED;
    });
}

} // namespace

int main(int count_of_arguments, char ** arguments) {
    ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, 1);
    rpc_server server({backend}, nullptr);
    return run_cases(count_of_arguments, arguments, [&](Random & random) { return one(server, random); });
}
