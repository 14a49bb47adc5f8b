// Loops over whole rows of logits, written so that compilers use vectors, and compiled for several processors.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define TWD_WIDE __attribute__((unused, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__GNUC__)
#define TWD_WIDE __attribute__((unused))
#else
#define TWD_WIDE
#endif

namespace wide {

constexpr int LANES = 16;
constexpr int BLOCK = 1024;
constexpr uint32_t SPREAD = 0x9E3779B1u;

// The hash of a token that gives the upper 32 bits of its noise.
inline uint32_t coarse(uint32_t id, uint32_t first, uint32_t second) {
    uint32_t word = id * SPREAD ^ first;
    word ^= word >> 16;
    word *= 0x85EBCA6Bu;
    word ^= word >> 13;
    word += second;
    word *= 0xC2B2AE35u;
    return word ^ word >> 16;
}

// e^x for x up to 0, with an error of two units in the last place.
inline float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float whole = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const int32_t bits = (int32_t(whole) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return sum * power;
}

// The largest of `count` numbers; NaN if one of them is none.
TWD_WIDE static float largest(const float * x, int count) {
    float most[LANES];
    int32_t wrong[LANES] = {};
    for (float & one : most) {
        one = -std::numeric_limits<float>::infinity();
    }
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            const float one = x[i + lane];
            most[lane] = one > most[lane] ? one : most[lane];
            wrong[lane] |= one != one;
        }
    }
    for (; i < count; ++i) {
        most[0] = x[i] > most[0] ? x[i] : most[0];
        wrong[0] |= x[i] != x[i];
    }
    for (int lane = 1; lane < LANES; ++lane) {
        most[0] = most[lane] > most[0] ? most[lane] : most[0];
        wrong[0] |= wrong[lane];
    }
    return wrong[0] ? std::numeric_limits<float>::quiet_NaN() : most[0];
}

// The sum of e^(x - highest).
TWD_WIDE static double mass(const float * x, int count, float highest) {
    double sum = 0.0;
    int i = 0;
    while (i + LANES <= count) {
        float part[LANES] = {};
        for (const int end = i + BLOCK; i < end && i + LANES <= count; i += LANES) {
            for (int lane = 0; lane < LANES; ++lane) {
                part[lane] += exp_of(x[i + lane] - highest);
            }
        }
        for (const float one : part) {
            sum += one;
        }
    }
    for (; i < count; ++i) {
        sum += exp_of(x[i] - highest);
    }
    return sum;
}

// For each token at least logit + noise, up to a constant: a float's bits tell its logarithm cheaply. `ids` may be null:
// then tokens are numbered from 0.
TWD_WIDE static void bounds(const float * x, const int32_t * ids, int count, float scale, uint32_t first, uint32_t second,
                            float * out) {
    if (ids == nullptr) {
        for (int i = 0; i < count; ++i) {
            const float word = float(coarse(uint32_t(i), first, second));
            int32_t bits;
            std::memcpy(&bits, &word, sizeof bits);
            out[i] = float(bits) * scale + x[i];
        }
        return;
    }
    for (int i = 0; i < count; ++i) {
        const float word = float(coarse(uint32_t(ids[i]), first, second));
        int32_t bits;
        std::memcpy(&bits, &word, sizeof bits);
        out[i] = float(bits) * scale + x[i];
    }
}

// The smallest of the hashes of `count` tokens.
TWD_WIDE static uint32_t least_coarse(uint32_t start, int count, uint32_t first, uint32_t second) {
    uint32_t least = ~uint32_t(0);
    for (int i = 0; i < count; ++i) {
        const uint32_t one = coarse(start + uint32_t(i), first, second);
        least = one < least ? one : least;
    }
    return least;
}

// Calls `each` with the places of all numbers of at least `least`, in order. Most of them are below.
template <class Each> void each_above(const float * x, int count, float least, const Each & each) {
    constexpr int STEP = 256;
    for (int start = 0; start < count; start += STEP) {
        const int end = start + STEP < count ? start + STEP : count;
        if (largest(x + start, end - start) < least) {
            continue;
        }
        for (int i = start; i < end; ++i) {
            if (x[i] >= least) {
                each(i);
            }
        }
    }
}

} // namespace wide
