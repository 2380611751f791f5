// Columns back into wire bytes: the decode program run the other way.
//
// Rows are written from the last to the first and from the end of the buffer to its start, so that
// the length in front of a sub-message is known when it is written.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "program.h"

namespace cdp {

// A value that no message of the program can hold.
struct EncodeError : std::runtime_error {
    EncodeError(int64_t at_row, const std::string& reason)
        : std::runtime_error(reason), row(at_row) {}
    int64_t row;
};

// A buffer that grows at its front.
class BackwardWriter {
  public:
    explicit BackwardWriter(std::shared_ptr<BufferPool> pool) : buffer_(std::move(pool)) {}

    size_t size() const { return size_; }
    uint8_t* data() const { return buffer_.data() + (buffer_.capacity() - size_); }
    Buffer take() { return std::move(buffer_); }

    // `count` more bytes in front, for the caller to fill.
    uint8_t* extend(size_t count) {
        if (__builtin_expect(size_ + count > buffer_.capacity(), 0)) grow(size_ + count);
        size_ += count;
        return data();
    }
    void bytes(const void* from, size_t count) {
        uint8_t* to = extend(count);
        if (count != 0) std::memcpy(to, from, count);
    }
    void varint(uint64_t value) {
        if (value < 0x80) {
            *extend(1) = static_cast<uint8_t>(value);
            return;
        }
        const int length = (std::bit_width(value) + 6) / 7;
        uint8_t* to = extend(static_cast<size_t>(length));
        for (int i = 0; i < length - 1; ++i, value >>= 7) {
            to[i] = static_cast<uint8_t>(value | 0x80);
        }
        to[length - 1] = static_cast<uint8_t>(value);
    }

  private:
    void grow(size_t bytes);

    Buffer buffer_;
    size_t size_ = 0;
};

class Encoder {
  public:
    // `batch` is a struct array of the program's schema. Throws EncodeError on a value out of
    // range.
    Encoder(const Program& program, const ArrowArray& batch);

    // All rows as one binary array, whose memory `out` owns.
    void run(ArrowArray& out);

  private:
    // One column of the batch.
    struct View {
        int64_t offset = 0;
        const uint8_t* validity = nullptr;
        const uint8_t* values = nullptr;
        const void* offsets = nullptr;
        std::vector<int64_t> enum_numbers;  // by dictionary index; kNoNumber where it names none
    };

    void bind(const Column& column, const ArrowArray& array);
    const View& view(const Column& column) const {
        return views_[static_cast<size_t>(column.index)];
    }
    bool is_valid(const Column& column, int64_t row) const {
        const View& of = view(column);
        const int64_t at = row + of.offset;
        return of.validity == nullptr || ((of.validity[at >> 3] >> (at & 7)) & 1) != 0;
    }
    int64_t offset_at(const Column& column, int64_t at) const {
        const View& of = view(column);
        at += of.offset;
        return column.wide() ? static_cast<const int64_t*>(of.offsets)[at]
                             : static_cast<const int32_t*>(of.offsets)[at];
    }
    template <typename T>
    T value_at(const Column& column, int64_t row) const {
        const View& of = view(column);
        return reinterpret_cast<const T*>(of.values)[row + of.offset];
    }
    std::string_view text_at(const Column& column, int64_t row) const;

    void message(const Message& message, int64_t row);
    void field(const FieldOp& op, int64_t row);
    // Writes the value, tag included, unless it is the default of a field without presence.
    void value(const FieldOp& op, int64_t row, bool always);
    bool number(const FieldOp& op, int64_t row, bool always);
    bool text(const FieldOp& op, int64_t row, bool always);
    void well_known(const FieldOp& op, int64_t row);
    uint64_t enum_number(const FieldOp& op, int64_t row) const;
    void small_integers(std::initializer_list<int64_t> values);
    void packed(const FieldOp& op, int64_t begin, int64_t end);
    [[noreturn]] void fail(const FieldOp& op, const std::string& what) const;

    const Program& program_;
    const ArrowArray& batch_;
    std::vector<View> views_;
    BackwardWriter out_;
    int64_t row_ = 0;  // of the batch, for errors
    std::string scratch_;
};

}  // namespace cdp
