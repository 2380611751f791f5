#include "checksum.h"

#include <array>

#include "wire.h"

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

constexpr Tables kCrc32 = tables_of(0xEDB88320u);
constexpr Tables kCrc32c = tables_of(0x82F63B78u);

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
inline const bool kHasCrc32c = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}();

[[gnu::target("sse4.2")]] uint32_t by_instruction(uint32_t crc, const uint8_t* p, size_t size) {
    uint64_t wide = crc;
    for (; size >= 8; size -= 8, p += 8) wide = __builtin_ia32_crc32di(wide, load<uint64_t>(p));
    crc = static_cast<uint32_t>(wide);
    for (; size > 0; --size, ++p) crc = __builtin_ia32_crc32qi(crc, *p);
    return crc;
}
#endif

}  // namespace

uint32_t crc32(const uint8_t* p, size_t size) { return ~by_tables(kCrc32, ~uint32_t{0}, p, size); }

uint32_t crc32c(const uint8_t* p, size_t size, uint32_t before) {
#if defined(__x86_64__)
    if (kHasCrc32c) return ~by_instruction(~before, p, size);
#endif
    return ~by_tables(kCrc32c, ~before, p, size);
}

}  // namespace cdp
