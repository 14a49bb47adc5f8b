// How many hits the latest choices would have had with another half-life.

#include "experts.h"

namespace experts {

// The latest choices, from the beginning of a pass on.
std::vector<uint32_t> Cache::latest(uint64_t passes) {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t count = std::min(traced_, TRACE);
    size_t first = count;
    int above = -1;
    for (uint64_t begun = 0; first > 0 && begun < passes; --first) {
        const uint32_t entry = trace_[(traced_ - count + first - 1) % TRACE];
        if (entry & VISIT) {
            const int layer = layer_of_[entry & ~VISIT];
            begun += above >= 0 && layer >= above; // the entry belongs to the pass before
            if (begun == passes) {
                break;
            }
            above = layer;
        }
    }
    std::vector<uint32_t> found;
    for (size_t i = first; i < count; ++i) {
        found.push_back(trace_[(traced_ - count + i) % TRACE]);
    }
    return found;
}

double Cache::replay(double half_life, uint64_t budget, uint64_t passes, double counted) {
    const std::vector<uint32_t> trace = latest(passes);
    const Memory memory{std::max(half_life, 0.25)};
    std::vector<Expert> experts(experts_.size());
    std::set<std::pair<double, int>> held;
    uint64_t used = 0, visit = 0, pass = 0, asked = 0, hits = 0;
    int layer_now = 1 << 30;
    for (size_t i = 0; i < trace.size(); ++i) {
        const int index = int(trace[i] & ~VISIT), layer = layer_of_[index];
        if (trace[i] & VISIT) {
            ++visit;
            pass += layer <= layer_now;
            layer_now = layer;
        }
        Expert & expert = experts[index];
        const bool counts = double(i) >= double(trace.size()) * (1 - counted); // before, the cache fills
        asked += counts;
        hits += counts && expert.held;
        if (expert.held) {
            held.erase({memory.worth(expert), index});
        } else {
            used += bytes_of(index);
            expert.held = true;
        }
        memory.use(expert, pass);
        expert.visit = visit;
        held.insert({memory.worth(expert), index});
        for (auto at = held.begin(); used > budget && at != held.end();) {
            if (experts[at->second].visit == visit) {
                ++at;
                continue;
            }
            experts[at->second].held = false;
            used -= bytes_of(at->second);
            at = held.erase(at);
        }
    }
    return asked ? double(hits) / double(asked) : 0;
}

} // namespace experts
