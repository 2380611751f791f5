// UTF-8: checked while it is copied, sixteen bytes at a time as long as it is ASCII.
#pragma once

#include <cstdint>
#include <cstring>

#include "prefetch.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace cdp {

// Whether the bytes are well-formed UTF-8 (Unicode 15, table 3-7).
inline bool is_utf8(const uint8_t* p, size_t size) {
    const uint8_t* end = p + size;
    while (p < end) {
        if (end - p >= 8) {
            uint64_t word;
            std::memcpy(&word, p, 8);
            if ((word & 0x8080808080808080u) == 0) {
                p += 8;
                continue;
            }
        }
        const uint8_t lead = *p++;
        if (lead < 0x80) continue;
        int more = 0;
        uint8_t low = 0x80;
        uint8_t high = 0xBF;
        if (lead >= 0xC2 && lead <= 0xDF) {
            more = 1;
        } else if (lead >= 0xE0 && lead <= 0xEF) {
            more = 2;
            if (lead == 0xE0) low = 0xA0;
            if (lead == 0xED) high = 0x9F;
        } else if (lead >= 0xF0 && lead <= 0xF4) {
            more = 3;
            if (lead == 0xF0) low = 0x90;
            if (lead == 0xF4) high = 0x8F;
        } else {
            return false;
        }
        if (end - p < more) return false;
        if (*p < low || *p > high) return false;
        ++p;
        for (; more > 1; --more, ++p) {
            if ((*p & 0xC0) != 0x80) return false;
        }
    }
    return true;
}

// What a copy may write behind the end of its bytes.
constexpr size_t kCopySlack = 64;

// Sixteen bytes from one place to another; the bits of those that are not ASCII.
inline uint64_t copy_16(uint8_t* to, const uint8_t* from) {
#if defined(__SSE2__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
#else
    uint64_t words[2];
    std::memcpy(words, from, sizeof words);
    std::memcpy(to, words, sizeof words);
    // The multiplication gathers the top bit of each byte in the top byte, in order.
    constexpr uint64_t kTops = 0x8080808080808080u;
    constexpr uint64_t kGather = 0x0002040810204081u;
    return ((words[0] & kTops) * kGather) >> 56 | (((words[1] & kTops) * kGather) >> 56) << 8;
#endif
}

// The same of 64 bytes.
inline uint64_t copy_64(uint8_t* to, const uint8_t* from) {
    return copy_16(to, from) | copy_16(to + 16, from + 16) << 16 |
           copy_16(to + 32, from + 32) << 32 | copy_16(to + 48, from + 48) << 48;
}

// Copies `size` bytes and tells whether all are ASCII for sure. `to` has `kCopySlack` writable
// bytes behind its end; `readable` is how many bytes may be read at `from`, at least `size`.
inline bool copy_is_ascii(uint8_t* to, const uint8_t* from, size_t size, size_t readable) {
    if (__builtin_expect(size <= 64, 1)) {
        // Sizes differ from value to value: to copy too much costs less than a branch mispredicted.
        // (Of no bytes nothing is sure: they shift by nothing.)
        if (__builtin_expect(readable >= 64, 1)) {
            return copy_64(to, from) << ((64 - size) & 63) == 0;
        }
        // Two copies that overlap reach exactly to the end.
        if (size >= 32) {
            return (copy_16(to, from) | copy_16(to + 16, from + 16) |
                    copy_16(to + size - 32, from + size - 32) |
                    copy_16(to + size - 16, from + size - 16)) == 0;
        }
        if (size >= 16) return (copy_16(to, from) | copy_16(to + size - 16, from + size - 16)) == 0;
        if (readable >= 16) return (copy_16(to, from) & ((1u << size) - 1)) == 0;
        uint8_t seen = 0;
        for (size_t at = 0; at < size; ++at) seen |= to[at] = from[at];
        return seen < 0x80;
    }
    uint64_t seen = 0;
    for (size_t at = 0; at + 64 < size; at += 64) {
        fetch_for_write(to + at, kAheadOfTexts);
        seen |= copy_64(to + at, from + at);
    }
    return (seen | copy_64(to + size - 64, from + size - 64)) == 0;
}

// Copies `size` bytes, under the same terms.
inline void copy(uint8_t* to, const uint8_t* from, size_t size, size_t readable) {
    if (size <= 64 && readable >= 64) {
        std::memcpy(to, from, 64);
    } else if (size != 0) {
        std::memcpy(to, from, size);
    }
}

}  // namespace cdp
