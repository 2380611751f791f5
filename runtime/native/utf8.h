// UTF-8: checked while it is copied, sixteen bytes at a time as long as it is ASCII.
#pragma once

#include <cstdint>
#include <cstring>

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

// Copies `size` bytes and tells whether all are ASCII. `to` has 16 writable bytes behind its end;
// `readable` is how many bytes may be read at `from`, at least `size`.
inline bool copy_is_ascii(uint8_t* to, const uint8_t* from, size_t size, size_t readable) {
#if defined(__SSE2__)
    if (__builtin_expect(((size + 15) & ~size_t{15}) <= readable, 1)) {
        __m128i seen = _mm_setzero_si128();
        size_t at = 0;
        for (; at + 16 <= size; at += 16) {
            const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at));
            seen = _mm_or_si128(seen, chunk);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), chunk);
        }
        int mask = _mm_movemask_epi8(seen);
        if (at < size) {
            const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), chunk);
            mask |= _mm_movemask_epi8(chunk) & ((1 << (size - at)) - 1);
        }
        return mask == 0;
    }
#else
    (void)readable;
#endif
    std::memcpy(to, from, size);
    uint64_t seen = 0;
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word;
        std::memcpy(&word, from + at, 8);
        seen |= word;
    }
    for (; at < size; ++at) seen |= from[at];
    return (seen & 0x8080808080808080u) == 0;
}

// Copies `size` bytes, under the same terms.
inline void copy(uint8_t* to, const uint8_t* from, size_t size, size_t readable) {
    constexpr size_t kShort = 64;
    if (size <= kShort && ((size + 15) & ~size_t{15}) <= readable) {
        for (size_t at = 0; at < size; at += 16) std::memcpy(to + at, from + at, 16);
    } else if (size != 0) {
        std::memcpy(to, from, size);
    }
}

}  // namespace cdp
