// The cache of experts: which are in memory, which were asked for, and which give way.
#pragma once

#include "foresight.h"
#include "ggml.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

// One tensor with all experts of a layer, as Python describes it. `bytes` are those of one expert. With `file` -1 the
// weights are in memory anyway, and their use is only counted.
struct twd_expert_matrix {
    char * data;
    uint64_t offset;
    uint64_t bytes;
    int32_t file;
    int32_t layer; // counted without gaps, in the order of computing
    int32_t experts;
    int32_t unused;
};

namespace experts {

constexpr int MATRICES = 8; // the most of one layer
constexpr int ABSENT = -1;
constexpr uint64_t PIECE = 1 << 20; // what one read asks for
constexpr uint64_t EARLY_PIECE = 1 << 18; // the same of experts that may be wanted: those that are must not wait long
constexpr int EARLY_READERS = 3; // so many readers at most read ahead
constexpr double EXPECTED = 1e12; // what an expert is worth in addition while it is expected
constexpr double EARLY_WORTH = -1.5; // what is read ahead takes the room of experts that are worth less
constexpr int64_t TRIED_ROWS = 32; // passes of more rows do not tell whether reading ahead pays
constexpr int64_t WIDE = 4; // so many choices for each expert make a pass wide
constexpr size_t TRACE = 1 << 18;
constexpr size_t FORESEEN = 256; // reads that may wait for those that are needed now
constexpr uint32_t VISIT = 1u << 31; // marks the first expert of a visit in the trace

struct Matrix {
    char * data;
    uint64_t offset, bytes;
    int file, layer, number;
};

// One expert of one layer, with all of its matrices.
struct Expert {
    bool held = false;   // in memory, or on its way
    bool foreseen = false; // read before it was asked for, and not used since
    uint64_t expected = 0; // stays until this visit
    float weight = 0;    // how often it was used lately; see `Memory`
    uint64_t used_at = 0;
    uint64_t visit = 0; // the last visit that wanted it
    uint64_t uses = 0;  // rows that chose it
};

struct Layer {
    std::vector<int> matrices;
    int first = 0; // its first expert
    int experts = 0;
    int lead = -1; // the matrix that is computed first
    uint64_t bytes = 0;
};

// A use counts half after so many passes: of one pass, the latest used stay; of very many, the most used.
struct Memory {
    double half_life = 8;

