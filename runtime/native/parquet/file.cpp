#include "file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "thrift.h"

namespace cdp::parquet {

namespace {

constexpr std::string_view kMagic = "PAR1";

// Pages that wait to be compressed may take so many times what rows may that wait to be encoded:
// all columns of many small values have theirs at once.
constexpr size_t kPagesOfRows = 2;

// Whether one value as it is written comes before another.
bool comes_before(std::string_view a, std::string_view b, Order order) {
    const bool number = order == Order::Signed || order == Order::Unsigned || order == Order::Float;
    return number && a.size() >= 4 ? is_number_before(a, b, order) : is_before(a, b, order);
}

}  // namespace

struct File::Progress {
    std::atomic<size_t> rows = 0;       // bytes of those that are not encoded
    std::atomic<size_t> pages = 0;      // bytes of those that wait to be compressed
    std::atomic<bool> is_lost = false;  // nobody needs the file any more

    void fail(std::exception_ptr error) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::move(error);
        is_lost = true;
    }
    // Throws what was wrong with a task.
    void check() {
        if (!is_lost) return;
        std::lock_guard lock(mutex_);
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        throw std::runtime_error("the file is lost, as an earlier call has said");
    }

  private:
    std::mutex mutex_;
    std::exception_ptr error_;
};

// A row group that is open, or ending: its columns are finished, and the last pages compressed.
struct File::Group {
    std::vector<std::shared_ptr<ColumnChunk>> chunks;
    int64_t rows = 0;
    std::atomic<size_t> tasks = 0;   // that are not done
    std::atomic<size_t> stored = 0;  // bytes of pages that are compressed
};

// Counts as a task of a row group for as long as it is there: the task holds it, so that it is one
// until it is done, or until it turns out that it cannot be given.
class File::Counted {
  public:
    explicit Counted(std::shared_ptr<Group> group) : group_(std::move(group)) { ++group_->tasks; }
    Counted(const Counted& other) : Counted(other.group_) {}
    Counted& operator=(const Counted&) = delete;
    ~Counted() { --group_->tasks; }

    const std::shared_ptr<Group>& group() const { return group_; }

  private:
    std::shared_ptr<Group> group_;
};

// Rows that are encoded; gone once all columns are.
struct File::Batch {
    Batch(ArrowArray given, size_t bytes, std::shared_ptr<Progress> of)
        : array(given), size(bytes), progress(std::move(of)) {
        progress->rows += size;
    }
    ~Batch() {
        array.release(&array);
        progress->rows -= size;
    }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;

    ArrowArray array;
    size_t size;
    std::shared_ptr<Progress> progress;
};

File::File(Layout& layout) : layout_(layout), progress_(std::make_shared<Progress>()) {
    put(kMagic);
    begin_row_group();
}

File::~File() { progress_->is_lost = true; }

void File::begin_row_group() {
    open_ = std::make_shared<Group>();
    for (Leaf& leaf : layout_.leaves) {
        open_->chunks.push_back(std::make_shared<ColumnChunk>(leaf, layout_.codec));
    }
}

void File::append(ArrowArray array, size_t size) {
    {
        const auto batch = std::make_shared<Batch>(array, size, progress_);
        progress_->check();
        open_->rows += array.length;
        for (size_t leaf = 0; leaf < open_->chunks.size(); ++leaf) {
            give(leaf, [batch](ColumnChunk& chunk) {
                const ArrowArray& rows = batch->array;
                chunk.append(*rows.children[chunk.leaf().column], rows.offset, rows.length);
            });
        }
    }
    layout_.crew.help([&] {
        return layout_.crew.has_threads() ? progress_->rows <= layout_.ahead &&
                                                progress_->pages <= kPagesOfRows * layout_.ahead
                                          : open_->tasks == 0;
    });
    progress_->check();
}

void File::give(size_t leaf, std::function<void(ColumnChunk&)> work) {
    const auto task = [&layout = layout_, progress = progress_, counted = Counted(open_), leaf,
                       work = std::move(work)] {
        ColumnChunk& chunk = *counted.group()->chunks[leaf];
        try {
            if (!progress->is_lost) work(chunk);
            for (const auto& page : chunk.take_pages()) {
                give_page(layout, progress, counted.group(), page);
            }
        } catch (...) {
            progress->fail(std::current_exception());
        }
    };
    try {
        layout_.crew.give(layout_.lines[leaf], task);
    } catch (...) {
        progress_->is_lost = true;  // other columns may have these rows
        throw;
    }
}

