#include "page.h"

#include <string>

#include "../checksum.h"
#include "thrift.h"

namespace cdp::parquet {

namespace {

// https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, PageHeader
std::string header_of(const Page& page, std::span<const uint8_t> compressed) {
    constexpr int32_t kDataPage = 0;
    constexpr int32_t kDictionaryPage = 2;
    constexpr auto kLevels = static_cast<int32_t>(Encoding::Rle);
    Thrift header;
    header.i32(1, page.is_dictionary ? kDictionaryPage : kDataPage);
    header.i32(2, static_cast<int32_t>(page.body_size));
    header.i32(3, static_cast<int32_t>(compressed.size()));
    header.i32(4, static_cast<int32_t>(crc32(compressed.data(), compressed.size())));
    header.begin(page.is_dictionary ? 7 : 5);
    header.i32(1, static_cast<int32_t>(page.values));
    header.i32(2, static_cast<int32_t>(page.encoding));
    if (!page.is_dictionary) {
        header.i32(3, kLevels);
        header.i32(4, kLevels);
    }
    header.end();
    header.end();
    return header.out();
}

}  // namespace

void Page::store(const Codec& codec) {
    codec.compress(body.span(), is_fast, [&](std::span<const uint8_t> compressed) {
        const std::string header = header_of(*this, compressed);
        stored.room(header.size() + compressed.size());
        stored.append(header.data(), header.size());
        stored.append(compressed.data(), compressed.size());
        header_size = static_cast<int64_t>(header.size());
    });
    body.drop();
}

}  // namespace cdp::parquet
