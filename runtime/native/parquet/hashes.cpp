#include "hashes.h"

#include <array>
#include <bit>
#include <random>

namespace cdp::parquet {

namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9u;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63u;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5u;

uint64_t round_of(uint64_t lane, uint64_t input) {
    return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

}  // namespace

uint64_t hash_seed() {
    static const uint64_t seed = [] {
        std::random_device random;
        return uint64_t{random()} << 32 | random();
    }();
    return seed;
}

uint64_t xxhash64(const uint8_t* p, size_t size) {
    const uint8_t* end = p + size;
    uint64_t hash = kPrime5;
    if (size >= 32) {
        std::array<uint64_t, 4> lanes{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
        for (; end - p >= 32; p += 32) {
            for (size_t i = 0; i < 4; ++i) lanes[i] = round_of(lanes[i], load<uint64_t>(p + 8 * i));
        }
        hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
               std::rotl(lanes[3], 18);
        for (const uint64_t lane : lanes) {
            hash = (hash ^ round_of(0, lane)) * kPrime1 + kPrime4;
        }
    }
    hash += size;
    for (; end - p >= 8; p += 8) {
        hash = std::rotl(hash ^ round_of(0, load<uint64_t>(p)), 27) * kPrime1 + kPrime4;
    }
    if (end - p >= 4) {
        hash = std::rotl(hash ^ (load<uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
        p += 4;
    }
    for (; p < end; ++p) hash = std::rotl(hash ^ (*p * kPrime5), 11) * kPrime1;
    hash = (hash ^ (hash >> 33)) * kPrime2;
    hash = (hash ^ (hash >> 29)) * kPrime3;
    return hash ^ (hash >> 32);
}

}  // namespace cdp::parquet
