#include "columns.h"

#include <algorithm>
#include <cstring>

namespace cdp {

namespace {

constexpr int64_t kFirstRows = 64;
constexpr int64_t kMaxItems = INT32_MAX;

int64_t bytes_of(const Column& column, int64_t rows) {
    switch (column.layout) {
        case Layout::Bit:
            return (rows + 7) / 8;
        case Layout::Fixed:
            return rows * column.width;
        case Layout::Text32:
        case Layout::List32:
            return (rows + 1) * 4;
        case Layout::Text64:
        case Layout::List64:
            return (rows + 1) * 8;
        case Layout::Struct:
            return 0;
    }
    return 0;
}

}  // namespace

void EnumNames::index() {
    dense.clear();
    sparse.clear();
    if (numbers.empty()) return;
    const auto [low, high] = std::minmax_element(numbers.begin(), numbers.end());
    constexpr int64_t kDense = 1024;
    if (int64_t{*high} - *low < kDense) {
        dense_min = *low;
        dense.assign(static_cast<size_t>(int64_t{*high} - *low + 1), -1);
        for (size_t i = 0; i < numbers.size(); ++i) {
            dense[static_cast<size_t>(int64_t{numbers[i]} - dense_min)] = static_cast<int32_t>(i);
        }
    } else {
        for (size_t i = 0; i < numbers.size(); ++i) {
            sparse.emplace(numbers[i], static_cast<int32_t>(i));
        }
    }
}

void Domain::grow(int64_t rows_needed) {
    if (rows_needed > kMaxItems) throw BatchFull{};
    int64_t target = std::max({rows_needed, capacity * 2, last_rows + last_rows / 8, kFirstRows});
    target = std::min((target + 63) / 64 * 64, kMaxItems);
    size_t more = 0;
    for (const Column* column : columns) {
        more += static_cast<size_t>(bytes_of(*column, target) - bytes_of(*column, capacity));
    }
    if (batch->bytes + more > batch->max_bytes && capacity > 0) throw BatchFull{};
    batch->bytes += more;
    for (Column* column : columns) column->reserve_rows(target, capacity);
    capacity = target;
}

void Domain::clear() {
    last_rows = rows;
    rows = 0;
    capacity = 0;
    for (Column* column : columns) column->clear();
}

void Column::reserve_rows(int64_t rows_capacity, int64_t rows_kept) {
    const auto bytes = static_cast<size_t>(bytes_of(*this, rows_capacity));
    const auto kept = static_cast<size_t>(rows_kept == 0 ? 0 : bytes_of(*this, rows_kept));
    switch (layout) {
        case Layout::Bit:
        case Layout::Fixed:
            if (always_set) {
                values.reserve(bytes, kept);
            } else {
                values.reserve_zeroed(bytes, kept);
            }
            break;
        case Layout::Text32:
        case Layout::Text64:
        case Layout::List32:
        case Layout::List64:
            offsets.reserve(bytes, kept);
            if (rows_kept == 0) set_offset(0, 0);
            break;
        case Layout::Struct:
            break;
    }
    if (nullable) {
        validity.reserve_zeroed(static_cast<size_t>((rows_capacity + 7) / 8),
                                static_cast<size_t>((rows_kept + 7) / 8));
    }
}

void Column::clear() {
    values.drop();
    offsets.drop();
    validity.drop();
    next = 0;
    last_used = used;
    used = 0;
    merge_row = -1;
    extra_names.clear();
    extra_index.clear();
    for (Oneof* oneof : oneofs) oneof->row = -1;
    if (items) items->clear();
}

void Column::reset_row(int64_t row) {
    unmark(row);
    merge_row = -1;
    switch (layout) {
        case Layout::Bit:
            values.data()[row >> 3] &= static_cast<uint8_t>(~(1u << (row & 7)));
            break;
        case Layout::Fixed:
            std::memset(values.data() + row * width, 0, static_cast<size_t>(width));
            break;
        case Layout::Text32:
        case Layout::Text64:
            if (next > row) {
                used = offset_at(row);
                next = row;
            }
            break;
        case Layout::List32:
        case Layout::List64:
            if (next > row) {
                truncate_items(offset_at(row));
                next = row;
            }
            break;
        case Layout::Struct:
            for (auto& child : children) child->reset_row(row);
            for (Oneof* oneof : oneofs) oneof->row = -1;
            break;
    }
}

void Column::truncate_items(int64_t rows) {
    Column& item = *children.front();
    while (items->rows > rows) item.reset_row(--items->rows);
}

void Column::pad_to(int64_t rows) {
    const int64_t end = items ? items->rows : used;
    // Texts write the end of their row, lists its start: texts have one more offset written.
    const int64_t shift = items ? 0 : 1;
    if (wide()) {
        std::fill(offsets.as<int64_t>() + next + shift, offsets.as<int64_t>() + rows + shift, end);
    } else {
        std::fill(offsets.as<int32_t>() + next + shift, offsets.as<int32_t>() + rows + shift,
                  static_cast<int32_t>(end));
    }
    next = rows;
}

void Column::seek_text(int64_t row) {
    if (next > row) {
        used = offset_at(row);
        next = row;
    } else {
        pad_to(row);
    }
}

void Column::grow_text(size_t bytes) {
    // Blocks are powers of two, so that no column with 32-bit offsets ever has room for more.
    constexpr size_t kMostOf32 = (size_t{1} << 31) - Buffer::kSlack;
    constexpr size_t kFirstBytes = 1024;
    const size_t most = layout == Layout::Text32 ? kMostOf32 : SIZE_MAX;
    if (bytes > most) throw BatchFull{};
    // What outgrows the last batch mostly does so by a little.
    const size_t grown = bytes + (last_used > 0 ? bytes / 8 : bytes / 2);
    const size_t target =
        std::max({grown, static_cast<size_t>(last_used + last_used / 16), kFirstBytes});
    Batch& batch = *domain->batch;
    const size_t before = values.capacity();
    if (batch.bytes + target - before > batch.max_bytes && before > 0) throw BatchFull{};
    values.reserve(std::min(target, most), static_cast<size_t>(used));
    batch.bytes += values.capacity() - before;
}

void Column::put_text(int64_t row, std::string_view text) {
    uint8_t* to = begin_text(row, text.size());
    if (!text.empty()) std::memcpy(to, text.data(), text.size());
    end_text(row, text.size());
}

void Column::put_enum_index(int64_t row, int32_t number) {
    int32_t index = names->find(number);
    if (index < 0) {
        const auto next_index = static_cast<int32_t>(names->names.size() + extra_names.size());
        const auto [it, added] = extra_index.emplace(number, next_index);
        if (added) extra_names.push_back(std::to_string(number));
        index = it->second;
    }
    put<int32_t>(row, index);
}

}  // namespace cdp
