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
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>

#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

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
GGML_BACKEND_API void twd_thread_choice_idle(void * choice, double cores);
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

using Clock = std::chrono::steady_clock;

double ms_between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

// How many seconds the cores of this thread were idle since the machine started, all together; -1: nobody tells.
double idle_seconds() {
#ifdef __linux__
    cpu_set_t ours;
    std::ifstream file("/proc/stat");
    if (sched_getaffinity(0, sizeof(ours), &ours) != 0 || !file) {
        return -1.0;
    }
    double ticks = 0.0;
    for (std::string line; std::getline(file, line) && line.rfind("cpu", 0) == 0;) {
        std::istringstream words(line.substr(3));
        double user = 0, nice = 0, system = 0, idle = 0, waiting = 0;
        int core = -1;
        if (line[3] != ' ' && words >> core >> user >> nice >> system >> idle >> waiting && core >= 0 &&
            core < CPU_SETSIZE && CPU_ISSET(core, &ours)) {
            ticks += idle + waiting;
        }
    }
    return ticks / double(sysconf(_SC_CLK_TCK));
#else
    return -1.0;
#endif
}

// How many cores are idle while passes follow each other.
class IdleCores {
  public:
    void begin() {
        const auto now = Clock::now();
        if (ms_between(ended_, now) > APART_MS) {
            start(now);
        }
    }

    // The number of idle cores; -1: it is not known yet.
    double end() {
        ended_ = Clock::now();
        const double ms = ms_between(began_, ended_);
        if (ms < WINDOW_MS) {
            return -1.0;
        }
        const double before = idle_s_;
        start(ended_);
        return before < 0.0 ? -1.0 : (idle_s_ - before) * 1000.0 / ms;
    }

  private:
    static constexpr double APART_MS = 20.0, WINDOW_MS = 100.0;

    void start(Clock::time_point now) {
        began_ = now;
        idle_s_ = idle_seconds();
    }

    Clock::time_point began_, ended_;
    double idle_s_ = -1.0;
};

// The choices of this process: for each planned number of threads, and for few, some and many rows.
class Choices {
  public:
    int begin(int planned, const Described & of) {
        const std::lock_guard<std::mutex> guard(lock_);
        ThreadChoice & ours = choice(planned, kind(of.rows));
        if (ours.usual() < planned) {
            idle_.begin();
        }
        return ours.begin(of.shape);
    }

    void end(int planned, const Described & of, int used, double ms) {
        const std::lock_guard<std::mutex> guard(lock_);
        ThreadChoice & ours = choice(planned, kind(of.rows));
        if (ours.usual() < planned) {
            if (const double cores = idle_.end(); cores >= 0.0) {
                ours.idle(cores);
            }
        }
        ours.end(of.shape, used, ms);
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
    IdleCores idle_;
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
    const auto began = Clock::now();
    const enum ggml_status status = ggml_graph_compute(graph, plan);
    const double ms = ms_between(began, Clock::now());
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

void twd_thread_choice_idle(void * choice, double cores) { ((ThreadChoice *) choice)->idle(cores); }

void twd_thread_choice_free(void * choice) { delete (ThreadChoice *) choice; }
