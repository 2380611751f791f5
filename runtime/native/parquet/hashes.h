// The three hashes of a Parquet file: of dictionary entries (ours alone), of bloom filters
// (xxHash64) and of pages (CRC32).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../wire.h"

namespace cdp::parquet {

// A seed of this process, so that nobody can prepare values that collide.
uint64_t hash_seed();

// Both halves of a product.
inline uint64_t mix(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_number(uint64_t value, uint64_t seed) {
    return mix(value ^ seed, 0x9E3779B97F4A7C15u);
}

inline uint64_t hash_bytes(const uint8_t* p, size_t size, uint64_t seed) {
    constexpr uint64_t kFirst = 0xA0761D6478BD642Fu;
    constexpr uint64_t kSecond = 0xE7037ED1A0B428DBu;
    uint64_t hash = seed ^ size;
    uint64_t a = 0;
    uint64_t b = 0;
    if (size > 16) {
        const uint8_t* last = p + size - 16;
        for (; p < last; p += 16)
            hash = mix(load<uint64_t>(p) ^ kFirst, load<uint64_t>(p + 8) ^ hash);
        a = load<uint64_t>(last);
        b = load<uint64_t>(last + 8);
    } else if (size >= 8) {
        a = load<uint64_t>(p);
        b = load<uint64_t>(p + size - 8);
    } else if (size >= 4) {
        a = load<uint32_t>(p);
        b = load<uint32_t>(p + size - 4);
    } else if (size > 0) {
        a = uint64_t{p[0]} | uint64_t{p[size / 2]} << 8 | uint64_t{p[size - 1]} << 16;
    }
    return mix(kSecond ^ size, mix(a ^ kFirst, b ^ hash));
}

// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, with a seed of zero.
uint64_t xxhash64(const uint8_t* p, size_t size);

}  // namespace cdp::parquet
