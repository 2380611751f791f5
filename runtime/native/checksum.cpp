#include "checksum.h"

#include <array>
#include <cstring>
#include <iterator>

#include "wire.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cdp {

namespace {

// Eight tables: one for each byte of a word, so that a word takes one step.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables tables_of(uint32_t polynomial) {
    Tables tables{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? polynomial : 0);
        tables[0][byte] = crc;
    }
    for (size_t table = 1; table < 8; ++table) {
        for (size_t byte = 0; byte < 256; ++byte) {
            const uint32_t before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr uint32_t kCrc32Polynomial = 0xEDB88320u;
constexpr uint32_t kCrc32cPolynomial = 0x82F63B78u;
constexpr Tables kCrc32 = tables_of(kCrc32Polynomial);
constexpr Tables kCrc32c = tables_of(kCrc32cPolynomial);

// The lowest bit comes first in both.
uint32_t by_tables(const Tables& tables, uint32_t crc, const uint8_t* p, size_t size) {
    for (; size >= 8; size -= 8, p += 8) {
        const uint64_t word = load<uint64_t>(p) ^ crc;
        crc = 0;
        for (size_t byte = 0; byte < 8; ++byte)
            crc ^= tables[7 - byte][(word >> (8 * byte)) & 0xFF];
    }
    for (; size > 0; --size, ++p) crc = (crc >> 8) ^ tables[0][(crc ^ *p) & 0xFF];
    return crc;
}

#if defined(__x86_64__)
// What bytes are modulo the polynomial does not change where they are multiplied by a power of x
// and added to bytes further on, so that one part need not wait for the part before: V. Gopal et
// al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009).

// x to the power of `exponent` modulo the polynomial.
constexpr uint32_t power(uint32_t polynomial, size_t exponent) {
    uint32_t value = uint32_t{1} << 31;
    for (; exponent > 0; --exponent) value = (value >> 1) ^ ((value & 1) != 0 ? polynomial : 0);
    return value;
}

// Adds to bytes what others are that stand so many before them.
template <uint32_t polynomial, size_t distance>
[[gnu::target("pclmul")]] inline __m128i folded(__m128i sum, __m128i bytes) {
    constexpr int64_t kFirst = int64_t{power(polynomial, 8 * distance + 32)} << 1;
    constexpr int64_t kLast = int64_t{power(polynomial, 8 * distance - 32)} << 1;
    const __m128i by = _mm_set_epi64x(kLast, kFirst);
    return _mm_xor_si128(bytes, _mm_xor_si128(_mm_clmulepi64_si128(sum, by, 0x00),
                                              _mm_clmulepi64_si128(sum, by, 0x11)));
}

[[gnu::target("pclmul")]] uint32_t crc32_by_folding(uint32_t crc, const uint8_t* p, size_t size) {
    __m128i sums[4];  // vectors lose attributes as parameters of a template
    constexpr size_t kAtOnce = sizeof sums;
    if (size < kAtOnce) return by_tables(kCrc32, crc, p, size);
    const auto next = [&] {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        p += sizeof bytes;
        size -= sizeof bytes;
        return bytes;
    };
    for (__m128i& sum : sums) sum = next();
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
    while (size >= kAtOnce) {
        for (__m128i& sum : sums) sum = folded<kCrc32Polynomial, kAtOnce>(sum, next());
    }
    __m128i all = sums[0];
    for (size_t i = 1; i < std::size(sums); ++i) {
        all = folded<kCrc32Polynomial, sizeof all>(all, sums[i]);
    }
    std::array<uint8_t, sizeof all> bytes;
    std::memcpy(bytes.data(), &all, sizeof all);
    crc = by_tables(kCrc32, 0, bytes.data(), bytes.size());
    return by_tables(kCrc32, crc, p, size);
}

// The checksum with so many bytes of zero behind it.
template <size_t bytes>
[[gnu::target("sse4.2,pclmul")]] inline uint64_t crc32c_before(uint64_t crc) {
    constexpr uint32_t kBy = power(kCrc32cPolynomial, 8 * bytes - 33);
    const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<int64_t>(crc)),
                                                 _mm_cvtsi64_si128(int64_t{kBy}), 0x00);
    return _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product)));
}

[[gnu::target("sse4.2,pclmul")]] uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t* p,
                                                                size_t size) {
    constexpr size_t kPart = 1024;
    uint64_t wide = crc;
    for (; size >= 3 * kPart; size -= 3 * kPart, p += 3 * kPart) {
        uint64_t second = 0;
        uint64_t third = 0;
        for (size_t at = 0; at < kPart; at += sizeof wide) {
            wide = _mm_crc32_u64(wide, load<uint64_t>(p + at));
            second = _mm_crc32_u64(second, load<uint64_t>(p + kPart + at));
            third = _mm_crc32_u64(third, load<uint64_t>(p + 2 * kPart + at));
        }
        wide = crc32c_before<2 * kPart>(wide) ^ crc32c_before<kPart>(second) ^ third;
    }
    for (; size >= 8; size -= 8, p += 8) wide = _mm_crc32_u64(wide, load<uint64_t>(p));
    crc = static_cast<uint32_t>(wide);
    for (; size > 0; --size, ++p) crc = _mm_crc32_u8(crc, *p);
    return crc;
}

inline const bool kHasInstructions = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}();
#endif

}  // namespace

uint32_t crc32(const uint8_t* p, size_t size) {
    constexpr uint32_t kBegin = ~uint32_t{0};
#if defined(__x86_64__)
    if (kHasInstructions) return ~crc32_by_folding(kBegin, p, size);
#endif
    return ~by_tables(kCrc32, kBegin, p, size);
}

uint32_t crc32c(const uint8_t* p, size_t size, uint32_t before) {
#if defined(__x86_64__)
    if (kHasInstructions) return ~crc32c_by_instruction(~before, p, size);
#endif
    return ~by_tables(kCrc32c, ~before, p, size);
}

}  // namespace cdp
