// Columns under construction, and the row domains that they live in.
//
// A domain is a run of rows that several columns share: the messages of the batch, or the items of
// one repeated field. A struct's children live in the domain of the struct, so that a value at any
// depth is written at the row of its message, without a count of its own. Fixed-width values and
// validity start as zeros; so a field that a message does not carry costs nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pool.h"
#include "prefetch.h"

namespace cdp {

struct Column;

// Thrown where a batch cannot take the row under construction: an offset would pass 2^31 - 1, or
// the batch its bound of memory. The row is taken back and starts the next batch.
struct BatchFull {};

struct Domain {
    int64_t rows = 0;
    int64_t capacity = 0;
    int64_t last_rows = 0;  // of the batch before: the size to start with
    std::vector<Column*> columns;
    struct Batch* batch = nullptr;

    [[gnu::cold]] void grow(int64_t rows_needed);
    void clear();
};

// What all columns of one batch share.
struct Batch {
    size_t bytes = 0;
    size_t max_bytes = SIZE_MAX;
};

// The members of one oneof: which one the row under construction holds.
struct Oneof {
    std::string name;
    int64_t row = -1;
    const struct FieldOp* member = nullptr;
    Column* case_column = nullptr;
};

// The names of an enum, and where each number stands in the dictionary.
struct EnumNames {
    std::string name;
    bool closed = false;
    std::vector<std::string> names;  // by dictionary index; one for each distinct number
    std::vector<int32_t> numbers;    // the number of each index
    int32_t dense_min = 0;
    std::vector<int32_t> dense;  // index by number - dense_min, -1 for none
    std::unordered_map<int32_t, int32_t> sparse;

    void index();
    int32_t find(int32_t number) const {
        const uint32_t at = static_cast<uint32_t>(number) - static_cast<uint32_t>(dense_min);
        if (at < dense.size()) return dense[at];
        if (sparse.empty()) return -1;
        const auto it = sparse.find(number);
        return it == sparse.end() ? -1 : it->second;
    }
};

enum class Layout : uint8_t { Bit, Fixed, Text32, Text64, Struct, List32, List64 };

struct alignas(64) Column {
    // What every value touches, in one cache line.
    Buffer values;     // fixed values, bits, or the bytes of texts
    Buffer offsets;    // of texts and lists: `next` are written
    Buffer validity;   // one bit a row, for nullable columns
    int64_t next = 0;  // of texts and lists: the first row that has nothing yet
    int64_t used = 0;  // bytes of texts

    std::string name;
    std::string format;  // of the Arrow C data interface
    int32_t index = 0;   // among all columns of the program
    Layout layout = Layout::Fixed;
    bool nullable = false;
    bool dictionary = false;  // the values are int32 indexes into names
    bool always_set = false;  // the numbers of a list: no row is without a value
    int32_t width = 0;        // of a Fixed value, bytes
    Domain* domain = nullptr;

    int64_t last_used = 0;  // of the batch before: the size to start with

    std::vector<std::unique_ptr<Column>> children;  // of a struct; of a list its one item column
    std::unique_ptr<Domain> items;                  // of a list
    std::vector<Oneof*> oneofs;                     // of a struct: those of its message

    // Dictionary columns: the enum's names, then the texts of numbers that it does not name.
    std::shared_ptr<const EnumNames> names;
    std::vector<std::string> extra_names;
    std::unordered_map<int32_t, int32_t> extra_index;

    // A sub-message kept in one column that occurs again in the same row merges with what came
    // before.
    int64_t merge_row = -1;
    const uint8_t* merge_data = nullptr;
    size_t merge_size = 0;
    std::string merged;

    void reserve_rows(int64_t rows_capacity, int64_t rows_kept);
    void clear();
    void reset_row(int64_t row);
    void truncate_items(int64_t rows);
    void pad_to(int64_t rows);  // offsets of rows that had no value

