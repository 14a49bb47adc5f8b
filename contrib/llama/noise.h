// The noise that decides between tokens, as twd/decoding/noise.py has it: a function of seed, position and token.

#pragma once

#include "wide.h"

#include <cmath>
#include <cstdint>

namespace picking {

inline uint64_t mixed(uint64_t word) {
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9u;
    word = (word ^ word >> 27) * 0x94D049BB133111EBu;
    return word ^ word >> 31;
}

// The noise at one position of one text.
struct Noise {
    Noise(uint64_t seed, int position) {
        const uint64_t root = mixed(mixed(seed) + uint64_t(position) * 0x9E3779B97F4A7C15u);
        first = uint32_t(root);
        second = uint32_t(root >> 32);
        fine = mixed(root);
    }

    double of(uint32_t id) const {
        uint64_t low = uint64_t(id) * 0x9E3779B97F4A7C15u ^ fine;
        low = (low ^ low >> 32) * 0xD6E8FEB86659FD93u;
        return of_bits(uint64_t(wide::coarse(id, first, second)) << 20 | low >> 44);
    }

    // The most that any of `count` tokens from `start` on can have.
    double most(int start, int count) const {
        return of_bits(uint64_t(wide::least_coarse(uint32_t(start), count, first, second)) << 20);
    }

    uint32_t first, second;
    uint64_t fine;

  private:
    static double of_bits(uint64_t bits) { return -std::log(-std::log1p(-(double(bits) + 0.5) * 0x1p-52)); }
};

} // namespace picking
