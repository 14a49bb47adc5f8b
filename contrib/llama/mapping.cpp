// llama.cpp maps a model's file so that all of it is read at once. Who replaces most of the map afterwards need not wait
// for that: on request, the file is mapped and not read. The build gives llama.cpp's call of `mmap` the name of ours.

#if defined(__linux__)
#include <sys/mman.h>

#include <atomic>

namespace {
std::atomic<bool> reads{true};
}

extern "C" {
__attribute__((visibility("default"))) void twd_map_reads(bool wanted);
void * twd_mmap(void * address, size_t length, int protection, int flags, int file, off_t offset);

// Whether maps of files are read at once, from now on.
void twd_map_reads(bool wanted) { reads = wanted; }

void * twd_mmap(void * address, size_t length, int protection, int flags, int file, off_t offset) {
    return mmap(address, length, protection, reads ? flags : flags & ~MAP_POPULATE, file, offset);
}
}
#endif
