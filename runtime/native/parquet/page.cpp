#include "page.h"

#include "../checksum.h"
#include "thrift.h"

namespace cdp::parquet {

// https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift, PageHeader
void Page::store(std::span<const uint8_t> compressed) {
    constexpr int32_t kDataPage = 0;
    constexpr int32_t kDictionaryPage = 2;
    constexpr auto kLevels = static_cast<int32_t>(Encoding::Rle);
    Thrift header;
    header.i32(1, is_dictionary ? kDictionaryPage : kDataPage);
    header.i32(2, static_cast<int32_t>(body_size));
    header.i32(3, static_cast<int32_t>(compressed.size()));
    header.i32(4, static_cast<int32_t>(crc32(compressed.data(), compressed.size())));
    header.begin(is_dictionary ? 7 : 5);
    header.i32(1, static_cast<int32_t>(values));
    header.i32(2, static_cast<int32_t>(encoding));
    if (!is_dictionary) {
        header.i32(3, kLevels);
        header.i32(4, kLevels);
    }
    header.end();
    header.end();
    const std::string& head = header.out();
    stored.room(head.size() + compressed.size());
    stored.append(head.data(), head.size());
    stored.append(compressed.data(), compressed.size());
    body.drop();
    header_size = static_cast<int64_t>(head.size());
    stored_size.store(static_cast<int64_t>(stored.size()), std::memory_order_release);
}

}  // namespace cdp::parquet
