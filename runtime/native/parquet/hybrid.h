// The hybrid of run lengths and bit packing, in which Parquet keeps levels and dictionary indexes
// (https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE).
#pragma once

#include <cstdint>
#include <span>

#include "bytes.h"

namespace cdp::parquet {

// How many bits the numbers up to `most` take.
inline int bits_for(uint64_t most) { return most == 0 ? 0 : 64 - __builtin_clzll(most); }

void append_hybrid(std::span<const uint16_t> values, int width, Bytes& out);
void append_hybrid(std::span<const uint32_t> values, int width, Bytes& out);

// Single bits, the lowest first; `values` are zeros and ones.
void append_bits(std::span<const uint8_t> values, Bytes& out);

}  // namespace cdp::parquet
