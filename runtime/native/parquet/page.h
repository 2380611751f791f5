// A page of a column chunk: made by its chunk, compressed by whoever has time, written with its row
// group.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "bytes.h"
#include "leaf.h"

namespace cdp::parquet {

// How pages are compressed.
struct Codec {
    int32_t number = 0;     // in parquet.thrift
    bool has_fast = false;  // whether it has a faster level than the one that was asked for
    // Hands over the compressed form of some bytes. Any thread may call it.
    std::function<void(std::span<const uint8_t> body, bool fast,
                       const std::function<void(std::span<const uint8_t>)>& take)>
        compress;

    size_t size_of(std::span<const uint8_t> body, bool fast) const {
        size_t size = 0;
        compress(body, fast,
                 [&](std::span<const uint8_t> compressed) { size = compressed.size(); });
        return size;
    }
};

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

    // Compresses the body.
    void store(const Codec& codec);
};

}  // namespace cdp::parquet
