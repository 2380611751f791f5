#include "encoder.h"

#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <memory>

#include "convert.h"
#include "export.h"
#include "json.h"
#include "wire.h"

namespace cdp {

namespace {

constexpr int64_t kNoNumber = INT64_MIN;
constexpr int64_t kNanos = 1'000'000'000;
constexpr int kJsonDepth = 100;

int64_t number_of_name(const EnumNames& names, std::string_view text) {
    for (size_t i = 0; i < names.names.size(); ++i) {
        if (names.names[i] == text) return names.numbers[i];
    }
    int32_t number = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number);
    return error == std::errc{} && rest == end ? number : kNoNumber;
}

}  // namespace

void BackwardWriter::grow(size_t bytes) {
    constexpr size_t kFirstBytes = 4096;
    Buffer larger(buffer_.pool());
    larger.reserve(std::max(bytes * 2, kFirstBytes), 0);
    if (size_ != 0) std::memcpy(larger.data() + (larger.capacity() - size_), data(), size_);
    buffer_ = std::move(larger);
}

Encoder::Encoder(const Program& program, const ArrowArray& batch)
    : program_(program),
      batch_(batch),
      views_(static_cast<size_t>(program.column_count)),
      out_(program.batch.pool) {
    bind(program.root, batch);
}

void Encoder::bind(const Column& column, const ArrowArray& array) {
    View& of = views_[static_cast<size_t>(column.index)];
    of.offset = array.offset;
    if (array.null_count != 0) of.validity = static_cast<const uint8_t*>(array.buffers[0]);
    if (column.layout != Layout::Struct && array.n_buffers > 1) {
        const bool list = column.items != nullptr;
        const bool text = column.layout == Layout::Text32 || column.layout == Layout::Text64;
        if (list || text) of.offsets = array.buffers[1];
        if (!list) of.values = static_cast<const uint8_t*>(array.buffers[text ? 2 : 1]);
    }
    if (column.dictionary && column.names) {
        const ArrowArray& names = *array.dictionary;
        const auto* offsets = static_cast<const int32_t*>(names.buffers[1]) + names.offset;
        const auto* text = static_cast<const char*>(names.buffers[2]);
        for (int64_t i = 0; i < names.length; ++i) {
            const std::string_view name(text + offsets[i],
                                        static_cast<size_t>(offsets[i + 1] - offsets[i]));
            of.enum_numbers.push_back(number_of_name(*column.names, name));
        }
    }
    for (size_t i = 0; i < column.children.size(); ++i)
        bind(*column.children[i], *array.children[i]);
}

void Encoder::run(ArrowArray& out) {
    const int64_t rows = batch_.length;
    std::vector<size_t> from_end(static_cast<size_t>(rows));
    for (row_ = rows; row_-- > 0;) {
        // A struct's own offset counts for its children too.
        const int64_t row = row_ + batch_.offset;
        if (program_.raw != nullptr && is_valid(*program_.raw, row)) {
            const std::string_view raw = text_at(*program_.raw, row);
            out_.bytes(raw.data(), raw.size());
        } else {
            message(*program_.message, row);
        }
        from_end[static_cast<size_t>(row_)] = out_.size();
        if (out_.size() > INT32_MAX) {
            throw EncodeError(row_,
                              "the messages are over 2 GiB together; give fewer rows at a time");
        }
    }
    Buffer offsets(program_.batch.pool);
    offsets.reserve(static_cast<size_t>(rows + 1) * 4, 0);
    auto* offset = offsets.as<int32_t>();
    const size_t total = out_.size();
    for (int64_t i = 0; i < rows; ++i) {
        offset[i] = static_cast<int32_t>(total - from_end[static_cast<size_t>(i)]);
    }
    offset[rows] = static_cast<int32_t>(total);
    const uint8_t* data = total == 0 ? nullptr : out_.data();
    export_binary(rows, std::move(offsets), data, out_.take(), out);
}

std::string_view Encoder::text_at(const Column& column, int64_t row) const {
    const View& of = view(column);
    if (column.layout == Layout::Fixed) {
        const auto width = static_cast<size_t>(column.width);
        return {
            reinterpret_cast<const char*>(of.values) + static_cast<size_t>(row + of.offset) * width,
            width};
    }
    const int64_t begin = offset_at(column, row);
    return {reinterpret_cast<const char*>(of.values) + begin,
            static_cast<size_t>(offset_at(column, row + 1) - begin)};
}

void Encoder::message(const Message& message, int64_t row) {
    for (size_t i = message.fields.size(); i-- > 0;) field(*message.fields[i], row);
}

