// Reading and writing the protobuf wire format (https://protobuf.dev/programming-guides/encoding).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cdp {

static_assert(std::endian::native == std::endian::little, "the wire format is read in place");

constexpr int kMaxVarintBytes = 10;

#if defined(__x86_64__)
inline const bool kFastPext = [] {
    __builtin_cpu_init();
    // The first two generations of Zen have it in microcode, slower than the shifts.
    return __builtin_cpu_supports("bmi2") && !__builtin_cpu_is("znver1") &&
           !__builtin_cpu_is("znver2");
}();
inline uint64_t pext(uint64_t word, uint64_t groups) {
    asm("pextq %1, %0, %0" : "+r"(word) : "r"(groups));
    return word;
}
#endif

// Moves groups of seven bits together, those of up to eight bytes.
inline uint64_t join_groups(uint64_t word) {
    word = ((word & 0x7F007F007F007F00u) >> 1) | (word & 0x007F007F007F007Fu);
    word = ((word & 0x3FFF00003FFF0000u) >> 2) | (word & 0x00003FFF00003FFFu);
    return ((word & 0x0FFFFFFF00000000u) >> 4) | (word & 0x000000000FFFFFFFu);
}

// The varint at `p`, or null where it is cut off or longer than ten bytes.
[[gnu::cold]] inline const uint8_t* read_varint_slow(const uint8_t* p, const uint8_t* end,
                                                     uint64_t& value) {
    uint64_t result = 0;
    for (int i = 0; i < kMaxVarintBytes; ++i) {
        if (p >= end) return nullptr;
        const uint64_t byte = *p++;
        result |= (byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            // Of the tenth byte only one bit counts; protobuf ignores the others.
            value = result;
            return p;
        }
    }
    return nullptr;
}

// The same; eight bytes may be read at every place up to `safe`, also behind `end`.
inline const uint8_t* read_varint(const uint8_t* p, const uint8_t* end, const uint8_t* safe,
                                  uint64_t& value) {
    if (__builtin_expect(p < end && *p < 0x80, 1)) {
        value = *p;
        return p + 1;
    }
    if (__builtin_expect(p <= safe, 1)) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        const uint64_t stops = ~word & 0x8080808080808080u;
        if (__builtin_expect(stops != 0, 1)) {
            const uint64_t groups = (stops ^ (stops - 1)) & 0x7F7F7F7F7F7F7F7Fu;
#if defined(__x86_64__)
            value = kFastPext ? pext(word, groups) : join_groups(word & groups);
#else
            value = join_groups(word & groups);
#endif
            p += static_cast<unsigned>(std::countr_zero(stops)) / 8 + 1;
            return __builtin_expect(p <= end, 1) ? p : nullptr;
        }
    }
    return read_varint_slow(p, end, value);
}
inline const uint8_t* read_varint(const uint8_t* p, const uint8_t* end, uint64_t& value) {
    return read_varint(p, end, end - p >= 8 ? end - 8 : nullptr, value);
}

// A tag: field number and wire type, 32 bits in at most five bytes.
inline const uint8_t* read_tag(const uint8_t* p, const uint8_t* end, uint32_t& tag) {
    uint64_t value = 0;
    const uint8_t* next = read_varint(p, end, value);
    if (next == nullptr || next - p > 5 || value > UINT32_MAX) return nullptr;
    tag = static_cast<uint32_t>(value);
    return next;
}

// A length prefix, of at most five bytes as protobuf's own parsers ask, and that as many bytes
// follow.
inline const uint8_t* read_length(const uint8_t* p, const uint8_t* end, size_t& size) {
    if (__builtin_expect(p < end && *p < 0x80, 1)) {
        size = *p++;
        return size <= static_cast<size_t>(end - p) ? p : nullptr;
    }
    constexpr ptrdiff_t kMostBytes = 5;
    uint64_t value = 0;
    const uint8_t* next = read_varint(p, end, value);
    if (next == nullptr || next - p > kMostBytes || value > static_cast<uint64_t>(end - next)) {
        return nullptr;
    }
    size = static_cast<size_t>(value);
    return next;
}

template <typename T>
inline T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

// A float as the same double, its bits; a NaN keeps those that it has.
inline uint64_t widen_float(uint32_t bits) {
    constexpr int kMoreFraction = 52 - 23;
    if ((bits & 0x7FFFFFFF) > 0x7F800000) {
        return uint64_t{bits & 0x80000000} << 32 | uint64_t{0x7FF} << 52 |
               uint64_t{bits & 0x7FFFFF} << kMoreFraction;
    }
    return std::bit_cast<uint64_t>(double{std::bit_cast<float>(bits)});
}
// The float that a double came from; false where there is none.
inline bool narrow_double(uint64_t bits, uint32_t& narrow) {
    narrow = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
    if ((bits << 1) > (uint64_t{0x7FF} << 53)) {
        narrow = static_cast<uint32_t>(bits >> 32 & 0x80000000) | 0x7F800000 |
                 static_cast<uint32_t>(bits >> (52 - 23) & 0x7FFFFF);
    }
    return widen_float(narrow) == bits;
}

inline int32_t unzigzag32(uint32_t value) {
    return static_cast<int32_t>((value >> 1) ^ (~(value & 1) + 1));
}
inline int64_t unzigzag64(uint64_t value) {
    return static_cast<int64_t>((value >> 1) ^ (~(value & 1) + 1));
}
inline uint32_t zigzag32(int32_t value) {
    return (static_cast<uint32_t>(value) << 1) ^ static_cast<uint32_t>(value >> 31);
}
inline uint64_t zigzag64(int64_t value) {
    return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

}  // namespace cdp
