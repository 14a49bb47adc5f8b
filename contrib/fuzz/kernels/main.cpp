// Throws random shapes at the kernels: fuzz_kernels SEED COUNT [FIRST]. Each tensor has exactly the room that it claims,
// so that AddressSanitizer sees every step outside. A shape is computed, or refused by an assertion; anything else ends
// this program, which then says which shape it was.

#include "harness.h"

#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <memory>

namespace {

constexpr size_t MOST_BYTES = 4u << 20;

// How many bytes a tensor reaches over, as whoever takes a graph from outside counts them; 0 where that is too many.
size_t reach(const ggml_tensor * of) {
    __int128 total = ggml_blck_size(of->type) == 1 ? ggml_type_size(of->type)
                                                   : __int128(of->ne[0]) * of->nb[0] / ggml_blck_size(of->type);
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        if (of->ne[i] < 0 || of->ne[i] > (1 << 20)) {
            return 0;
        }
        if (i > 0 || ggml_blck_size(of->type) == 1) {
            total += __int128(of->ne[i] - 1) * __int128(of->nb[i]);
        }
    }
    return total > 0 && total < __int128(MOST_BYTES) ? size_t(total) : 0;
}

bool give_data(Operation & op, Random & random, std::vector<std::unique_ptr<char[]>> & kept) {
    for (ggml_tensor * of : op.tensors) {
        const size_t bytes = reach(of);
        if (bytes == 0) {
            return false;
        }
        kept.emplace_back(new char[bytes]);
        of->data = kept.back().get();
        memset(of->data, int(random.upto(3)) * 0x15, bytes);
    }
    if (op.chosen != nullptr && op.broken == 0) {
        for (int64_t i = 0; i < ggml_nelements(op.chosen); ++i) {
            ((int32_t *) op.chosen->data)[i] = int32_t(random.upto(op.experts) - 1);
        }
    }
    return true;
}

void make(Operation & op, Random & random) {
    switch (random.upto(3)) {
        case 1: make_product(op, random); break;
        case 2: make_expert_product(op, random); break;
        default: make_attention(op, random);
    }
}

Outcome compute(Operation & op, Random & random, bool sound) {
    std::vector<std::unique_ptr<char[]>> kept;
    if (!give_data(op, random, kept)) {
        return LEFT_OUT;
    }
    ggml_cgraph * graph = ggml_new_graph_custom(op.context, 8, false);
    ggml_build_forward_expand(graph, op.result);
    ggml_cplan plan = ggml_graph_plan(graph, sound && random.one_in(40) ? 2 : 1, nullptr);
    std::vector<uint8_t> work(plan.work_size);
    plan.work_data = work.data();
    return ggml_graph_compute(graph, &plan) == GGML_STATUS_SUCCESS ? COMPUTED : REFUSED;
}

Outcome one(Random & random) {
    static std::vector<char> room(1 << 20);
    const ggml_context_ptr context(ggml_init({room.size(), room.data(), true}));
    Operation op(context.get());
    make(op, random);
    const bool sound = !random.one_in(2);
    return outcome_of("shape", sound, [&] {
        for (int64_t left = sound ? 0 : random.upto(2); left > 0; --left) {
            spoil(op, random);
        }
        return compute(op, random, sound);
    });
}

} // namespace

int main(int count_of_arguments, char ** arguments) { return run_cases(count_of_arguments, arguments, one); }
