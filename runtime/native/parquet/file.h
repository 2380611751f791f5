// A Parquet file as it is written: record batches in, the bytes of the file out, row group by row
// group.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
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
    Layout(std::vector<Leaf> of, size_t threads)
        : leaves(std::move(of)), lines(leaves.size()), crew(threads) {}

    std::vector<Leaf> leaves;
    std::string schema;            // of the footer, encoded: its list of SchemaElement
    std::vector<int32_t> sort_by;  // places of leaves: the order of the rows of each row group
    Codec codec;
    size_t ahead = 0;  // bytes of rows of a file that may wait for the crew; who adds more helps it
    std::vector<Crew::Line> lines;  // for each leaf, as it learns: one column at a time
    Crew crew;                      // that encodes columns and compresses pages
};

using KeyValues = std::vector<std::pair<std::string, std::string>>;

// Not for two threads at once.
class File {
  public:
    // `layout` outlives it.
    explicit File(Layout& layout);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    // Takes a record batch, of about so many bytes, into the open row group. It may be encoded
    // later; what is wrong with it is then thrown later, too.
    void append(ArrowArray batch, size_t size);
    // Ends the open row group, once the one before is settled: the crew makes the rest of it, while
    // another is open.
    void end_row_group();
    // Whether there is none that is ending, or nothing left to be done for it.
    bool is_settled() const;
    // Waits for the row group that is ending, if there is one: its bytes may be taken then.
    void settle();
    // The rest of the file, once all row groups are ended: indexes of pages, and the footer.
    void finish(const KeyValues& metadata, std::string_view created_by);

    // How many of the bytes that are ready are to be taken next: whole pages, at least one if there
    // is one.
    size_t ready(size_t about) const;
    void take(uint8_t* to, size_t size);

    int64_t rows() const;  // of the open row group
    bool is_full() const;  // whether it should end
    // What is in memory for it, as far as it is encoded.
    size_t held() const;
    int64_t size() const { return size_; }  // of the file as far as it may be taken

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

    // What the tasks of a file know of it, which may outlive it.
    struct Progress;
    struct Group;
    struct Batch;
    class Counted;

    void begin_row_group();
    void write_row_group(Group& ended);
    // Gives a task that does something with a column of the open row group, and then has its new
    // pages compressed.
    void give(size_t leaf, std::function<void(ColumnChunk&)> work);
    static void give_page(Layout& layout, const std::shared_ptr<Progress>& progress,
                          const std::shared_ptr<Group>& group, const std::shared_ptr<Page>& page);
    void put(Bytes bytes);
    void put(std::string_view text);
    StoredChunk write_chunk(ColumnChunk& chunk, RowGroup& group);
    void put_bloom_filter(std::span<const uint64_t> hashes);
    std::string column_index(const Leaf& leaf, const StoredChunk& chunk) const;
    static std::string offset_index(const StoredChunk& chunk);

    Layout& layout_;
    std::shared_ptr<Progress> progress_;
    std::shared_ptr<Group> open_;
    std::shared_ptr<Group> ending_;
    std::vector<RowGroup> groups_;
    std::deque<Bytes> ready_;
    int64_t size_ = 0;
};

}  // namespace cdp::parquet