    bool wide() const { return layout == Layout::Text64 || layout == Layout::List64; }
    int64_t offset_at(int64_t row) const {
        return wide() ? offsets.as<int64_t>()[row] : offsets.as<int32_t>()[row];
    }
    void set_offset(int64_t row, int64_t value) {
        if (wide()) {
            offsets.as<int64_t>()[row] = value;
        } else {
            offsets.as<int32_t>()[row] = static_cast<int32_t>(value);
        }
    }
    bool is_valid(int64_t row) const {
        return !nullable || ((validity.data()[row >> 3] >> (row & 7)) & 1) != 0;
    }
    void mark(int64_t row) {
        uint8_t* bits = validity.data();
        if (bits != nullptr) bits[row >> 3] |= static_cast<uint8_t>(1u << (row & 7));
    }
    void unmark(int64_t row) {
        if (nullable) validity.data()[row >> 3] &= static_cast<uint8_t>(~(1u << (row & 7)));
    }
    template <typename T>
    void put(int64_t row, T value) {
        T* at = values.as<T>() + row;
        fetch_for_write(at, kAhead);
        *at = value;
        mark(row);
    }
    void put_bit(int64_t row, bool value) {
        uint8_t& byte = values.data()[row >> 3];
        const uint8_t mask = static_cast<uint8_t>(1u << (row & 7));
        byte = value ? (byte | mask) : (byte & ~mask);
        mark(row);
    }
    // An enum's number, as the name's index.
    void put_enum_index(int64_t row, int32_t number);
    // Starts the text of a row, or starts it anew (last one wins), and makes room for `size` bytes.
    uint8_t* begin_text(int64_t row, size_t size) {
        if (next != row) seek_text(row);
        const size_t need = static_cast<size_t>(used) + size;
        // (Not at most: a column without memory has no slack either.)
        if (__builtin_expect(need >= values.capacity(), 0)) grow_text(need);
        return values.data() + used;
    }
    void end_text(int64_t row, size_t size) {
        used += static_cast<int64_t>(size);
        next = row + 1;
        set_offset(next, used);
        mark(row);
    }
    // The same two for a Text32 column.
    uint8_t* begin_text32(int64_t row, size_t size) {
        // Rows without a value: how many there are is not foretold, so that eight ends are written
        // whether they are needed or not (the buffer's slack takes those behind its end).
        constexpr int64_t kFew = 8;
        auto* ends = offsets.as<int32_t>() + next + 1;
        for (int64_t i = 0; i < kFew; ++i) ends[i] = static_cast<int32_t>(used);
        fetch_for_write(ends, kAhead);
        if (__builtin_expect(static_cast<uint64_t>(row - next) > kFew, 0)) seek_text(row);
        const size_t need = static_cast<size_t>(used) + size;
        // (Not at most: a column without memory has no slack either.)
        if (__builtin_expect(need >= values.capacity(), 0)) grow_text(need);
        uint8_t* to = values.data() + used;
        fetch_for_write(to, kAheadOfTexts);
        return to;
    }
    void end_text32(int64_t row, size_t size) {
        used += static_cast<int64_t>(size);
        next = row + 1;
        offsets.as<int32_t>()[next] = static_cast<int32_t>(used);
        mark(row);
    }
    void put_text(int64_t row, std::string_view text);
    // A new item at the end of the list of `row`; returns its row in the domain of the items.
    int64_t push_item(int64_t row) {
        open_list(row);
        return push_item();
    }
    // The same where the list that has been written to last is the row's.
    int64_t push_item() {
        Domain& domain_of_items = *items;
        if (__builtin_expect(domain_of_items.rows == domain_of_items.capacity, 0)) {
            domain_of_items.grow(domain_of_items.rows + 1);
        }
        return domain_of_items.rows++;
    }
    void open_list(int64_t row) {
        if (__builtin_expect(next != row + 1, 1)) {
            if (next != row) pad_to(row);
            set_offset(row, items->rows);
            fetch_for_write(offsets.data() + row * (wide() ? 8 : 4), kAhead);
            next = row + 1;
            mark(row);
        }
    }

  private:
    void seek_text(int64_t row);
    [[gnu::cold]] void grow_text(size_t bytes);
};

}  // namespace cdp