    void use(Expert & expert, uint64_t now) const {
        expert.weight = float(1 + expert.weight * std::exp2(-double(now - expert.used_at) / half_life));
        expert.used_at = now;
    }
    // The chance that a pass uses an expert, by its uses until now.
    double chance(const Expert & expert, uint64_t now) const {
        const double weight = double(expert.weight) * std::exp2(-double(now - expert.used_at) / half_life);
        return std::min(1.0, weight * (1 - std::exp2(-1 / half_life)));
    }
    // Orders experts by what their uses count, at any later time alike.
    double worth(const Expert & expert) const {
        return std::log2(double(expert.weight) + 1e-9) + double(expert.used_at) / half_life;
    }
};

struct Job {
    int expert, matrix;
    uint64_t from, to; // within the file, on borders of pages
};

// What is known of the pass that runs. One pass at a time computes with a cache.
struct Pass {
    std::vector<int32_t> tokens, outputs; // its rows and those that are asked for, if somebody tells
    uint64_t began = 0, ended = 0, asked = 0, missed_bytes = 0;
    int64_t rows = 0;
    bool wide = false; // so many rows that nearly all experts of each layer are wanted
};

template <class Each> void each_choice(const Layer & layer, const struct ggml_tensor * ids, const Each & each) {
    for (int64_t row = 0; row < ids->ne[1]; ++row) {
        for (int64_t rank = 0; rank < ids->ne[0]; ++rank) {
            const int32_t number = *(const int32_t *) ((const char *) ids->data + row * ids->nb[1] + rank * ids->nb[0]);
            if (number >= 0 && number < layer.experts) { // ggml stops at others
                each(number);
            }
        }
    }
}

inline uint64_t now_ns() {
    return uint64_t(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

enum class Foresight { OFF, TRY, ON };

struct Numbers {
    uint64_t asked, hits, read_bytes, waited_ns, held_bytes, budget, passes, dropped, errors, foreseen, foreseen_used,
        error_code, error_file, error_offset, reading_ns, foresight, table_asked, table_right, rows;
};

class Cache {
  public:
    Cache(const int * files, int n_files, const twd_expert_matrix * of, int count, uint64_t budget, uint64_t page,
          int readers);
    ~Cache();

    // The matrix at this address; null if it is none of ours.
    const Matrix * find(const void * data) const;
    // Thread 0: note what is chosen, and ask for what is missing; then for what the next layer may choose. `input` is
    // what the experts are multiplied with.
    void want(const Matrix & of, const struct ggml_tensor * ids, const struct ggml_tensor * input);
    // Each thread: wait until the chosen experts of this matrix are there.
    void wait(const Matrix & of, const struct ggml_tensor * ids, bool first);
    // Ask for experts that the next pass may want, if reading ahead pays. Those that are worth more do not give way.
    int foresee(const int32_t * layers, const int32_t * numbers, int count);
    // The same for what tokens chose when they were computed last.
    int foresee_tokens(const int32_t * tokens, int count);
    // What a token chose when it was computed last: USED places for each layer, ABSENT in those that are empty. Returns
    // the number of layers; 0 if nothing is known of the token.
    int chosen(int32_t token, int16_t * into);
    // The tokens of the next pass, row by row. The last layer computes only rows that are asked for; null: all are.
    void tell_tokens(const int32_t * tokens, const int8_t * outputs, int count);
    // How many bytes a pass of these tokens will probably read: of the first one, the first two, and so on.
    void missing(const int32_t * tokens, int count, uint64_t * into);
    void use_routers(const twd_expert_router * routers, int count);
    void set_foresight(Foresight how);

    void set_budget(uint64_t bytes);
    void set_half_life(double passes);
    Numbers numbers();
    int uses(uint64_t * into, int count);
    // The share of hits if uses had counted half after so many passes, in the `counted` last part of the latest passes.
    double replay(double half_life, uint64_t budget, uint64_t passes, double counted);
    int forgive(uint64_t * into);

  private:
    bool counting_only() const { return files_.empty(); }
    bool foresees() const { return how_ == Foresight::ON || (how_ == Foresight::TRY && trial_.on()); }
    std::atomic<int> & left(int expert, int number) { return left_[size_t(expert) * MATRICES + number]; }
    std::vector<uint32_t> latest(uint64_t passes);
    bool arrived(int expert, const Layer & layer);
    bool untouched(int expert);
    void begin_visit(int layer, const struct ggml_tensor * ids);
    void begin_pass(int layer, const struct ggml_tensor * ids);
    void keep_tokens_of(int64_t rows);
    void hurry(const Layer & layer);
    void learn(int layer, const struct ggml_tensor * ids);
    void look_ahead(int layer, const struct ggml_tensor * ids, const struct ggml_tensor * input);
    int fetch_early(const std::vector<int> & likely, uint64_t until, double worth_below);
    int fetch_later(int layer);
    std::vector<int> absent(const std::vector<int> & likely, uint64_t until);
    uint64_t coming_early();
    void fetch(const std::vector<int> & missing);
    double worth(int expert) const;
    bool may_leave(int expert);
    uint64_t find_room(uint64_t needed, double worth_below, std::vector<int> & leave);
    void drop(const std::vector<int> & leave, const std::vector<int> & heirs);
    void drop(int expert, int heir);
    std::pair<char *, uint64_t> own_pages(int expert, const Matrix & matrix) const;
    void queue_reads(const std::vector<int> & missing, std::deque<Job> & queue, uint64_t piece);
    bool has_work() const;
    void run_reader();
    void read(const Job & job);
    void fail(const Job & job, int code);
    std::pair<uint64_t, uint64_t> span(const Matrix & matrix, int number) const;
    uint64_t bytes_of(int expert) const { return layers_[layer_of_[expert]].bytes; }

    std::vector<int> files_;
    std::vector<Matrix> matrices_; // by address
    std::vector<Layer> layers_;
    std::vector<Expert> experts_;
    std::vector<int> layer_of_;
    std::unique_ptr<std::atomic<int>[]> left_; // pieces that are still to be read; ABSENT
    uint64_t page_;

    std::mutex mutex_;
    std::condition_variable work_, done_;
    std::deque<Job> wanted_, foreseen_;
    std::vector<std::thread> readers_;
    bool stop_ = false;

    Pass pass_;
    std::vector<int32_t> told_, told_outputs_; // the tokens of the next pass
    Foresight how_ = Foresight::TRY;
    Trial trial_;
    NextChoice next_choice_;
    TokenTable table_;
    std::vector<twd_expert_router> routers_; // by layer; without weights where there is none
    std::vector<int> likely_, later_; // for the next layer; for the rest of the pass
    uint64_t later_until_ = 0;
    double row_bytes_ = 0; // that a row reads, of late
    uint64_t largest_ = 0; // bytes of the experts of the largest layer
    int reading_ = 0, reading_early_ = 0;
    uint64_t reading_since_ = 0;

    Memory memory_;
    Numbers numbers_ = {};
    std::atomic<uint64_t> read_bytes_{0};
    uint64_t visit_ = 0;
    int layer_now_ = 1 << 30;
    std::vector<int> missing_, leave_, failed_;
    std::vector<uint32_t> trace_;
    size_t traced_ = 0;
};

} // namespace experts
