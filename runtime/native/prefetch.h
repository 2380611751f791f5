// Memory fetched ahead of being written, and of being read back from the last row to the first. A
// batch has more places in turn than the processor's own prefetching follows, so that without this
// every new cache line is waited for.
#pragma once

#include <cstdint>

namespace cdp {

// How far ahead, bytes: of numbers and offsets, and of texts, which take more a row.
constexpr int64_t kAhead = 128;
constexpr int64_t kAheadOfTexts = 512;

constexpr int64_t kLine = 64;

// Outside of a buffer there is nothing to point at: a number, which is never followed.
inline const void* place_beside(const void* place, int64_t ahead) {
    return reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(place) +
                                         static_cast<uintptr_t>(ahead));
}
inline void fetch_for_write(const void* place, int64_t ahead) {
    __builtin_prefetch(place_beside(place, ahead), 1);
}
inline void fetch_for_read(const void* place, int64_t ahead) {
    __builtin_prefetch(place_beside(place, ahead));
}

// Behind a run of so many bytes that was written at once: the next one, which probably is as long,
// is met half-way.
inline void fetch_behind_run(const void* end, int64_t bytes) {
    constexpr int64_t kMost = 2048;
    for (int64_t at = 0; at < bytes / 2 && at < kMost; at += kLine) fetch_for_write(end, at);
}

}  // namespace cdp
