// Reading and writing the protobuf wire format (https://protobuf.dev/programming-guides/encoding).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace cdp {

static_assert(std::endian::native == std::endian::little, "the wire format is read in place");

constexpr int kMaxVarintBytes = 10;

// The varint at `p`, or null where it is cut off or longer than ten bytes.
inline const uint8_t* read_varint_slow(const uint8_t* p, const uint8_t* end, uint64_t& value) {
    uint64_t result = 0;
    for (int i = 0; i < kMaxVarintBytes; ++i) {
        if (p == end) return nullptr;
        const uint64_t byte = *p++;
        result |= (byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            // The tenth byte has room for one bit only.
            if (i == kMaxVarintBytes - 1 && byte > 1) return nullptr;
            value = result;
            return p;
        }
    }
    return nullptr;
}

inline const uint8_t* read_varint(const uint8_t* p, const uint8_t* end, uint64_t& value) {
    if (__builtin_expect(p < end && *p < 0x80, 1)) {
        value = *p;
        return p + 1;
    }
    if (end - p >= 2 && p[1] < 0x80) {
        value = (p[0] & 0x7Fu) | (uint64_t{p[1]} << 7);
        return p + 2;
    }
    return read_varint_slow(p, end, value);
}

// A tag: field number and wire type, 32 bits in at most five bytes.
inline const uint8_t* read_tag(const uint8_t* p, const uint8_t* end, uint32_t& tag) {
    uint64_t value = 0;
    const uint8_t* next = read_varint(p, end, value);
    if (next == nullptr || next - p > 5 || value > UINT32_MAX) return nullptr;
    tag = static_cast<uint32_t>(value);
    return next;
}

// A length prefix, and that as many bytes follow.
inline const uint8_t* read_length(const uint8_t* p, const uint8_t* end, size_t& size) {
    uint64_t value = 0;
    p = read_varint(p, end, value);
    if (p == nullptr || value > static_cast<uint64_t>(end - p)) return nullptr;
    size = static_cast<size_t>(value);
    return p;
}

template <typename T>
inline T load(const uint8_t* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
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
