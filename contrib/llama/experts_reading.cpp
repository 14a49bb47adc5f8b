// Reads experts from the model's file, several at a time.

#include "experts.h"

#include <cerrno>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace experts {

// The pages of one expert in the file, those shared with its neighbours included.
std::pair<uint64_t, uint64_t> Cache::span(const Matrix & matrix, int number) const {
    const uint64_t from = matrix.offset + uint64_t(number) * matrix.bytes;
    return {from / page_ * page_, (from + matrix.bytes + page_ - 1) / page_ * page_};
}

// First what is computed first: then a product begins while the next matrices are still read.
void Cache::queue_reads(const std::vector<int> & missing, std::deque<Job> & queue, uint64_t piece) {
    for (int turn = 0; turn < MATRICES; ++turn) {
        for (const int expert : missing) {
            const Layer & layer = layers_[layer_of_[expert]];
            if (turn >= int(layer.matrices.size())) {
                continue;
            }
            const int number = (std::max(layer.lead, 0) + turn) % int(layer.matrices.size());
            const int index = layer.matrices[number];
            const auto pages = span(matrices_[index], expert - layer.first);
            left(expert, number) = int((pages.second - pages.first + piece - 1) / piece);
            for (uint64_t at = pages.first; at < pages.second; at += piece) {
                queue.push_back({expert, index, at, std::min(at + piece, pages.second)});
            }
        }
    }
    for (const int expert : missing) {
        experts_[expert].held = true;
        numbers_.held_bytes += bytes_of(expert);
    }
    work_.notify_all();
}

bool Cache::has_work() const { return !wanted_.empty() || (!foreseen_.empty() && reading_early_ < EARLY_READERS); }

void Cache::run_reader() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        work_.wait(lock, [&] { return stop_ || has_work(); });
        if (stop_) {
            return;
        }
        const bool early = wanted_.empty();
        std::deque<Job> & queue = early ? foreseen_ : wanted_;
        const Job job = queue.front();
        queue.pop_front();
        reading_early_ += early;
        reading_since_ = reading_++ ? reading_since_ : now_ns();
        lock.unlock();
        read(job);
        lock.lock();
        reading_early_ -= early;
        numbers_.reading_ns += --reading_ ? 0 : now_ns() - reading_since_;
    }
}

void Cache::read(const Job & job) {
    const Matrix & matrix = matrices_[job.matrix];
    const Layer & layer = layers_[matrix.layer];
    int problem = 0;
#if defined(__linux__)
    const uint64_t last = matrix.offset + uint64_t(job.expert - layer.first + 1) * matrix.bytes; // of its own bytes
    const uint64_t needed = std::min(job.to, last);
    for (uint64_t at = job.from; at < needed && !problem;) {
        const ssize_t got = pread(files_[matrix.file], matrix.data + (int64_t(at) - int64_t(matrix.offset)), job.to - at,
                                  off_t(at));
        if (got > 0) {
            at += uint64_t(got);
            read_bytes_ += uint64_t(got);
        } else if (got == 0) {
            problem = ENODATA; // the file is shorter than it was
        } else if (errno != EINTR) {
            problem = errno;
        }
    }
#else
    problem = ENOSYS;
#endif
    if (problem) {
        fail(job, problem);
    }
    if (left(job.expert, matrix.number).fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_); // nobody may look and then wait in between
        done_.notify_all();
    }
}

void Cache::fail(const Job & job, int code) {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.errors += 1;
    numbers_.error_code = uint64_t(code);
    numbers_.error_file = uint64_t(matrices_[job.matrix].file);
    numbers_.error_offset = job.from;
    failed_.push_back(job.expert);
}

// Tells the errors since the last call, and lets go of experts that were not read whole: the next pass tries again.
int Cache::forgive(uint64_t * into) {
    std::lock_guard<std::mutex> lock(mutex_);
    const int count = int(failed_.size());
    into[0] = numbers_.error_code, into[1] = numbers_.error_file, into[2] = numbers_.error_offset;
    std::vector<int> later;
    for (const int expert : failed_) {
        if (experts_[expert].held && arrived(expert, layers_[layer_of_[expert]])) {
            drop(expert, ABSENT);
        } else if (experts_[expert].held) {
            later.push_back(expert); // its other matrices are still read
        }
    }
    failed_.swap(later);
    return count;
}

} // namespace experts
