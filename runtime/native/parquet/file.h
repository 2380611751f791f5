// A Parquet file as it is written: record batches in, the bytes of the file out, row group by row
// group.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "column_chunk.h"
#include "crew.h"
#include "leaf.h"
#include "page.h"

namespace cdp::parquet {

// What the files of a table have in common.
struct Layout {
    std::vector<Leaf> leaves;
    std::string schema;            // of the footer, encoded: its list of SchemaElement
    int32_t codec = 0;             // its number in parquet.thrift
    std::vector<int32_t> sort_by;  // places of leaves: the order of the rows of each row group
    Sizer sizer;
    std::unique_ptr<Crew> crew;  // that encodes columns
};

using KeyValues = std::vector<std::pair<std::string, std::string>>;

// Not for two threads at once, but for `Page::store` of pages that `take_pages` gave away.
class File {
  public:
    explicit File(Layout& layout);
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    // Takes rows of a record batch into the open row group.
    void append(const ArrowArray& batch, int64_t begin, int64_t rows);
    // The pages that are whole now, to be stored.
    std::vector<std::shared_ptr<Page>> take_pages();
    // Ends the open row group; `take_pages` gives its last pages.
    void end_row_group();
    // Once all of its pages are stored: its bytes may be taken.
    void write_row_group();
    // The rest of the file: indexes of pages, and the footer.
    void finish(const KeyValues& metadata, std::string_view created_by);

    // How many of the bytes that are ready are to be taken next: whole pages, at least one if there
    // is one.
    size_t ready(size_t about) const;
    void take(uint8_t* to, size_t size);

    int64_t rows() const { return group_rows_; }  // of the open row group
    bool is_full() const;                         // whether it should end
    // What is in memory for it, without pages that wait to be compressed.
    size_t held() const;
    int64_t size() const { return size_; }  // of the file up to here, the open row group left out

  private:
    struct StoredPage {
        int64_t offset = 0;
        int64_t size = 0;
        int64_t first_row = 0;
        int64_t values = 0;
        int64_t nulls = 0;
        Range range;
    };
    struct StoredChunk {
        std::vector<StoredPage> pages;
        std::string metadata;  // ColumnMetaData, encoded
    };
    struct RowGroup {
        int64_t rows = 0;
        int64_t offset = 0;
        int64_t stored_size = 0;
        int64_t body_size = 0;
        std::vector<StoredChunk> chunks;
    };

    void begin_row_group();
    void put(Bytes bytes);
    void put(std::string_view text);
    StoredChunk write_chunk(ColumnChunk& chunk, RowGroup& group);
    void put_bloom_filter(std::span<const uint64_t> hashes);
    std::string column_index(const Leaf& leaf, const StoredChunk& chunk) const;
    static std::string offset_index(const StoredChunk& chunk);

    Layout& layout_;
    std::vector<std::unique_ptr<ColumnChunk>> chunks_;  // of the open row group
    std::vector<size_t> taken_;                         // how many pages of each are given away
    int64_t group_rows_ = 0;
    std::vector<RowGroup> groups_;
    std::deque<Bytes> ready_;
    int64_t size_ = 0;
};

}  // namespace cdp::parquet