void File::give_page(Layout& layout, const std::shared_ptr<Progress>& progress,
                     const std::shared_ptr<Group>& group, const std::shared_ptr<Page>& page) {
    const size_t size = page->body.size();
    const auto task = [&layout, progress, counted = Counted(group), page, size] {
        progress->pages -= size;
        try {
            if (!progress->is_lost) page->store(layout.codec);
            counted.group()->stored += page->stored.size();
        } catch (...) {
            progress->fail(std::current_exception());
        }
    };
    progress->pages += size;
    try {
        layout.crew.give(size, task);
    } catch (...) {
        progress->pages -= size;
        throw;
    }
}

void File::end_row_group() {
    for (size_t leaf = 0; leaf < open_->chunks.size(); ++leaf) give(leaf, &ColumnChunk::finish);
    ending_ = std::move(open_);
    begin_row_group();
}

bool File::is_settled() const { return ending_ == nullptr || ending_->tasks == 0; }

void File::settle() {
    if (ending_ == nullptr) return;
    layout_.crew.help([&] { return is_settled(); });
    progress_->check();
    write_row_group(*std::exchange(ending_, nullptr));
}

int64_t File::rows() const { return open_->rows; }

bool File::is_full() const {
    constexpr int64_t kMostRows = int64_t{1} << 20;
    const auto& chunks = open_->chunks;
    return open_->rows >= kMostRows || std::any_of(chunks.begin(), chunks.end(),
                                                   [](const auto& one) { return one->is_full(); });
}

size_t File::held() const {
    size_t held = open_->stored;
    for (const auto& chunk : open_->chunks) held += chunk->held();
    return held;
}

void File::write_row_group(Group& ended) {
    RowGroup group;
    group.rows = ended.rows;
    group.offset = size_;
    for (const auto& chunk : ended.chunks) group.chunks.push_back(write_chunk(*chunk, group));
    groups_.push_back(std::move(group));
}

// https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift,
// ColumnMetaData
File::StoredChunk File::write_chunk(ColumnChunk& chunk, RowGroup& group) {
    const Leaf& leaf = chunk.leaf();
    StoredChunk written;
    std::map<std::pair<int32_t, Encoding>, int32_t> counts;
    int64_t values = 0;
    int64_t nulls = 0;
    int64_t rows = 0;
    int64_t bodies = 0;
    bool known = true;
    Range range;
    const int64_t begin = size_;
    const auto write = [&](Page& page) {
        ++counts[{page.is_dictionary ? 2 : 0, page.encoding}];
        bodies += page.header_size + page.body_size;
        put(std::move(page.stored));
    };
    if (chunk.dictionary_page()) write(*chunk.dictionary_page());
    const int64_t data_begin = size_;
    for (const auto& page : chunk.pages()) {
        const auto size = static_cast<int64_t>(page->stored.size());
        written.pages.push_back({size_, size, rows, page->values, page->nulls, {}});
        write(*page);
        rows += page->rows;
        values += page->values;
        nulls += page->nulls;
        if (page->range.known) {
            if (!range.known || comes_before(page->range.min, range.min, leaf.order)) {
                range.min = page->range.min;
            }
            if (!range.known || comes_before(range.max, page->range.max, leaf.order)) {
                range.max = page->range.max;
            }
            range.known = true;
        } else if (page->nulls != page->values) {
            known = false;
        }
        written.pages.back().range = std::move(page->range);
    }
    const int64_t stored = size_ - begin;
    group.stored_size += stored;
    group.body_size += bodies;
    const int64_t bloom_begin = size_;
    if (leaf.bloom_filter) put_bloom_filter(chunk.hashes());

    Thrift out;
    out.begin();
    out.i32(1, static_cast<int32_t>(leaf.physical));
    std::vector<Encoding> encodings;
    for (const auto& [kind, count] : counts) {
        if (std::find(encodings.begin(), encodings.end(), kind.second) == encodings.end()) {
            encodings.push_back(kind.second);
        }
    }
    encodings.push_back(Encoding::Rle);
    out.list(2, Thrift::I32, encodings.size());
    for (const Encoding encoding : encodings) out.element(static_cast<int64_t>(encoding));
    out.list(3, Thrift::Bytes, leaf.names.size());
    for (const std::string& name : leaf.names) out.element(std::string_view(name));
    out.i32(4, layout_.codec.number);
    out.i64(5, values);
    out.i64(6, bodies);
    out.i64(7, stored);
    out.i64(9, data_begin);
    if (chunk.dictionary_page()) out.i64(11, begin);
    out.begin(12);
    out.i64(3, nulls);
    if (known && range.known) {
        out.bytes(5, range.max);
        out.bytes(6, range.min);
    }
    out.end();
    out.list(13, Thrift::Struct, counts.size());
    for (const auto& [kind, count] : counts) {
        out.begin();
        out.i32(1, kind.first);
        out.i32(2, static_cast<int32_t>(kind.second));
        out.i32(3, count);
        out.end();
    }
    if (leaf.bloom_filter) {
        out.i64(14, bloom_begin);
        out.i32(15, static_cast<int32_t>(size_ - bloom_begin));
    }
    out.end();
    written.metadata = out.out();
    return written;
}

