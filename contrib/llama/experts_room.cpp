// Which experts are in memory, and which give way to others.

#include "experts.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace experts {

#if defined(__linux__)
static constexpr int KEEP_OLD = 4; // MREMAP_DONTUNMAP: the old place stays mapped, and empty. Older headers lack it
#endif

// Asks for experts whatever it costs: a layer's choice must be in memory at once.
void Cache::fetch(const std::vector<int> & missing) {
    uint64_t needed = 0;
    for (const int expert : missing) {
        needed += bytes_of(expert);
    }
    pass_.missed_bytes += needed;
    find_room(needed, INFINITY, leave_);
    drop(leave_, missing);
    queue_reads(missing, wanted_, PIECE);
}

// Orders experts: those leave first that will be wanted last. An expert is wanted every so many passes, and when a pass
// reaches its layer; in passes of many rows, which want nearly all experts, only the layer tells them apart.
double Cache::worth(int expert) const {
    const Expert & one = experts_[expert];
    const int count = int(layers_.size()), layer = layer_of_[expert];
    const double until = double((layer - layer_now_ - 1 + count) % count) / count;
    return (one.expected > visit_ ? EXPECTED : 0) - until - 1 / (memory_.chance(one, numbers_.passes) + 1e-9);
}

// Whether an expert may give way: not what this layer needs.
bool Cache::may_leave(int expert) {
    const Expert & one = experts_[expert];
    return one.held && one.visit != visit_ && arrived(expert, layers_[layer_of_[expert]]);
}

// Those that are worth least, and less than `worth_below`, and make room when they leave. Returns the room for others.
uint64_t Cache::find_room(uint64_t needed, double worth_below, std::vector<int> & leave) {
    leave.clear();
    uint64_t held = numbers_.held_bytes;
    if (held + needed > numbers_.budget) {
        std::vector<std::pair<double, int>> found;
        for (size_t i = 0; i < experts_.size(); ++i) {
            const double value = may_leave(int(i)) ? worth(int(i)) : INFINITY;
            if (value < worth_below) {
                found.emplace_back(value, int(i));
            }
        }
        std::sort(found.begin(), found.end());
        for (size_t i = 0; i < found.size() && held + needed > numbers_.budget; ++i) {
            leave.push_back(found[i].second);
            held -= bytes_of(found[i].second);
        }
    }
    return numbers_.budget > held ? numbers_.budget - held : 0;
}

void Cache::drop(const std::vector<int> & leave, const std::vector<int> & heirs) {
    for (size_t i = 0; i < leave.size(); ++i) {
        drop(leave[i], i < heirs.size() ? heirs[i] : ABSENT);
    }
}

// The pages that an expert shares with no other.
std::pair<char *, uint64_t> Cache::own_pages(int expert, const Matrix & matrix) const {
    const uint64_t from = matrix.offset + uint64_t(expert - layers_[matrix.layer].first) * matrix.bytes;
    const uint64_t start = (from + page_ - 1) / page_ * page_, end = (from + matrix.bytes) / page_ * page_;
    return {matrix.data + (int64_t(start) - int64_t(matrix.offset)), end > start ? end - start : 0};
}

// Lets go of an expert. Its pages move to the heir, who is read into them: the system need not clear any. Pages that it
// shares with its neighbours stay.
void Cache::drop(int expert, int heir) {
    const Layer & layer = layers_[layer_of_[expert]];
    for (const int index : layer.matrices) {
        const Matrix & matrix = matrices_[index];
        left(expert, matrix.number) = ABSENT;
#if defined(__linux__)
        auto pages = own_pages(expert, matrix);
        if (heir != ABSENT && matrix.number < int(layers_[layer_of_[heir]].matrices.size())) {
            const auto room = own_pages(heir, matrices_[layers_[layer_of_[heir]].matrices[matrix.number]]);
            const uint64_t size = std::min(pages.second, room.second);
            const int how = MREMAP_MAYMOVE | MREMAP_FIXED | KEEP_OLD;
            if (size && mremap(pages.first, size, size, how, room.first) != MAP_FAILED) {
                pages.first += size, pages.second -= size;
            }
        }
        if (pages.second) {
            madvise(pages.first, pages.second, MADV_DONTNEED);
        }
#endif
    }
    experts_[expert].held = experts_[expert].foreseen = false;
    numbers_.held_bytes -= layer.bytes;
    numbers_.dropped += 1;
}

void Cache::set_budget(uint64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    numbers_.budget = bytes;
    visit_ += layers_.size() + 1; // what was wanted or expected may go, too: the caller sees to it that no pass runs
    find_room(0, INFINITY, leave_);
    drop(leave_, {});
}

void Cache::set_half_life(double passes) {
    std::lock_guard<std::mutex> lock(mutex_);
    memory_.half_life = std::max(passes, 0.25);
}

} // namespace experts