void Encoder::field(const FieldOp& op, int64_t row) {
    if (op.op == Op::Skip) return;
    if (op.op == Op::Flatten) {
        bool present = false;
        for (const Column* column : op.message->columns)
            present = present || is_valid(*column, row);
        if (present) value(op, row, true);
        return;
    }
    if (!is_valid(*op.column, row)) return;
    if (!op.repeated) {
        value(op, row, false);
        return;
    }
    const int64_t begin = offset_at(*op.column, row);
    const int64_t end = offset_at(*op.column, row + 1);
    if (op.packed) {
        if (begin != end) packed(op, begin, end);
        return;
    }
    for (int64_t item = end; item-- > begin;) {
        if (!is_valid(*op.value, item)) fail(op, "an item is null");
        value(op, item, true);
    }
}

void Encoder::packed(const FieldOp& op, int64_t begin, int64_t end) {
    const size_t before = out_.size();
    if (op.op == Op::Fixed32 || op.op == Op::Fixed64) {
        const auto width = static_cast<size_t>(op.value->width);
        const View& of = view(*op.value);
        out_.bytes(of.values + static_cast<size_t>(begin + of.offset) * width,
                   static_cast<size_t>(end - begin) * width);
    } else {
        for (int64_t item = end; item-- > begin;) {
            if (!is_valid(*op.value, item)) fail(op, "an item is null");
            number(op, item, true);
        }
    }
    out_.varint(out_.size() - before);
    out_.varint(op.number << 3 | static_cast<uint32_t>(Wire::Length));
}

void Encoder::value(const FieldOp& op, int64_t row, bool always) {
    switch (op.op) {
        case Op::Message:
        case Op::Map:
        case Op::Flatten:
        case Op::Wrapper:
        case Op::Group: {
            if (op.wire == Wire::Start) {
                out_.varint(op.number << 3 | static_cast<uint32_t>(Wire::End));
            }
            const size_t before = out_.size();
            if (op.op == Op::Map) {
                for (size_t i = op.message->fields.size(); i-- > 0;) {
                    const FieldOp& part = *op.message->fields[i];
                    // Keys and values are written even where they are zero, as protobuf does.
                    if (is_valid(*part.column, row + view(*op.value).offset)) {
                        value(part, row + view(*op.value).offset, true);
                    }
                }
            } else if (op.op == Op::Flatten) {
                message(*op.message, row);
            } else if (op.op == Op::Wrapper) {
                value(*op.message->fields.front(), row, false);
            } else {
                message(*op.message, row + view(*op.value).offset);
            }
            if (op.wire == Wire::Length) out_.varint(out_.size() - before);
            break;
        }
        case Op::Utf8:
        case Op::LossyUtf8:
        case Op::Bytes:
        case Op::FixedBytes:
        case Op::Decimal:
        case Op::Hex:
        case Op::Base64:
        case Op::Base32:
            if (!text(op, row, always)) return;
            break;
        case Op::Timestamp:
        case Op::Duration:
        case Op::Date:
        case Op::TimeOfDay:
        case Op::Json:
        case Op::Serialized:
            well_known(op, row);
            break;
        default:
            if (!number(op, row, always)) return;
            break;
    }
    out_.varint(op.tag);
}

bool Encoder::number(const FieldOp& op, int64_t row, bool always) {
    const Column& column = *op.value;
    const bool skip_zero = op.implicit && !always;
    uint64_t bits = 0;
    switch (op.op) {
        case Op::Fixed32: {
            const auto value = value_at<uint32_t>(column, row);
            if (skip_zero && value == 0) return false;
            out_.bytes(&value, sizeof value);
            return true;
        }
        case Op::Fixed64: {
            const auto value = value_at<uint64_t>(column, row);
            if (skip_zero && value == 0) return false;
            out_.bytes(&value, sizeof value);
            return true;
        }
        case Op::Varint32:
            bits = op.scalar == Scalar::Int32
                       ? static_cast<uint64_t>(int64_t{value_at<int32_t>(column, row)})
                       : value_at<uint32_t>(column, row);
            break;
        case Op::Varint64:
            bits = value_at<uint64_t>(column, row);
            break;
        case Op::ZigZag32:
            bits = zigzag32(value_at<int32_t>(column, row));
            break;
        case Op::ZigZag64:
            bits = zigzag64(value_at<int64_t>(column, row));
            break;
        case Op::Bool: {
            const int64_t at = row + view(column).offset;
            bits = (view(column).values[at >> 3] >> (at & 7)) & 1u;
            break;
        }
        case Op::UnixTime: {
            const auto value = value_at<int64_t>(column, row);
            const bool narrow = op.scalar == Scalar::Int32 || op.scalar == Scalar::Sint32 ||
                                op.scalar == Scalar::Sfixed32;
            const bool narrow_unsigned =
                op.scalar == Scalar::Uint32 || op.scalar == Scalar::Fixed32;
            const bool is_unsigned =
                narrow_unsigned || op.scalar == Scalar::Uint64 || op.scalar == Scalar::Fixed64;
            if ((narrow && value != static_cast<int32_t>(value)) || (is_unsigned && value < 0) ||
                (narrow_unsigned && value > UINT32_MAX)) {
                fail(op, "the time is out of the field's range");
            }
            if (skip_zero && value == 0) return false;
            if (op.wire != Wire::Varint) {
                out_.bytes(&value, op.wire == Wire::Fixed32 ? 4 : 8);
                return true;
            }
            bits = op.scalar == Scalar::Sint32   ? zigzag32(static_cast<int32_t>(value))
                   : op.scalar == Scalar::Sint64 ? zigzag64(value)
                                                 : static_cast<uint64_t>(value);
            break;
        }
        default:
            bits = enum_number(op, row);
            break;
    }
    if (skip_zero && bits == 0) return false;
    out_.varint(bits);
    return true;
}