// https://parquet.apache.org/docs/file-format/bloomfilter/
void File::put_bloom_filter(std::span<const uint64_t> hashes) {
    constexpr double kBitsOfValue = 9.7;  // where one of a hundred is there by mistake
    constexpr size_t kBlock = 32;
    constexpr size_t kMost = size_t{128} << 20;
    constexpr std::array<uint32_t, 8> kSalt{0x47B6137Bu, 0x44974D91u, 0x8824AD5Bu, 0xA2B7289Du,
                                            0x705495C7u, 0x2DF1424Bu, 0x9EFC4947u, 0x5C6BFB31u};
    std::vector<uint64_t> distinct(hashes.begin(), hashes.end());
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    const auto bytes = static_cast<size_t>(kBitsOfValue * static_cast<double>(distinct.size()) / 8);
    const size_t size = std::clamp(std::bit_ceil(bytes), kBlock, kMost);
    std::vector<uint32_t> bits(size / sizeof(uint32_t));
    for (const uint64_t hash : distinct) {
        uint32_t* block = bits.data() + ((hash >> 32) * (size / kBlock) >> 32) * 8;
        for (size_t i = 0; i < 8; ++i) {
            block[i] |= uint32_t{1} << (static_cast<uint32_t>(hash) * kSalt[i] >> 27);
        }
    }
    Thrift header;
    header.i32(1, static_cast<int32_t>(size));
    for (const int16_t choice : {2, 3, 4}) {  // unions: block, xxHash, uncompressed
        header.begin(choice);
        header.begin(1);
        header.end();
        header.end();
    }
    header.end();
    put(header.out());
    put({reinterpret_cast<const char*>(bits.data()), size});
}

// https://github.com/apache/parquet-format/blob/master/PageIndex.md; empty where a page has no
// range.
std::string File::column_index(const Leaf& leaf, const StoredChunk& chunk) const {
    const auto& pages = chunk.pages;
    const auto is_null = [](const StoredPage& page) { return page.nulls == page.values; };
    bool ascending = true;
    bool descending = true;
    const StoredPage* before = nullptr;
    for (const StoredPage& page : pages) {
        if (is_null(page)) continue;
        if (!page.range.known) return {};
        if (before != nullptr) {
            const auto rises = [&](const std::string Range::* side, const StoredPage& a,
                                   const StoredPage& b) {
                return !comes_before(b.range.*side, a.range.*side, leaf.order);
            };
            ascending =
                ascending && rises(&Range::min, *before, page) && rises(&Range::max, *before, page);
            descending = descending && rises(&Range::min, page, *before) &&
                         rises(&Range::max, page, *before);
        }
        before = &page;
    }
    Thrift out;
    out.list(1, Thrift::True, pages.size());
    for (const StoredPage& page : pages) out.element(is_null(page));
    out.list(2, Thrift::Bytes, pages.size());
    for (const StoredPage& page : pages) out.element(std::string_view(page.range.min));
    out.list(3, Thrift::Bytes, pages.size());
    for (const StoredPage& page : pages) out.element(std::string_view(page.range.max));
    out.i32(4, ascending ? 1 : descending ? 2 : 0);
    out.list(5, Thrift::I64, pages.size());
    for (const StoredPage& page : pages) out.element(page.nulls);
    out.end();
    return out.out();
}

