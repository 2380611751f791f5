#include "encoder.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>

#include "convert.h"
#include "export.h"
#include "json.h"
#include "prefetch.h"
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

// A row's number, of a column that is read from its end.
template <typename T>
T number_at(const uint8_t* values, int64_t row) {
    const T* at = reinterpret_cast<const T*>(values) + row;
    fetch_for_read(at, -kAhead);
    return *at;
}

// What stands before a text in such a column.
void fetch_before(const uint8_t* text, size_t size) {
    for (size_t at = 0; at < size; at += kLine) fetch_for_read(text + at, -kAheadOfTexts);
}

uint64_t bit_at(const uint8_t* bits, int64_t at) { return (bits[at >> 3] >> (at & 7)) & 1u; }

// Division by each of the four units, which the compiler knows how to do without dividing.
void split_seconds(int64_t ticks, int64_t unit, int64_t& seconds, int64_t& rest) {
    switch (unit) {
        case 1:
            seconds = ticks;
            break;
        case 1'000:
            seconds = ticks / 1'000;
            break;
        case 1'000'000:
            seconds = ticks / 1'000'000;
            break;
        default:
            seconds = ticks / kNanos;
            break;
    }
    rest = ticks - seconds * unit;
}

// The varint of a tag, in a word; returns how many bytes it has.
uint32_t encode_varint(uint32_t value, uint64_t& bytes) {
    uint32_t size = 0;
    for (bytes = 0; value >= 0x80; value >>= 7)
        bytes |= uint64_t{(value & 0x7F) | 0x80} << 8 * size++;
    bytes |= uint64_t{value} << 8 * size++;
    return size;
}

}  // namespace

void BackwardWriter::grow(size_t count) {
    constexpr size_t kFirstBytes = 4096;
    const size_t held = size();
    Buffer larger;
    larger.reserve(std::max((held + count) * 2, kFirstBytes), 0);
    uint8_t* end = larger.data() + larger.capacity();
    if (held != 0) std::memcpy(end - held, front_, held);
    buffer_ = std::move(larger);
    end_ = end;
    front_ = end - held;
}

Encoder::Encoder(const Program& program, const ArrowArray& batch)
    : program_(program), batch_(batch), views_(static_cast<size_t>(program.column_count)) {
    view_columns(program.root, batch);
    steps_ = bind(*program.message, false);
}

