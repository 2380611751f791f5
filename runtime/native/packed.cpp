#include "packed.h"

#include <array>
#include <bit>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "wire.h"

namespace cdp {

namespace {

constexpr size_t kBlock = 64;

// One bit for each of 64 bytes that ends a varint.
uint64_t ends_of_block(const uint8_t* p) {
    uint64_t goes_on = 0;
#if defined(__SSE2__)
    for (int i = 0; i < 4; ++i) {
        const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i));
        goes_on |= uint64_t{static_cast<uint32_t>(_mm_movemask_epi8(chunk))} << (16 * i);
    }
#else
    for (size_t i = 0; i < kBlock; ++i) goes_on |= uint64_t{p[i] >> 7} << i;
#endif
    return ~goes_on;
}

// The groups of seven bits in a varint of so many bytes.
constexpr std::array<uint64_t, 9> kGroups = [] {
    std::array<uint64_t, 9> groups{};
    for (size_t i = 1; i < groups.size(); ++i) groups[i] = groups[i - 1] << 8 | 0x7F;
    return groups;
}();

// Moves groups of seven bits together.
struct ByShifts {
    static uint64_t join(uint64_t word, uint64_t groups) { return join_groups(word & groups); }
};

#if defined(__x86_64__)
struct ByPext {
    static uint64_t join(uint64_t word, uint64_t groups) { return pext(word, groups); }
};
#endif

template <PackedKind kind>
struct Number;
template <>
struct Number<PackedKind::Varint32> {
    using Type = uint32_t;
    static Type of(uint64_t value) { return static_cast<uint32_t>(value); }
};
template <>
struct Number<PackedKind::Varint64> {
    using Type = uint64_t;
    static Type of(uint64_t value) { return value; }
};
template <>
struct Number<PackedKind::ZigZag32> {
    using Type = int32_t;
    static Type of(uint64_t value) { return unzigzag32(static_cast<uint32_t>(value)); }
};
template <>
struct Number<PackedKind::ZigZag64> {
    using Type = int64_t;
    static Type of(uint64_t value) { return unzigzag64(value); }
};

// The ends of the varints are found for a block at once, so that no varint has to be read before
// the place of the next one is known.
template <typename Groups, PackedKind kind>
int64_t read_all(const uint8_t* p, const uint8_t* stop, const uint8_t* limit, void* to,
                 uint64_t bias, uint64_t& over, const uint8_t*& bad) {
    constexpr bool kNarrow = kind == PackedKind::Varint32 || kind == PackedKind::ZigZag32;
    uint64_t sums = 0;
    auto* out = static_cast<typename Number<kind>::Type*>(to);
    const uint8_t* block = p;
    while (static_cast<size_t>(stop - block) >= kBlock &&
           static_cast<size_t>(limit - block) >= kBlock + sizeof(uint64_t)) {
        uint64_t ends = ends_of_block(block);
        if (ends == UINT64_MAX && p == block) {
            for (size_t i = 0; i < kBlock; ++i) *out++ = Number<kind>::of(block[i]);
            p = block += kBlock;
            continue;
        }
        for (; ends != 0; ends &= ends - 1) {
            const uint8_t* next = block + std::countr_zero(ends) + 1;
            const auto length = next - p;
            uint64_t value = 0;
            if (__builtin_expect(length <= 8, 1)) {
                value = Groups::join(load<uint64_t>(p), kGroups[static_cast<size_t>(length)]);
            } else if (read_varint_slow(p, next, value) == nullptr) {
                bad = p;
                return -1;
            }
            if constexpr (kNarrow) sums |= value + bias;
            *out++ = Number<kind>::of(value);
            p = next;
        }
        block += kBlock;
    }
    while (p < stop) {
        uint64_t value = 0;
        bad = p;
        p = read_varint(p, stop, value);
        if (p == nullptr) return -1;
        if constexpr (kNarrow) sums |= value + bias;
        *out++ = Number<kind>::of(value);
    }
    over = sums >> 32;
    return out - static_cast<typename Number<kind>::Type*>(to);
}

template <typename Groups>
int64_t read_kind(PackedKind kind, const uint8_t* p, const uint8_t* stop, const uint8_t* limit,
                  void* to, uint64_t bias, uint64_t& over, const uint8_t*& bad) {
    switch (kind) {
        case PackedKind::Varint32:
            return read_all<Groups, PackedKind::Varint32>(p, stop, limit, to, bias, over, bad);
        case PackedKind::Varint64:
            return read_all<Groups, PackedKind::Varint64>(p, stop, limit, to, bias, over, bad);
        case PackedKind::ZigZag32:
            return read_all<Groups, PackedKind::ZigZag32>(p, stop, limit, to, bias, over, bad);
        default:
            return read_all<Groups, PackedKind::ZigZag64>(p, stop, limit, to, bias, over, bad);
    }
}

}  // namespace

size_t count_varints(const uint8_t* p, size_t size) {
    size_t count = 0;
#if defined(__SSE2__)
    const __m128i below = _mm_set1_epi8(-1);
    for (; size >= 16; p += 16, size -= 16) {
        const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i ones = _mm_and_si128(_mm_cmpgt_epi8(chunk, below), _mm_set1_epi8(1));
        const __m128i sums = _mm_sad_epu8(ones, _mm_setzero_si128());
        count += static_cast<size_t>(_mm_extract_epi16(sums, 0) + _mm_extract_epi16(sums, 4));
    }
#endif
    for (size_t i = 0; i < size; ++i) count += p[i] < 0x80;
    return count;
}

int64_t read_packed(PackedKind kind, const uint8_t* p, const uint8_t* stop, const uint8_t* limit,
                    void* to, uint64_t bias, uint64_t& over, const uint8_t*& bad) {
#if defined(__x86_64__)
    if (kFastPext) return read_kind<ByPext>(kind, p, stop, limit, to, bias, over, bad);
#endif
    return read_kind<ByShifts>(kind, p, stop, limit, to, bias, over, bad);
}

}  // namespace cdp
