// A page of a column chunk: made by its chunk, compressed by whoever has time, written with its row
// group.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "bytes.h"
#include "leaf.h"

namespace cdp::parquet {

struct Page {
    Encoding encoding = Encoding::Plain;
    bool is_dictionary = false;
    bool is_fast = false;  // to be compressed with the codec's fast level
    int64_t values = 0;    // nulls too; of a dictionary its entries
    int64_t rows = 0;
    int64_t nulls = 0;
    Range range;

    Bytes body;  // not compressed; gone once it is
    int64_t body_size = 0;
    Bytes stored;  // as it stands in the file: header and compressed body
    int64_t header_size = 0;
    std::atomic<int64_t> stored_size = 0;  // of both, once it is stored

    bool is_stored() const { return stored_size.load(std::memory_order_acquire) != 0; }
    // Takes the compressed body, whose bytes are copied. Any thread may.
    void store(std::span<const uint8_t> compressed);
};

}  // namespace cdp::parquet
