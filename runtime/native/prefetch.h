// Memory fetched ahead of being written. A batch writes to more places in turn than the processor's
// own prefetching follows, so that without this every new cache line is waited for.
#pragma once

#include <cstdint>

namespace cdp {

// How far ahead, bytes: of numbers and offsets, and of texts, which take more a row.
constexpr int64_t kAhead = 128;
constexpr int64_t kAheadOfTexts = 512;

inline void fetch_for_write(const void* place, int64_t ahead) {
    // Behind the buffer's end there is nothing to point at: numbers, which are never followed.
    const auto at = reinterpret_cast<uintptr_t>(place) + static_cast<uintptr_t>(ahead);
    __builtin_prefetch(reinterpret_cast<const void*>(at), 1);
}

// Behind a run of so many bytes that was written at once: the next one, which probably is as long,
// is met half-way.
inline void fetch_behind_run(const void* end, int64_t bytes) {
    constexpr int64_t kLine = 64;
    constexpr int64_t kMost = 2048;
    for (int64_t at = 0; at < bytes / 2 && at < kMost; at += kLine) fetch_for_write(end, at);
}

}  // namespace cdp