uint64_t Encoder::enum_number(const FieldOp& op, int64_t row) const {
    const Column& column = *op.value;
    int64_t number = kNoNumber;
    if (op.op == Op::EnumNumber) {
        number = value_at<int32_t>(column, row);
    } else if (op.op == Op::EnumText) {
        number = number_of_name(*op.names, text_at(column, row));
    } else {
        const auto index = static_cast<size_t>(value_at<int32_t>(column, row));
        const auto& numbers = view(column).enum_numbers;
        if (index < numbers.size()) number = numbers[index];
    }
    if (number == kNoNumber) fail(op, "a text that names no value of the enum");
    return static_cast<uint64_t>(number);
}

bool Encoder::text(const FieldOp& op, int64_t row, bool always) {
    const Column& column = *op.value;
    const std::string_view data = text_at(column, row);
    const auto* bytes = reinterpret_cast<const uint8_t*>(data.data());
    size_t size = data.size();
    switch (op.op) {
        case Op::Decimal: {
            const std::string text = format_decimal(bytes, column.width, op.scale);
            size = text.size();
            out_.bytes(text.data(), size);
            break;
        }
        case Op::Hex:
        case Op::Base64:
        case Op::Base32:
            if (op.implicit && !always && size == 0) return false;
            if (op.op == Op::Hex) {
                size = data.size() * 2;
                format_hex(bytes, data.size(), out_.extend(size));
            } else if (op.op == Op::Base64) {
                size = base64_size(data.size());
                format_base64(bytes, data.size(), out_.extend(size));
            } else {
                size = base32_size(data.size());
                format_base32(bytes, data.size(), out_.extend(size));
            }
            break;
        default:
            if (op.implicit && !always && size == 0) return false;
            out_.bytes(bytes, size);
            break;
    }
    out_.varint(size);
    return true;
}

// The fields 1, 2, ... of a message of integers; zeros are not written.
void Encoder::small_integers(std::initializer_list<int64_t> values) {
    const size_t before = out_.size();
    for (size_t i = values.size(); i-- > 0;) {
        const int64_t value = values.begin()[i];
        if (value == 0) continue;
        out_.varint(static_cast<uint64_t>(value));
        out_.varint((i + 1) << 3 | static_cast<uint64_t>(Wire::Varint));
    }
    out_.varint(out_.size() - before);
}

void Encoder::well_known(const FieldOp& op, int64_t row) {
    const Column& column = *op.value;
    switch (op.op) {
        case Op::Timestamp: {
            const auto ticks = value_at<int64_t>(column, row);
            int64_t seconds = ticks / op.unit;
            int64_t rest = ticks % op.unit;
            if (rest < 0) {
                rest += op.unit;
                --seconds;
            }
            small_integers({seconds, rest * (kNanos / op.unit)});
            break;
        }
        case Op::Duration: {
            const auto ticks = value_at<int64_t>(column, row);
            small_integers({ticks / op.unit, ticks % op.unit * (kNanos / op.unit)});
            break;
        }
        case Op::Date: {
            int64_t year = 0;
            int64_t month = 0;
            int64_t day = 0;
            date_of_days(value_at<int32_t>(column, row), year, month, day);
            small_integers({year, month, day});
            break;
        }
        case Op::TimeOfDay: {
            const auto ticks = value_at<int64_t>(column, row);
            const int64_t seconds = ticks / op.unit;
            small_integers({seconds / 3600, seconds / 60 % 60, seconds % 60,
                            ticks % op.unit * (kNanos / op.unit)});
            break;
        }
        case Op::Json: {
            scratch_.clear();
            if (!message_of_json(op.json, text_at(column, row), kJsonDepth, scratch_)) {
                fail(op, "the text is no JSON of its kind");
            }
            out_.bytes(scratch_.data(), scratch_.size());
            out_.varint(scratch_.size());
            break;
        }
        default: {
            const std::string_view data = text_at(column, row);
            if (op.wire == Wire::Start) {
                out_.varint(op.number << 3 | static_cast<uint32_t>(Wire::End));
            }
            out_.bytes(data.data(), data.size());
            if (op.wire == Wire::Length) out_.varint(data.size());
            break;
        }
    }
}

void Encoder::fail(const FieldOp& op, const std::string& what) const {
    throw EncodeError(row_, "field " + op.label + ": " + what);
}

}  // namespace cdp
