// How many of an engine's threads a pass uses. Threads wait for each other behind every operation of a graph. Where other
// programs take a core for a while, all wait for the one that has none, and fewer threads are quicker. Nothing here
// computes or waits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace threads {

constexpr double SHARE = 0.02;      // trials may cost this part of the time
constexpr double SAVED_MS = 150.0;  // the most that is saved up for trials
constexpr double QUICKER = 0.93;    // fewer or more threads are kept if a pass takes at most this part of the time
constexpr double HOPELESS = 1.4;    // one such pass ends a trial
constexpr double CHANGED = 1.3;     // passes that take so many times as long, or as short, are a reason for a trial
constexpr int TRIAL_PASSES = 3;
constexpr int PASSES_APART = 60;    // between two trials, at least
constexpr int CHANGED_APART = 15;   // the same where passes changed
constexpr double ROOM = 0.7;        // so much of each further core must be idle before it is tried at once
constexpr int PATIENCE_MAX = 4;     // trials that show nothing become rarer, so many times at most
constexpr int LATEST = 7;           // passes of a shape whose median tells what it takes; with fewer it is not known
constexpr size_t SHAPES = 32;       // that are remembered

// The numbers of threads that are tried, from all of them down to one.
inline std::vector<int> steps_of(int planned) {
    std::vector<int> found;
    for (const int count : {planned, planned - 1, planned - 2, planned * 3 / 4, planned / 2, planned / 4, 1}) {
        if (count >= 1 && (found.empty() || count < found.back())) {
            found.push_back(count);
        }
    }
    return found;
}

class ThreadChoice {
  public:
    explicit ThreadChoice(int planned) : steps_(steps_of(planned)), factors_(steps_.size(), 0.0) {}

    // How many threads passes use that are no trial.
    int usual() const { return steps_[at_]; }

    // How many a pass of this shape is to use.
    int begin(uint64_t shape) {
        const Shape * known = find(shape);
        if (known == nullptr || known->passes < LATEST) {
            return usual();
        }
        if (trial_ < 0 && (freed() || due(*known))) {
            trial_ = next_;
            ratios_.clear();
        }
        return trial_ < 0 ? usual() : steps_[trial_];
    }

    // While passes used fewer threads, so many cores were idle. Once some are that were not, more threads are tried soon:
    // a pass on one core takes the same time whatever the others do, so it cannot show that they are free.
    void idle(double cores) {
        room_ = at_ > 0 && cores >= ROOM * (steps_[at_ - 1] - steps_[at_]);
        crowded_ |= !room_;
    }

    // Such a pass took so many milliseconds with so many threads.
    void end(uint64_t shape, int used, double ms) {
        saved_ = std::min(SAVED_MS, saved_ + SHARE * ms);
        ++since_;
        if (used == usual()) {
            note(shape, ms);
            return;
        }
        Shape * known = find(shape);
        if (trial_ < 0 || used != steps_[trial_] || known == nullptr) {
            return; // another pass has ended the trial meanwhile
        }
        saved_ -= std::max(0.0, ms - known->ms());
        ratios_.push_back(ms / known->ms());
        judge();
    }

  private:
    struct Shape {
        uint64_t shape = 0;
        uint64_t used = 0;
        double before = 0.0; // what such a pass took when that became known, or when something was tried last
        int passes = 0;
        double latest[LATEST] = {};

        // What such a pass takes with the usual threads.
        double ms() const {
            const int count = std::min(passes, LATEST);
            std::vector<double> sorted(latest, latest + count);
            std::nth_element(sorted.begin(), sorted.begin() + count / 2, sorted.end());
            return sorted[count / 2];
        }
    };

    Shape * find(uint64_t shape) {
        for (Shape & one : shapes_) {
            if (one.shape == shape) {
                return &one;
            }
        }
        return nullptr;
    }

    void note(uint64_t shape, double ms) {
        Shape * known = find(shape);
        if (known == nullptr) {
            if (shapes_.size() == SHAPES) {
                shapes_.erase(std::min_element(shapes_.begin(), shapes_.end(),
                                               [](const Shape & a, const Shape & b) { return a.used < b.used; }));
            }
            shapes_.emplace_back();
            shapes_.back().shape = shape;
            known = &shapes_.back();
        }
        known->latest[known->passes++ % LATEST] = ms;
        if (known->passes == LATEST) {
            known->before = known->ms();
        }
        known->used = ++uses_;
    }

    // Whether cores became idle, so that more threads are tried. As much again as is saved up may be spent in advance.
    bool freed() {
        if (!room_ || !crowded_ || saved_ <= -SAVED_MS) {
            return false;
        }
        crowded_ = false;
        next_ = at_ - 1;
        return true;
    }

    // Whether a trial with a pass of this shape may begin, and of what.
    bool due(const Shape & known) {
        const double ms = known.ms();
        const bool slower = ms > CHANGED * known.before, quicker = ms * CHANGED < known.before;
        if (since_ < (slower || quicker ? CHANGED_APART : PASSES_APART)) {
            return false;
        }
        next_ = choose(slower, quicker);
        const double factor = expected(next_);
        const double costs = ms * (factor - 1.0) * (factor > HOPELESS ? 1 : TRIAL_PASSES);
        return slower || quicker || (saved_ > 0.0 && saved_ >= std::min(SAVED_MS, patience_ * costs));
    }

    // The step to try: fewer threads where passes became slower, more where they became quicker, else both in turn.
    int choose(bool slower, bool quicker) const {
        const int last = int(steps_.size()) - 1;
        const bool fewer = slower || (!quicker && fewer_);
        return at_ < last && (fewer || at_ == 0) ? at_ + 1 : at_ - 1;
    }

    // How many times as long a pass with that step is expected to take.
    double expected(int step) const {
        if (factors_[step] > 0.0) {
            return factors_[step];
        }
        return std::max(1.0, double(usual()) / steps_[step]);
    }

    void judge() {
        const bool hopeless = ratios_.back() > HOPELESS;
        if (!hopeless && int(ratios_.size()) < TRIAL_PASSES) {
            return;
        }
        std::sort(ratios_.begin(), ratios_.end());
        const double ratio = hopeless ? ratios_.back() : ratios_[ratios_.size() / 2];
        const int tried = trial_;
        trial_ = -1;
        since_ = 0;
        fewer_ = !fewer_;
        if (ratio > QUICKER) {
            factors_[tried] = ratio;
            patience_ = std::min(PATIENCE_MAX, 2 * patience_);
            for (Shape & one : shapes_) {
                one.before = one.ms();
            }
            return;
        }
        std::fill(factors_.begin(), factors_.end(), 0.0);
        factors_[at_] = 1.0 / ratio;
        fewer_ = tried > at_; // go on in this direction
        at_ = tried;
        patience_ = 1;
        room_ = false;
        crowded_ = true;
        shapes_.clear();
    }

    const std::vector<int> steps_;
    std::vector<double> factors_; // how many times as long a pass took with each step, compared with the usual one then
    std::vector<Shape> shapes_;
    std::vector<double> ratios_; // of the passes of a trial
    int at_ = 0, trial_ = -1, next_ = 0, patience_ = 1, since_ = 0;
    bool fewer_ = true;
    bool room_ = false;   // whether cores for the next step up are idle
    bool crowded_ = true; // whether they were not since they were tried last
    double saved_ = 0.0;
    uint64_t uses_ = 0;
};

} // namespace threads