std::string File::offset_index(const StoredChunk& chunk) {
    Thrift out;
    out.list(1, Thrift::Struct, chunk.pages.size());
    for (const StoredPage& page : chunk.pages) {
        out.begin();
        out.i64(1, page.offset);
        out.i32(2, static_cast<int32_t>(page.size));
        out.i64(3, page.first_row);
        out.end();
    }
    out.end();
    return out.out();
}

void File::finish(const KeyValues& metadata, std::string_view created_by) {
    progress_->check();  // rows that could not be encoded would be missing
    struct Place {
        int64_t offset = 0;
        int32_t size = 0;
    };
    std::deque<Place> column_indexes;
    std::deque<Place> offset_indexes;
    const auto place = [&](const std::string& text) {
        const Place found{size_, static_cast<int32_t>(text.size())};
        put(text);
        return found;
    };
    for (const RowGroup& group : groups_) {
        for (size_t i = 0; i < group.chunks.size(); ++i) {
            column_indexes.push_back(place(column_index(layout_.leaves[i], group.chunks[i])));
        }
    }
    int64_t rows = 0;
    for (const RowGroup& group : groups_) {
        rows += group.rows;
        for (const StoredChunk& chunk : group.chunks)
            offset_indexes.push_back(place(offset_index(chunk)));
    }

    Thrift out;
    out.i32(1, 2);  // the version of the format
    out.encoded(2, Thrift::List, layout_.schema);
    out.i64(3, rows);
    out.list(4, Thrift::Struct, groups_.size());
    int16_t ordinal = 0;
    for (const RowGroup& group : groups_) {
        out.begin();
        out.list(1, Thrift::Struct, group.chunks.size());
        for (const StoredChunk& chunk : group.chunks) {
            out.begin();
            out.i64(2, 0);  // of a copy of the metadata, of which there is none
            out.encoded(3, Thrift::Struct, chunk.metadata);
            out.i64(4, offset_indexes.front().offset);
            out.i32(5, offset_indexes.front().size);
            offset_indexes.pop_front();
            if (column_indexes.front().size != 0) {
                out.i64(6, column_indexes.front().offset);
                out.i32(7, column_indexes.front().size);
            }
            column_indexes.pop_front();
            out.end();
        }
        out.i64(2, group.body_size);
        out.i64(3, group.rows);
        if (!layout_.sort_by.empty()) {
            out.list(4, Thrift::Struct, layout_.sort_by.size());
            for (const int32_t leaf : layout_.sort_by) {
                out.begin();
                out.i32(1, leaf);
                out.boolean(2, false);
                out.boolean(3, false);
                out.end();
            }
        }
        out.i64(5, group.offset);
        out.i64(6, group.stored_size);
        if (ordinal >= 0) out.i16(7, ordinal);
        ordinal =
            ordinal == INT16_MAX ? int16_t{-1} : static_cast<int16_t>(ordinal + (ordinal >= 0));
        out.end();
    }
    out.list(5, Thrift::Struct, metadata.size());
    for (const auto& [key, value] : metadata) {
        out.begin();
        out.bytes(1, key);
        out.bytes(2, value);
        out.end();
    }
    out.bytes(6, created_by);
    out.list(7, Thrift::Struct, layout_.leaves.size());
    for (size_t i = 0; i < layout_.leaves.size(); ++i) {
        out.begin();
        out.begin(1);  // TypeDefinedOrder
        out.end();
        out.end();
    }
    out.end();
    put(out.out());
    const auto size = static_cast<uint32_t>(out.out().size());
    put({reinterpret_cast<const char*>(&size), sizeof size});
    put(kMagic);
}

void File::put(Bytes bytes) {
    if (bytes.empty()) return;
    size_ += static_cast<int64_t>(bytes.size());
    ready_.push_back(std::move(bytes));
}

void File::put(std::string_view text) {
    Bytes bytes;
    bytes.append(text.data(), text.size());
    put(std::move(bytes));
}

size_t File::ready(size_t about) const {
    size_t size = 0;
    for (const Bytes& bytes : ready_) {
        if (size != 0 && size + bytes.size() > about) break;
        size += bytes.size();
    }
    return size;
}

void File::take(uint8_t* to, size_t size) {
    for (; size != 0; ready_.pop_front()) {
        const Bytes& bytes = ready_.front();
        to = std::copy_n(bytes.data(), bytes.size(), to);
        size -= bytes.size();
    }
}

}  // namespace cdp::parquet
