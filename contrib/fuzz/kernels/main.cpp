// Throws random shapes at the kernels: fuzz_kernels SEED COUNT [FIRST]. Each tensor has exactly the room that it claims,
// so that AddressSanitizer sees every step outside. A shape is computed, or refused by an assertion; anything else ends
// this program, which then says which shape it was.

#include "shapes.h"

#include "ggml-cpu.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sanitizer/common_interface_defs.h>

namespace {

constexpr size_t MOST_BYTES = 4u << 20;
sigjmp_buf refused;
uint64_t seed, number;
std::string last;

void tell() { fprintf(stderr, "shape %llu of seed %llu\n", (unsigned long long) number, (unsigned long long) seed); }

void refuse(const char * why) {
    last = why;
    siglongjmp(refused, 1);
}

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

enum Outcome { COMPUTED, REFUSED, LEFT_OUT };

Outcome one(Random & random) {
    static std::vector<char> room(1 << 20);
    std::vector<std::unique_ptr<char[]>> kept;
    std::vector<uint8_t> work;
    ggml_context * context = ggml_init({room.size(), room.data(), true});
    Outcome outcome = REFUSED;
    volatile bool spoilt = false;
    if (sigsetjmp(refused, 1) == 0) {
        Operation op(context);
        switch (random.upto(3)) {
            case 1: make_product(op, random); break;
            case 2: make_expert_product(op, random); break;
            default: make_attention(op, random);
        }
        spoilt = random.one_in(2);
        for (int64_t left = spoilt ? random.upto(2) : 0; left > 0; --left) {
            spoil(op, random);
        }
        if (give_data(op, random, kept)) {
            ggml_cgraph * graph = ggml_new_graph_custom(context, 8, false);
            ggml_build_forward_expand(graph, op.result);
            ggml_cplan plan = ggml_graph_plan(graph, !spoilt && random.one_in(40) ? 2 : 1, nullptr);
            work.resize(plan.work_size);
            plan.work_data = work.data();
            outcome = ggml_graph_compute(graph, &plan) == GGML_STATUS_SUCCESS ? COMPUTED : REFUSED;
        } else {
            outcome = LEFT_OUT;
        }
    }
    ggml_free(context);
    if (outcome == REFUSED && !spoilt) {
        fprintf(stderr, "a sound shape was refused: %s\n", last.c_str());
        tell();
        exit(1);
    }
    return outcome;
}

} // namespace

// What `assert` calls: in ggml-cpu.c it is on.
extern "C" void __assert_fail(const char * what, const char *, unsigned, const char *) noexcept(false) { refuse(what); abort(); }

int main(int count_of_arguments, char ** arguments) {
    if (count_of_arguments < 3) {
        fprintf(stderr, "usage: fuzz_kernels SEED COUNT [FIRST]\n");
        return 2;
    }
    seed = strtoull(arguments[1], nullptr, 10);
    const uint64_t count = strtoull(arguments[2], nullptr, 10);
    const uint64_t first = count_of_arguments > 3 ? strtoull(arguments[3], nullptr, 10) : 0;
    __sanitizer_set_death_callback(tell);
    ggml_set_abort_callback(refuse);
    uint64_t outcomes[3] = {};
    for (number = first; number < first + count; ++number) {
        Random random(seed * 1000003 + number);
        ++outcomes[one(random)];
    }
    printf("seed %llu: %llu shapes computed, %llu refused, %llu left out as too large\n", (unsigned long long) seed,
           (unsigned long long) outcomes[COMPUTED], (unsigned long long) outcomes[REFUSED],
           (unsigned long long) outcomes[LEFT_OUT]);
    return 0;
}
