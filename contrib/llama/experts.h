// The cache of experts: which are in memory, which were asked for, and which give way.
#pragma once

#include <algorithm>
#include <atomic>
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

struct ggml_tensor;

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
    // Orders experts by what their uses count, at any later time alike.
    double worth(const Expert & expert) const {
        return std::log2(double(expert.weight) + 1e-9) + double(expert.used_at) / half_life;
    }
};

struct Job {
    int expert, matrix;
    uint64_t from, to; // within the file, on borders of pages
};

struct Numbers {
    uint64_t asked, hits, read_bytes, waited_ns, held_bytes, budget, passes, dropped, errors, foreseen, foreseen_used,
        error_code, error_file, error_offset;
};

class Cache {
  public:
    Cache(const int * files, int n_files, const twd_expert_matrix * of, int count, uint64_t budget, uint64_t page,
          int readers);
    ~Cache();

    // The matrix at this address; null if it is none of ours.
    const Matrix * find(const void * data) const;
    // Thread 0: note what is chosen, and ask for what is missing.
    void want(const Matrix & of, const struct ggml_tensor * ids);
    // Each thread: wait until the chosen experts of this matrix are there.
    void wait(const Matrix & of, const struct ggml_tensor * ids, bool first);
    // Ask for experts that may be wanted soon. Those that are worth more do not give way.
    int foresee(const int32_t * layers, const int32_t * numbers, int count);

    void set_budget(uint64_t bytes);
    void set_half_life(double passes);
    Numbers numbers();
    int uses(uint64_t * into, int count);
    // The share of hits if uses had counted half after so many passes, in the `counted` last part of the latest passes.
    double replay(double half_life, uint64_t budget, uint64_t passes, double counted);
    int forgive(uint64_t * into);

  private:
    bool counting_only() const { return files_.empty(); }
    std::atomic<int> & left(int expert, int number) { return left_[size_t(expert) * MATRICES + number]; }
    std::vector<uint32_t> latest(uint64_t passes);
    bool arrived(int expert, const Layer & layer);
    void fetch(const std::vector<int> & missing);
    bool find_room(uint64_t needed, double worth_below, std::vector<int> & leave);
    void drop(const std::vector<int> & leave, const std::vector<int> & heirs);
    void drop(int expert, int heir);
    std::pair<char *, uint64_t> own_pages(int expert, const Matrix & matrix) const;
    void queue_reads(const std::vector<int> & missing, std::deque<Job> & queue);
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