void Encoder::view_columns(const Column& column, const ArrowArray& array) {
    View& of = views_[static_cast<size_t>(column.index)];
    of.offset = array.offset;
    of.wide = column.wide();
    if (array.null_count != 0) of.validity = static_cast<const uint8_t*>(array.buffers[0]);
    const int64_t end = array.offset + array.length;
    if (column.layout != Layout::Struct && array.n_buffers > 1 && array.buffers[1] != nullptr) {
        const auto* first = static_cast<const uint8_t*>(array.buffers[1]);
        switch (column.layout) {
            case Layout::Bit:
                of.values = first;
                expected_bytes_ += static_cast<size_t>(array.length) * 2;
                break;
            case Layout::Fixed:
                of.values = first + array.offset * column.width;
                expected_bytes_ += static_cast<size_t>(array.length) * 4;
                break;
            case Layout::Text32:
            case Layout::List32: {
                const auto* offsets = reinterpret_cast<const int32_t*>(first);
                of.offsets = offsets + array.offset;
                if (column.layout == Layout::Text32)
                    expected_bytes_ += static_cast<size_t>(offsets[end] - offsets[array.offset]);
                break;
            }
            default: {
                const auto* offsets = reinterpret_cast<const int64_t*>(first);
                of.offsets = offsets + array.offset;
                if (column.layout == Layout::Text64)
                    expected_bytes_ += static_cast<size_t>(offsets[end] - offsets[array.offset]);
                break;
            }
        }
        if (column.layout == Layout::Text32 || column.layout == Layout::Text64) {
            of.values = static_cast<const uint8_t*>(array.buffers[2]);
            expected_bytes_ += static_cast<size_t>(array.length) * 2;
        }
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
        view_columns(*column.children[i], *array.children[i]);
}

std::vector<Encoder::Step> Encoder::bind(const Message& message, bool always) const {
    std::vector<Step> steps;
    for (size_t i = message.fields.size(); i-- > 0;) {
        const FieldOp& field = *message.fields[i];
        if (field.op == Op::Skip) continue;
        Step step;
        step.op = field.op;
        step.field = &field;
        step.tag_size = encode_varint(field.tag, step.tag_bytes);
        step.repeated = field.repeated;
        step.skip_zero = field.implicit && !field.repeated && !always;
        if (field.value != nullptr) step.view = view(*field.value);
        if (field.repeated) step.list = &view(*field.column);
        // A message kept as its bytes has a program that only checks it, perhaps one around it.
        if (field.message != nullptr && field.op != Op::Serialized) {
            step.parts = bind(*field.message, field.op == Op::Map);
            const bool is_struct =
                field.op == Op::Message || field.op == Op::Group || field.op == Op::Map;
            if (is_struct && field.value != nullptr && field.value->layout == Layout::Struct)
                step.child_offset = step.view.offset;
        }
        if (field.op == Op::Flatten) {
            for (const Column* column : field.message->columns)
                step.presence.push_back(&view(*column));
        }
        steps.push_back(std::move(step));
    }
    return steps;
}

void Encoder::run(ArrowArray& out) {
    const int64_t rows = batch_.length;
    Buffer offsets;
    offsets.reserve(static_cast<size_t>(rows + 1) * 4, 0);
    auto* offset = offsets.as<int32_t>();
    // The values' own bytes, and of tags and lengths a guess; it grows where that is too little.
    out_.reserve(std::min(expected_bytes_, static_cast<size_t>(INT32_MAX)));
    for (row_ = rows; row_-- > 0;) {
        // A struct's own offset counts for its children too.
        const int64_t row = row_ + batch_.offset;
        if (program_.raw != nullptr && view(*program_.raw).is_valid(row)) {
            const View& raw = view(*program_.raw);
            const int64_t begin = raw.offset_at(row);
            out_.bytes(raw.values + begin, static_cast<size_t>(raw.offset_at(row + 1) - begin));
        } else {
            message(steps_, row);
        }
        if (out_.size() > INT32_MAX) {
            throw EncodeError(row_,
                              "the messages are over 2 GiB together; give fewer rows at a time");
        }
        offset[row_] = static_cast<int32_t>(out_.size());
    }
    const size_t total = out_.size();
    for (int64_t i = 0; i < rows; ++i) offset[i] = static_cast<int32_t>(total) - offset[i];
    offset[rows] = static_cast<int32_t>(total);
    const uint8_t* data = total == 0 ? nullptr : out_.data();
    export_binary(rows, std::move(offsets), data, out_.take(), out);
}

std::string_view Encoder::text_at(const Step& step, int64_t row) const {
    const View& of = step.view;
    const Column& column = *step.field->value;
    const uint8_t* bytes = of.values;
    size_t size = 0;
    if (column.layout == Layout::Fixed) {
        size = static_cast<size_t>(column.width);
        bytes += static_cast<size_t>(row) * size;
    } else {
        const auto* offsets = static_cast<const uint8_t*>(of.offsets);
        const int64_t begin =
            of.wide ? number_at<int64_t>(offsets, row) : number_at<int32_t>(offsets, row);
        bytes += begin;
        size = static_cast<size_t>(of.offset_at(row + 1) - begin);
    }
    fetch_before(bytes, size);
    return {reinterpret_cast<const char*>(bytes), size};
}

void Encoder::message(const std::vector<Step>& steps, int64_t row) {
    for (const Step& step : steps) {
        if (step.repeated) {
            items(step, row);
        } else if (step.op == Op::Flatten) {
            const bool present = std::ranges::any_of(
                step.presence, [row](const View* column) { return column->is_valid(row); });
            if (present) sub_message(step, row);
        } else if (step.view.is_valid(row)) {
            value(step, row);
        }
    }
}

void Encoder::items(const Step& step, int64_t row) {
    if (!step.list->is_valid(row)) return;
    const int64_t begin = step.list->offset_at(row);
    const int64_t end = step.list->offset_at(row + 1);
    if (begin == end) return;
    bool lost = false;
    if (step.view.validity != nullptr) {
        for (int64_t item = begin; item < end; ++item) lost |= !step.view.is_valid(item);
        if (lost && program_.raw != nullptr) fail(step, "an item is null");
    }
    if (lost) {
        // It was no value of its column, and nobody kept it; those beside it stay where they are.
        for (int64_t item = end; item-- > begin;) {
            if (step.view.is_valid(item)) {
                value(step, item);
            } else {
                zero(step);
            }
        }
    } else if (step.field->packed) {
        packed(step, begin, end);
    } else {
        for (int64_t item = end; item-- > begin;) value(step, item);
    }
}

void Encoder::packed(const Step& step, int64_t begin, int64_t end) {
    const size_t before = out_.size();
    const auto count = static_cast<size_t>(end - begin);
    const auto each = [this, begin, end](auto&& number) {
        for (int64_t item = end; item-- > begin;) out_.varint(number(item));
    };
    const uint8_t* values = step.view.values;
    const auto* narrow = reinterpret_cast<const int32_t*>(values);
    const auto* wide = reinterpret_cast<const int64_t*>(values);
    switch (step.op) {
        case Op::Fixed32:
            out_.bytes(narrow + begin, count * 4);
            break;
        case Op::Fixed64:
            out_.bytes(wide + begin, count * 8);
            break;
        case Op::WideFloat:
            for (int64_t item = end; item-- > begin;) out_.fixed(float_at(step, item));
            break;
        case Op::Varint32:
            if (step.field->scalar == Scalar::Int32) {
                each([narrow](int64_t item) {
                    return static_cast<uint64_t>(int64_t{narrow[item]});
                });
            } else {
                each([narrow](int64_t item) { return static_cast<uint32_t>(narrow[item]); });
            }
            break;
        case Op::Varint64:
            each([wide](int64_t item) { return static_cast<uint64_t>(wide[item]); });
            break;
        case Op::ZigZag32:
            each([narrow](int64_t item) { return zigzag32(narrow[item]); });
            break;
        case Op::ZigZag64:
            each([wide](int64_t item) { return zigzag64(wide[item]); });
            break;
        case Op::Bool:
            each([&step](int64_t item) {
                return bit_at(step.view.values, item + step.view.offset);
            });
            break;
        case Op::UnixTime:
            for (int64_t item = end; item-- > begin;) unix_time(step, wide[item]);
            break;
        default:
            each([this, &step](int64_t item) { return enum_number(step, item); });
            break;
    }
    out_.varint(out_.size() - before);
    out_.varint(step.field->number << 3 | static_cast<uint32_t>(Wire::Length));
}

void Encoder::value(const Step& step, int64_t row) {
    const uint8_t* values = step.view.values;
    uint64_t bits = 0;
    switch (step.op) {
        case Op::Fixed32: {
            const uint32_t fixed = number_at<uint32_t>(values, row);
            if (step.skip_zero && fixed == 0) return;
            out_.fixed(fixed);
            return tag(step);
        }
        case Op::Fixed64: {
            const uint64_t fixed = number_at<uint64_t>(values, row);
            if (step.skip_zero && fixed == 0) return;
            out_.fixed(fixed);
            return tag(step);
        }
        case Op::WideFloat: {
            const uint32_t fixed = float_at(step, row);
            if (step.skip_zero && fixed == 0) return;
            out_.fixed(fixed);
            return tag(step);
        }
        case Op::Varint32: {
            const int32_t number = number_at<int32_t>(values, row);
            bits = step.field->scalar == Scalar::Int32 ? static_cast<uint64_t>(int64_t{number})
                                                       : static_cast<uint32_t>(number);
            break;
        }
        case Op::Varint64:
            bits = number_at<uint64_t>(values, row);
            break;
        case Op::ZigZag32:
            bits = zigzag32(number_at<int32_t>(values, row));
            break;
        case Op::ZigZag64:
            bits = zigzag64(number_at<int64_t>(values, row));
            break;
        case Op::Bool:
            bits = bit_at(values, row + step.view.offset);
            break;
        case Op::UnixTime: {
            const int64_t ticks = number_at<int64_t>(values, row);
            if (step.skip_zero && ticks == 0) return;
            unix_time(step, ticks);
            return tag(step);
        }
        case Op::EnumNumber:
        case Op::EnumIndex:
        case Op::EnumText:
            bits = enum_number(step, row);
            break;
        case Op::Utf8:
        case Op::Bytes: {  // as `text_at` reads them, without asking how they are laid out
            const auto* offsets = static_cast<const int32_t*>(step.view.offsets);
            const uint8_t* bytes = values + offsets[row];
            const auto size = static_cast<size_t>(offsets[row + 1] - offsets[row]);
            fetch_for_read(offsets + row, -kAhead);
            fetch_before(bytes, size);
            return text(step, bytes, size);
        }
        case Op::LossyUtf8:
        case Op::LargeUtf8:
        case Op::LargeBytes:
        case Op::FixedBytes: {
            const std::string_view data = text_at(step, row);
            return text(step, reinterpret_cast<const uint8_t*>(data.data()), data.size());
        }
        case Op::Decimal:
        case Op::Hex:
        case Op::Base64:
        case Op::Base32:
            return converted_text(step, row);
        case Op::Message:
        case Op::Map:
        case Op::Flatten:
        case Op::Wrapper:
        case Op::Group:
            return sub_message(step, row);
        case Op::Timestamp:
        case Op::Duration:
        case Op::Date:
        case Op::TimeOfDay:
        case Op::Json:
        case Op::Serialized:
            well_known(step, row);
            return tag(step);
        case Op::Skip:
            return;
    }
    if (step.skip_zero && bits == 0) return;
    out_.varint(bits);
    tag(step);
}

// A value that is zero or empty.
void Encoder::zero(const Step& step) {
    switch (step.field->wire) {
        case Wire::Fixed32:
            out_.fixed(uint32_t{0});
            break;
        case Wire::Fixed64:
            out_.fixed(uint64_t{0});
            break;
        case Wire::Start:
            out_.varint(step.field->number << 3 | static_cast<uint32_t>(Wire::End));
            break;
        default:
            out_.varint(0);
            break;
    }
    tag(step);
}

void Encoder::sub_message(const Step& step, int64_t row) {
    if (step.field->wire == Wire::Start) {
        out_.varint(step.field->number << 3 | static_cast<uint32_t>(Wire::End));
    }
    const size_t before = out_.size();
    message(step.parts, row + step.child_offset);
    if (step.field->wire == Wire::Length) out_.varint(out_.size() - before);
    tag(step);
}

void Encoder::text(const Step& step, const uint8_t* bytes, size_t size) {
    if (step.skip_zero && size == 0) return;
    out_.bytes(bytes, size);
    out_.varint(size);
    tag(step);
}

void Encoder::converted_text(const Step& step, int64_t row) {
    const std::string_view data = text_at(step, row);
    const auto* bytes = reinterpret_cast<const uint8_t*>(data.data());
    if (step.op == Op::Decimal) {
        const std::string digits =
            format_decimal(bytes, step.field->value->width, step.field->scale);
        out_.bytes(digits.data(), digits.size());
        out_.varint(digits.size());
        return tag(step);
    }
    if (step.skip_zero && data.empty()) return;
    const size_t before = out_.size();
    if (step.op == Op::Hex) {
        format_hex(bytes, data.size(), out_.extend(data.size() * 2));
    } else if (step.op == Op::Base64) {
        format_base64(bytes, data.size(), out_.extend(base64_size(data.size())));
    } else {
        format_base32(bytes, data.size(), out_.extend(base32_size(data.size())));
    }
    out_.varint(out_.size() - before);
    tag(step);
}

uint32_t Encoder::float_at(const Step& step, int64_t row) {
    uint32_t narrow = 0;
    if (!narrow_double(number_at<uint64_t>(step.view.values, row), narrow)) {
        fail(step, "the double is no float");
    }
    return narrow;
}

void Encoder::unix_time(const Step& step, int64_t value) {
    const Scalar scalar = step.field->scalar;
    const bool narrow =
        scalar == Scalar::Int32 || scalar == Scalar::Sint32 || scalar == Scalar::Sfixed32;
    const bool narrow_unsigned = scalar == Scalar::Uint32 || scalar == Scalar::Fixed32;
    const bool is_unsigned =
        narrow_unsigned || scalar == Scalar::Uint64 || scalar == Scalar::Fixed64;
    if ((narrow && value != static_cast<int32_t>(value)) || (is_unsigned && value < 0) ||
        (narrow_unsigned && value > UINT32_MAX)) {
        fail(step, "the time is out of the field's range");
    }
    if (step.field->wire == Wire::Fixed32) {
        out_.fixed(static_cast<uint32_t>(value));
    } else if (step.field->wire == Wire::Fixed64) {
        out_.fixed(value);
    } else {
        out_.varint(scalar == Scalar::Sint32   ? zigzag32(static_cast<int32_t>(value))
                    : scalar == Scalar::Sint64 ? zigzag64(value)
                                               : static_cast<uint64_t>(value));
    }
}

uint64_t Encoder::enum_number(const Step& step, int64_t row) const {
    int64_t number = kNoNumber;
    if (step.op == Op::EnumText) {
        number = number_of_name(*step.field->names, text_at(step, row));
    } else {
        const int32_t stored = number_at<int32_t>(step.view.values, row);
        if (step.op == Op::EnumNumber) return static_cast<uint64_t>(int64_t{stored});
        const auto& numbers = step.view.enum_numbers;
        const auto index = static_cast<size_t>(stored);
        if (index < numbers.size()) number = numbers[index];
    }
    if (number == kNoNumber) fail(step, "a text that names no value of the enum");
    return static_cast<uint64_t>(number);
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

void Encoder::well_known(const Step& step, int64_t row) {
    const FieldOp& op = *step.field;
    const uint8_t* values = step.view.values;
    switch (op.op) {
        case Op::Timestamp: {
            const auto ticks = number_at<int64_t>(values, row);
            int64_t seconds = 0;
            int64_t rest = 0;
            split_seconds(ticks, op.unit, seconds, rest);
            if (rest < 0) {
                rest += op.unit;
                --seconds;
            }
            small_integers({seconds, rest * op.tick});
            break;
        }
        case Op::Duration: {
            const auto ticks = number_at<int64_t>(values, row);
            small_integers({ticks / op.unit, ticks % op.unit * (kNanos / op.unit)});
            break;
        }
        case Op::Date: {
            int64_t year = 0;
            int64_t month = 0;
            int64_t day = 0;
            date_of_days(number_at<int32_t>(values, row), year, month, day);
            small_integers({year, month, day});
            break;
        }
        case Op::TimeOfDay: {
            const auto ticks = number_at<int64_t>(values, row);
            const int64_t seconds = ticks / op.unit;
            small_integers({seconds / 3600, seconds / 60 % 60, seconds % 60,
                            ticks % op.unit * (kNanos / op.unit)});
            break;
        }
        case Op::Json: {
            scratch_.clear();
            if (!message_of_json(op.json, text_at(step, row), kJsonDepth, scratch_)) {
                fail(step, "the text is no JSON of its kind");
            }
            out_.bytes(scratch_.data(), scratch_.size());
            out_.varint(scratch_.size());
            break;
        }
        default: {
            const std::string_view data = text_at(step, row);
            if (op.wire == Wire::Start) {
                out_.varint(op.number << 3 | static_cast<uint32_t>(Wire::End));
            }
            out_.bytes(data.data(), data.size());
            if (op.wire == Wire::Length) out_.varint(data.size());
            break;
        }
    }
}

void Encoder::fail(const Step& step, const std::string& what) const {
    throw EncodeError(row_, "field " + step.field->label + ": " + what);
}

}  // namespace cdp
