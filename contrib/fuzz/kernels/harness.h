// What both programs share: which case it is, how a refusal comes back, and the loop over all cases.
#pragma once

#include "shapes.h"

#include <cstdio>
#include <cstdlib>
#include <sanitizer/common_interface_defs.h>
#include <stdexcept>

enum Outcome { COMPUTED, REFUSED, LEFT_OUT, OUTCOMES };

inline uint64_t seed, number;
inline std::string last_refusal;

inline void tell() { fprintf(stderr, "case %llu of seed %llu\n", (unsigned long long) number, (unsigned long long) seed); }

// What an assertion calls; C is compiled so that exceptions go through it.
inline void refuse(const char * why) {
    last_refusal = why;
    throw std::runtime_error(why);
}

// What `assert` calls: in ggml-cpu.c it is on.
extern "C" void __assert_fail(const char * what, const char *, unsigned, const char *) noexcept(false) { refuse(what); abort(); }

// Returns what becomes of a case; ends the program where a sound one is refused.
template <class Compute> Outcome outcome_of(const char * name, bool sound, const Compute & compute) {
    Outcome outcome = REFUSED;
    try {
        outcome = compute();
    } catch (const std::runtime_error &) {
    }
    if (outcome == REFUSED && sound) {
        fprintf(stderr, "a sound %s was refused: %s\n", name, last_refusal.c_str());
        tell();
        exit(1);
    }
    return outcome;
}

// PROGRAM SEED COUNT [FIRST]
template <class One> int run_cases(int count_of_arguments, char ** arguments, const One & one) {
    if (count_of_arguments < 3) {
        fprintf(stderr, "usage: %s SEED COUNT [FIRST]\n", arguments[0]);
        return 2;
    }
    seed = strtoull(arguments[1], nullptr, 10);
    const uint64_t count = strtoull(arguments[2], nullptr, 10);
    const uint64_t first = count_of_arguments > 3 ? strtoull(arguments[3], nullptr, 10) : 0;
    __sanitizer_set_death_callback(tell);
    ggml_set_abort_callback(refuse);
    uint64_t outcomes[OUTCOMES] = {};
    for (number = first; number < first + count; ++number) {
        Random random(seed * 1000003 + number);
        ++outcomes[one(random)];
    }
    fprintf(stderr, "seed %llu: %llu computed, %llu refused, %llu left out as too large\n", (unsigned long long) seed,
            (unsigned long long) outcomes[COMPUTED], (unsigned long long) outcomes[REFUSED],
            (unsigned long long) outcomes[LEFT_OUT]);
    return 0;
}
