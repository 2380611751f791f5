// One column of the row group that is open: takes the rows of record batches, and cuts them into
// pages.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "dictionary.h"
#include "leaf.h"
#include "page.h"

namespace cdp::parquet {

class ColumnChunk {
  public:
    // `leaf` outlives it, and learns what suits its values; it is not looked at before the first
    // rows.
    ColumnChunk(Leaf& leaf, const Codec& codec);

    // Takes rows of a record batch; `array` is the batch's column that the leaf is of. Throws
    // std::invalid_argument where a null stands in a column that has none.
    void append(const ArrowArray& array, int64_t begin, int64_t rows);
    // Cuts the last page, and makes that of the dictionary.
    void finish();

    const Leaf& leaf() const { return leaf_; }
    // The pages that are cut, in the order of their rows; that of the dictionary, before them in
    // the file, is there (or not) once the chunk is finished.
    std::span<const std::shared_ptr<Page>> pages() const { return pages_; }
    const std::shared_ptr<Page>& dictionary_page() const { return dictionary_page_; }
    // Those that it has not given yet, to be stored.
    std::vector<std::shared_ptr<Page>> take_pages();
    // Whether a dictionary, or texts, had all that they may have when rows were taken last. Any
    // thread may ask.
    bool is_full() const { return is_full_.load(std::memory_order_relaxed); }
    // What was in memory then besides pages. Any thread may ask.
    size_t held() const { return held_.load(std::memory_order_relaxed); }
    // The hashes of values for the bloom filter, some more than once.
    std::span<const uint64_t> hashes() const { return hashes_.span(); }

  private:
    static constexpr size_t kDictionaryBytes = size_t{32} << 20;
    // Of the texts of a row group: pyarrow reads no more than 2 GiB of those within messages.
    static constexpr size_t kTextBytes = size_t{1} << 30;

    void visit(size_t step, int64_t begin, int64_t end, uint16_t first, uint16_t rep);
    void visit_present(size_t step, int64_t begin, int64_t end, uint16_t first, uint16_t rep);
    void visit_leaf(const ArrowArray& array, const uint8_t* valid, int64_t begin, int64_t end,
                    uint16_t first, uint16_t rep);
    void add_nulls(int64_t count, uint16_t def, uint16_t first, uint16_t rep);
    void add_levels(int64_t count, uint16_t def, uint16_t first, uint16_t rep);
    void add_values(const ArrowArray& array, int64_t from, int64_t count);
    template <typename T>
    void add_numbers(const T* values, int64_t count);
    template <typename Offset>
    void add_texts(const ArrowArray& array, int64_t begin, int64_t count);
    void add_bytes(std::span<const std::string_view> values);
    void add_fixed(const uint8_t* values, int64_t count);
    void add_decimals(const uint8_t* values, int64_t count);
    void add_names(const ArrowArray& array, int64_t begin, int64_t count);

    template <typename Self, typename Take>
    static decltype(auto) with_dictionary(Self& self, Take take) {
        switch (self.leaf_.physical) {
            case Physical::Int32:
            case Physical::Float:
                return take(self.fours_);
            case Physical::Int64:
            case Physical::Double:
                return take(self.eights_);
            default:
                return take(self.texts_);
        }
    }
    const Bytes& entries() const {
        return with_dictionary(*this, [](auto& one) -> const Bytes& { return one.entries(); });
    }
    size_t entry_count() const {
        return with_dictionary(*this, [](auto& one) { return one.count(); });
    }
    size_t page_bytes() const {
        return plain_.size() + 4 * indexes_.size() + 2 * (defs_.size() + reps_.size());
    }
    void take(const ArrowArray& array, int64_t begin, int64_t rows);
    void note_size();
    bool is_new_in_page(uint32_t place);
    void cut_page();
    void choose();
    void spell_out();
    void drop_dictionary();
    void append_indexes(Bytes& out);
    bool append_of_one_length(Bytes& out) const;
    // How large they are when they are compressed.
    size_t size_of_indexes(int width) const;
    // Whether the fast level does for a body; the first one that is large enough tells.
    bool is_fast(const Bytes& body, Leaf::Level& level);
    void hash_entries();
    int64_t batch_bytes() const;
    // Of a value that has no length of its own.
    size_t entry_size() const { return entries().size() / std::max<size_t>(entry_count(), 1); }

    Leaf& leaf_;
    const Codec& codec_;
    bool ranging_ = true;    // the open page has the range of all its values
    bool indexing_ = false;  // values go to the dictionary, and the page has their places there
    std::vector<const ArrowArray*> arrays_;  // along the leaf's path, of the batch at hand
    std::vector<std::shared_ptr<Page>> pages_;
    std::shared_ptr<Page> dictionary_page_;
    size_t given_ = 0;  // how many of them
    std::atomic<size_t> held_ = 0;
    std::atomic<bool> is_full_ = false;
    int64_t all_values_ = 0;  // of the pages that are cut
    size_t text_bytes_ = 0;   // of all texts, as often as each stands there

    // Of the page that is open.
    int64_t rows_ = 0;
    int64_t values_ = 0;  // without nulls
    int64_t nulls_ = 0;
    Numbers<uint16_t> defs_;
    Numbers<uint16_t> reps_;
    Bytes plain_;                // values as they are written; bits as a byte each
    Numbers<uint32_t> indexes_;  // or their places in the dictionary
    std::variant<BytesRange, NumberRange<int32_t>, NumberRange<uint32_t>, NumberRange<int64_t>,
                 NumberRange<uint64_t>, NumberRange<float>, NumberRange<double>>
        range_;

    NumberDictionary<uint32_t> fours_;
    NumberDictionary<uint64_t> eights_;
    BytesDictionary texts_;
    std::vector<uint32_t> seen_;  // in which page an entry of a small dictionary was seen last
    Numbers<uint64_t> hashes_;
    std::vector<uint32_t> names_;   // where the names of the batch at hand stand in the dictionary
    std::string first_name_;        // of the batch at hand
    std::vector<uint8_t> scratch_;  // values as they are written
    std::vector<uint8_t> packed_;   // values without the nulls between them
    std::array<std::string_view, BytesDictionary::kAtOnce> values_at_once_;
    std::array<std::string_view, BytesDictionary::kAtOnce> different_at_once_;
};

}  // namespace cdp::parquet
