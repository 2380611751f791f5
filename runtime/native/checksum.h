// Checksums: of the pages of Parquet files, and of inputs and journals.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cdp {

// The CRC-32 of zlib and gzip (RFC 1952, section 8).
uint32_t crc32(const uint8_t* p, size_t size);

// The CRC-32C of iSCSI (RFC 3720, section 12.1) of bytes behind others that have the checksum
// `before`.
uint32_t crc32c(const uint8_t* p, size_t size, uint32_t before);

}  // namespace cdp
