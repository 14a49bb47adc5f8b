// Passes use fewer of an engine's threads while other programs take its cores. The build gives ggml_graph_compute, as the
// CPU backend calls it, the name of ours.
//
// Results do not change with the number of threads: each of them is computed by one thread, in one order. llama.cpp's own
// attention is an exception (it may cut a long cache into as many parts as there are threads), so a graph that has it keeps
// all threads.

#include "thread_choice.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

extern "C" {
GGML_BACKEND_API bool twd_attention(int64_t key_length, int64_t value_length);
enum ggml_status twd_graph_compute(struct ggml_cgraph * graph, struct ggml_cplan * plan);
// Whether passes use all planned threads, whatever they cost.
GGML_BACKEND_API void twd_threads_keep(bool all);
// How many threads passes of few rows use that were planned with so many.
GGML_BACKEND_API int twd_threads_usual(int planned);
// One choice by itself, for tests.
GGML_BACKEND_API void * twd_thread_choice_new(int planned);
GGML_BACKEND_API int twd_thread_choice_begin(void * choice, uint64_t shape);
GGML_BACKEND_API void twd_thread_choice_end(void * choice, uint64_t shape, int used, double ms);
GGML_BACKEND_API void twd_thread_choice_free(void * choice);
}

namespace {

using threads::ThreadChoice;

constexpr double MS_MIN = 0.5; // shorter graphs tell nothing
constexpr int FEW = 8, SOME = 32; // rows: passes that wait for memory, for both, and for arithmetic

struct Described {
    uint64_t shape = 0;
    int64_t rows = 1;
    bool may_change = true;
};

Described described(const struct ggml_cgraph * graph) {
    Described found;
    uint64_t elements = 0;
    for (int i = 0; i < graph->n_nodes; ++i) {
        const struct ggml_tensor * node = graph->nodes[i];
        elements += uint64_t(ggml_nelements(node));
        if (node->op == GGML_OP_MUL_MAT) {
            found.rows = std::max(found.rows, node->ne[1]);
        } else if (node->op == GGML_OP_FLASH_ATTN_EXT) {
            found.may_change &= twd_attention(node->src[1]->ne[0], node->src[2]->ne[0]);
        }
    }
    found.shape = elements * 31 + uint64_t(graph->n_nodes);
    return found;
}

// The choices of this process: for each planned number of threads, and for few, some and many rows.
class Choices {
  public:
    int begin(int planned, const Described & of) {
        const std::lock_guard<std::mutex> guard(lock_);
        return choice(planned, kind(of.rows)).begin(of.shape);
    }

    void end(int planned, const Described & of, int used, double ms) {
        const std::lock_guard<std::mutex> guard(lock_);
        choice(planned, kind(of.rows)).end(of.shape, used, ms);
    }

    int usual(int planned) {
        const std::lock_guard<std::mutex> guard(lock_);
        const auto found = of_.find({planned, kind(1)});
        return found == of_.end() ? planned : found->second->usual();
    }

  private:
    static int kind(int64_t rows) { return rows <= FEW ? 0 : rows <= SOME ? 1 : 2; }

    ThreadChoice & choice(int planned, int kind) {
        std::unique_ptr<ThreadChoice> & found = of_[{planned, kind}];
        if (!found) {
            found.reset(new ThreadChoice(planned));
        }
        return *found;
    }

    std::mutex lock_;
    std::map<std::pair<int, int>, std::unique_ptr<ThreadChoice>> of_;
};

Choices choices;
std::atomic<bool> keeps_all{false};

} // namespace

enum ggml_status twd_graph_compute(struct ggml_cgraph * graph, struct ggml_cplan * plan) {
    const int planned = plan->n_threads;
    if (planned < 2 || keeps_all) {
        return ggml_graph_compute(graph, plan);
    }
    const Described of = described(graph);
    if (!of.may_change) {
        return ggml_graph_compute(graph, plan);
    }
    plan->n_threads = choices.begin(planned, of);
    const auto began = std::chrono::steady_clock::now();
    const enum ggml_status status = ggml_graph_compute(graph, plan);
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
    if (status == GGML_STATUS_SUCCESS && ms >= MS_MIN) {
        choices.end(planned, of, plan->n_threads, ms);
    }
    return status;
}

void twd_threads_keep(bool all) { keeps_all = all; }

int twd_threads_usual(int planned) { return choices.usual(planned); }

void * twd_thread_choice_new(int planned) { return new ThreadChoice(planned); }

int twd_thread_choice_begin(void * choice, uint64_t shape) { return ((ThreadChoice *) choice)->begin(shape); }

void twd_thread_choice_end(void * choice, uint64_t shape, int used, double ms) {
    ((ThreadChoice *) choice)->end(shape, used, ms);
}

void twd_thread_choice_free(void * choice) { delete (ThreadChoice *) choice; }
