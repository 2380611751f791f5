#include "decoder.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "convert.h"
#include "json.h"
#include "packed.h"
#include "utf8.h"
#include "wire.h"

namespace cdp {

namespace {

constexpr const char* kTruncated = "the message ends inside a field";
constexpr const char* kVarint = "malformed varint";
constexpr const char* kUtf8 = "invalid UTF-8";
constexpr const char* kTag = "malformed tag";
constexpr uint64_t kNanos = 1'000'000'000;
constexpr const char* kGroup = "end of a group that was not begun";

bool is_scalar(const FieldOp& op) { return op.scalar != Scalar::None; }

int fixed_width(Wire wire) { return wire == Wire::Fixed32 ? 4 : wire == Wire::Fixed64 ? 8 : 0; }

// A varint or fixed value, extended to 64 bits as its type says.
int64_t integer_of(Scalar scalar, uint64_t value) {
    switch (scalar) {
        case Scalar::Int32:
        case Scalar::Sfixed32:
        case Scalar::Enum:
            return static_cast<int32_t>(value);
        case Scalar::Uint32:
        case Scalar::Fixed32:
            return static_cast<uint32_t>(value);
        case Scalar::Sint32:
            return unzigzag32(static_cast<uint32_t>(value));
        case Scalar::Sint64:
            return unzigzag64(value);
        default:
            return static_cast<int64_t>(value);
    }
}

std::optional<PackedKind> packed_kind(Op op) {
    switch (op) {
        case Op::Varint32:
        case Op::EnumNumber:
            return PackedKind::Varint32;
        case Op::Varint64:
            return PackedKind::Varint64;
        case Op::ZigZag32:
            return PackedKind::ZigZag32;
        case Op::ZigZag64:
            return PackedKind::ZigZag64;
        default:
            return std::nullopt;
    }
}

// Whether 32 bits (one of a bool) hold a varint. Protobuf's parsers cut it off; the number that a
// newer writer of a wider type meant would be gone.
bool fits(Scalar scalar, uint64_t value) {
    switch (scalar) {
        case Scalar::Int32:
        case Scalar::Enum:
            return value + (uint64_t{1} << 31) <= UINT32_MAX;
        case Scalar::Uint32:
        case Scalar::Sint32:
            return value <= UINT32_MAX;
        case Scalar::Bool:
            return value <= 1;
        default:
            return true;
    }
}

// Engines make microseconds of times in Parquet, DuckDB of a whole column or of nothing; seconds
// are milliseconds there.
bool is_storable(const FieldOp& op, int64_t ticks) {
    constexpr int64_t kMostMillis = INT64_MAX / 1'000;
    constexpr int64_t kMostSeconds = INT64_MAX / 1'000'000;
    if (op.unit > 1'000) return true;
    const int64_t most = op.unit == 1 ? kMostSeconds : kMostMillis;
    return ticks <= most && ticks >= -most;
}

// The ticks of a time; false where they are more than 64 bits hold.
bool ticks_of(int64_t seconds, int64_t unit, int64_t rest, int64_t& ticks) {
    if (__builtin_expect(!__builtin_mul_overflow(seconds, unit, &ticks) &&
                             !__builtin_add_overflow(ticks, rest, &ticks),
                         1)) {
        return true;
    }
    // A second may be out of range where a part of it is not.
    const __int128 exact = __int128{seconds} * unit + rest;
    ticks = static_cast<int64_t>(exact);
    return ticks == exact;
}

// A message of a oneof, whose columns are its parent's, gives way to another member.
void leave_flattened(const Message& message, int64_t row) {
    for (Column* column : message.columns) column->reset_row(row);
    for (const auto& field : message.fields) {
        if (field->op == Op::Flatten) leave_flattened(*field->message, row);
    }
    for (const auto& oneof : message.oneofs) {
        oneof->row = -1;
        if (oneof->case_column != nullptr) oneof->case_column->reset_row(row);
    }
}

}  // namespace

size_t Decoder::run(std::span<const Payload> payloads, size_t first, bool stop_at_bad,
                    std::vector<Rejected>& rejected) {
    Domain& rows = program_.rows;
    rows.last_rows = 0;  // how many rows come is known here
    rows.grow(
        static_cast<int64_t>(std::min(payloads.size() - first, static_cast<size_t>(INT32_MAX))));
    constexpr size_t kAhead = 4;
    constexpr size_t kMostAhead = 1024;
    size_t index = first;
    for (; index < payloads.size() && rows.rows < rows.capacity; ++index) {
        const Payload& payload = payloads[index];
        if (index + kAhead < payloads.size()) {
            const Payload& ahead = payloads[index + kAhead];
            // One by itself lies anywhere in memory; in an array the next one is where it is
            // expected.
            const bool alone = ahead.limit == ahead.data + ahead.size;
            const size_t size = alone ? std::min(ahead.size, kMostAhead) : 128;
            for (size_t at = 0; at < size; at += 64) __builtin_prefetch(ahead.data + at);
        }
        const int64_t row = rows.rows;
        const uint8_t* start = payload.data;
        const uint8_t* end = payload.data + payload.size;
        limit_ = payload.limit;
        safe_ = limit_ - payload.data >= 8 ? limit_ - 8 : nullptr;
        depth_ = limits_.max_depth;
        needs_raw_ = drop_item_ = false;
        reason_ = nullptr;
        op_ = nullptr;
        try {
            if (payload.data == nullptr) {
                fail(payload.data, "no payload (null)");
            } else if (payload.size > limits_.max_message_bytes) {
                fail(payload.data, too_large_.c_str());
            } else if ((registry_indexes_.empty() ||
                        (start = behind_prefix(start, end)) != nullptr) &&
                       message(*program_.message, row, start, end, 0) != nullptr && needs_raw_ &&
                       program_.raw != nullptr) {
                program_.raw->put_text(
                    row, {reinterpret_cast<const char*>(start), static_cast<size_t>(end - start)});
            }
        } catch (const BatchFull&) {
            program_.root.reset_row(row);
            if (row > 0) return index;
            // Alone in its batch and still too much.
            rejected.push_back({static_cast<int64_t>(index), 0,
                                "the message does not fit a batch: over 2 GiB in one column"});
            if (stop_at_bad) return index + 1;
            continue;
        }
        if (reason_ == nullptr) {
            ++rows.rows;
            continue;
        }
        program_.root.reset_row(row);
        std::string reason = op_ == nullptr ? reason_ : "field " + op_->label + ": " + reason_;
        rejected.push_back({static_cast<int64_t>(index), at_ - payload.data, std::move(reason)});
        if (stop_at_bad) return index + 1;
    }
    return index;
}

// Confluent's wire format: https://docs.confluent.io/platform/current/schema-registry/fundamentals
// /serdes-develop/index.html#wire-format
const uint8_t* Decoder::behind_prefix(const uint8_t* p, const uint8_t* end) {
    constexpr ptrdiff_t kMagicAndId = 5;
    if (p < end && *p != 0) return fail(p, "no magic byte 0 of the Schema Registry's prefix");
    if (end - p < kMagicAndId)
        return fail(p, "the payload ends inside the Schema Registry's prefix");
    p += kMagicAndId;
    const std::string_view rest(reinterpret_cast<const char*>(p), static_cast<size_t>(end - p));
    for (const std::string& indexes : registry_indexes_) {
        if (rest.starts_with(indexes)) return p + indexes.size();
    }
    return fail(p, "the Schema Registry's message indexes are those of another message");
}

const uint8_t* Decoder::message(Message& outermost, int64_t row, const uint8_t* p,
                                const uint8_t* end, uint32_t group) {
    // The messages around the one being read. Calls, which save a dozen registers each, are left to
    // what nests deeper still.
    struct Around {
        int64_t row;
        const uint8_t* end;
        FieldOp* op;
    };
    std::array<Around, 8> around;
    Around* level = around.data();
    const Around* deepest = level + std::min(depth_, static_cast<int>(around.size()));
    outermost.begin();
    FieldOp* before = &outermost.start;
    FieldOp* op = before->guess;
    while (true) {
        while (p < end) {
            // Fields mostly come in the order of the last message: compare before looking up. (A
            // tag that crosses the end leaves nothing to read a value from, and fails there.)
            if (__builtin_expect(p <= safe_ && op->is_at(p), 1)) {
                p += op->tag_size;
            } else {
                const uint8_t* start = p;
                uint32_t tag = 0;
                p = read_tag(p, end, tag);
                if (p == nullptr) return fail(start, kTag);
                const uint32_t number = tag >> 3;
                const auto wire = static_cast<Wire>(tag & 7);
                if (number == 0) return fail(start, "field number 0");
                if (__builtin_expect(wire == Wire::End, 0)) {
                    // Only the outermost may be a group: those that nest here have lengths.
                    if (level != around.data() || number != group) return fail(start, kGroup);
                    group = 0;
                    break;
                }
                FieldOp* found = before->owner->find(number);
                if (__builtin_expect(found == nullptr || found->wire != wire, 0)) {
                    if (found != nullptr && found->repeated && is_scalar(*found) &&
                        wire == Wire::Length && found->op != Op::Skip) {
                        p = packed(*found, row, p, end);
                        before->guess = found;
                        op = found->guess;
                    } else {
                        needs_raw_ = needs_raw_ || found == nullptr || found->op != Op::Skip;
                        p = skip(tag, p, end, depth_);
                    }
                    if (p == nullptr) return nullptr;
                    continue;
                }
                op = found;
                before->guess = op;
            }
            int64_t at = row;
            // (What is likely here is what a profile says: numbers fall through to their step, and
            // what a nested message needs lies together. By itself GCC scatters it, at a tenth of
            // the time.)
            if (__builtin_expect_with_probability(op->extras != 0, 0, 0.6)) {
                if (__builtin_expect((op->extras & FieldOp::kPushes) != 0, 1))
                    at = op->column->push_item(row);
                if (__builtin_expect((op->extras & FieldOp::kEnters) != 0, 0))
                    enter_oneof(*op, row);
                op->seen = true;
                if (__builtin_expect((op->extras & FieldOp::kNests) != 0 && level != deepest, 1)) {
                    const uint8_t* stop = nullptr;
                    p = begin_message(*op, *op->value, at, p, end, stop);
                    if (__builtin_expect(p == nullptr, 0)) return no_value(*op, end);
                    *level++ = {row, end, op};
                    --depth_;
                    row = at;
                    end = stop;
                    before = &op->message->start;
                    op = before->guess;
                    continue;
                }
            }
            p = step(*op, *op->value, at, p, end);
            if (__builtin_expect(p == nullptr, 0)) return no_value(*op, end);
            before = op;
            op = op->guess;
        }
        if (level == around.data()) {
            if (!close_all(outermost, row)) return nullptr;
            return group == 0 ? p : fail(p, kTruncated);
        }
        // It ends there exactly; and its length says where before its last value has been read.
        p = end;
        const Around& outer = level[-1];
        op = outer.op;
        if (__builtin_expect((op->extras & FieldOp::kAttends) != 0, 0)) {
            if (!close_all(*op->message, row)) return nullptr;
            if (drop_item_) end_entry(*op, row);
        }
        if (p < outer.end && p <= safe_ && op->is_at(p) && (op->extras & FieldOp::kPushes) != 0) {
            // The next one of a list: all around it stays as it is.
            row = op->column->push_item();
            p = begin_message(*op, *op->value, row, p + op->tag_size, outer.end, end);
            if (__builtin_expect(p == nullptr, 0)) return no_value(*op, outer.end);
            before = &op->message->start;
            op = before->guess;
            continue;
        }
        --level;
        ++depth_;
        row = outer.row;
        end = outer.end;
        before = op;
        op = before->guess;
    }
}

// For a field whose value could not be read.
const uint8_t* Decoder::no_value(const FieldOp& op, const uint8_t* end) {
    if (at_ > end) {  // what was taken for a tag goes on behind the end
        at_ -= op.tag_size;
        reason_ = kTag;
        op_ = nullptr;
    }
    return nullptr;
}

const uint8_t* Decoder::begin_message(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                                      const uint8_t* end, const uint8_t*& stop) {
    size_t size = 0;
    const uint8_t* body = read_length(p, end, size);
    if (body == nullptr) return fail(p, kTruncated, &op);
    column.mark(row);
    stop = body + size;
    if (__builtin_expect((op.extras & FieldOp::kAttends) != 0, 0)) {
        op.message->begin();
        if (op.op == Op::Map) begin_entry(op, row, body, stop);
    }
    return body;
}

bool Decoder::close_all(Message& message, int64_t row) {
    return std::ranges::all_of(message.closing, [&](FieldOp* field) { return close(*field, row); });
}

// What the end of its message means for a field.
bool Decoder::close(FieldOp& op, int64_t row) {
    // A length, or a number, of zero; readable on.
    static constexpr std::array<uint8_t, 8 + kCopySlack> kEmpty{};
    if (op.op == Op::Map) {
        const Column& list = *op.column;
        const bool several = list.next == row + 1 && list.items->rows - list.offset_at(row) > 1;
        return !several || drop_repeated_keys(op, row);
    }
    // Of a required field the column, which is not null, would claim that it was there.
    if (!op.seen && op.required) needs_raw_ = true;
    if (op.op == Op::EnumText) {
        if (op.value->next <= row) put_enum_text(op, *op.value, row, 0);
    } else if (!op.seen && !op.required) {
        ++depth_;  // nothing on the wire nests here
        const uint8_t* limit = std::exchange(limit_, kEmpty.end());
        const uint8_t* end = kEmpty.data() + std::max(fixed_width(op.wire), 1);
        const bool done = step(op, *op.value, row, kEmpty.data(), end) != nullptr;
        limit_ = limit;
        --depth_;
        return done;
    }
    return true;
}

void Decoder::put_enum_text(const FieldOp& op, Column& column, int64_t row, int32_t number) {
    const int32_t index = op.names->find(number);
    column.put_text(
        row, index < 0 ? std::to_string(number) : op.names->names[static_cast<size_t>(index)]);
}

const uint8_t* Decoder::step(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                             const uint8_t* end) {
    const uint8_t* start = p;
    uint64_t value = 0;
    size_t size = 0;
    switch (op.op) {
        case Op::Varint32:
            p = read_varint(p, end, safe_, value);
            if (p == nullptr) return fail(start, kVarint, &op);
            if (value >> 31 != 0 && !fits(op.scalar, value)) needs_raw_ = true;
            column.put<uint32_t>(row, static_cast<uint32_t>(value));
            return p;
        case Op::Varint64:
            p = read_varint(p, end, safe_, value);
            if (p == nullptr) return fail(start, kVarint, &op);
            column.put<uint64_t>(row, value);
            return p;
        case Op::ZigZag32:
            p = read_varint(p, end, safe_, value);
            if (p == nullptr) return fail(start, kVarint, &op);
            if (value > UINT32_MAX) needs_raw_ = true;
            column.put<int32_t>(row, unzigzag32(static_cast<uint32_t>(value)));
            return p;
        case Op::ZigZag64:
            p = read_varint(p, end, safe_, value);
            if (p == nullptr) return fail(start, kVarint, &op);
            column.put<int64_t>(row, unzigzag64(value));
            return p;
        case Op::Bool:
            p = read_varint(p, end, safe_, value);
            if (p == nullptr) return fail(start, kVarint, &op);
            if (value > 1) needs_raw_ = true;
            column.put_bit(row, value != 0);
            return p;
        case Op::Fixed32:
            if (end - p < 4) return fail(start, kTruncated, &op);
            column.put<uint32_t>(row, load<uint32_t>(p));
            return p + 4;
        case Op::Fixed64:
            if (end - p < 8) return fail(start, kTruncated, &op);
            column.put<uint64_t>(row, load<uint64_t>(p));
            return p + 8;
        case Op::WideFloat:
            if (end - p < 4) return fail(start, kTruncated, &op);
            column.put<uint64_t>(row, widen_float(load<uint32_t>(p)));
            return p + 4;
        case Op::EnumNumber:
        case Op::EnumIndex:
        case Op::EnumText:
            return enumeration(op, column, row, p, end);
        case Op::UnixTime:
            return unix_time(op, column, row, p, end);
        case Op::Utf8: {
            p = read_length(p, end, size);
            if (p == nullptr) return fail(start, kTruncated, &op);
            uint8_t* to = column.begin_text32(row, size);
            const bool ascii = copy_is_ascii(to, p, size, static_cast<size_t>(limit_ - p));
            if (__builtin_expect(!ascii, 0) && !is_utf8(p, size)) return fail(p, kUtf8, &op);
            column.end_text32(row, size);
            return p + size;
        }
        case Op::Bytes: {
            p = read_length(p, end, size);
            if (p == nullptr) return fail(start, kTruncated, &op);
            copy(column.begin_text32(row, size), p, size, static_cast<size_t>(limit_ - p));
            column.end_text32(row, size);
            return p + size;
        }
        case Op::LargeUtf8:
        case Op::LargeBytes:
        case Op::LossyUtf8:
        case Op::FixedBytes:
        case Op::Decimal:
        case Op::Hex:
        case Op::Base64:
        case Op::Base32:
            return text(op, column, row, p, end);
        case Op::Message:
        case Op::Map:
            if (depth_ <= 0) return fail(p, too_deep_.c_str(), &op);
            p = begin_message(op, column, row, p, end, end);
            if (p == nullptr) return nullptr;
            --depth_;
            p = message(*op.message, row, p, end, 0);
            ++depth_;
            if (drop_item_) end_entry(op, row);
            return p;
        case Op::Group:
        case Op::Flatten:
        case Op::Wrapper:
            return sub_message(op, column, row, p, end);
        case Op::Timestamp:
            if (const uint8_t* next = timestamp(op, column, row, p, end); next != nullptr)
                return next;
            return well_known(op, column, row, p, end);
        case Op::Duration:
        case Op::Date:
        case Op::TimeOfDay:
        case Op::Json:
        case Op::Serialized:
            return well_known(op, column, row, p, end);
        case Op::Skip:
            return skip(op.tag, p, end, depth_);
    }
    __builtin_unreachable();
}

const uint8_t* Decoder::enumeration(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                                    const uint8_t* end) {
    const uint8_t* start = p;
    uint64_t value = 0;
    p = read_varint(p, end, safe_, value);
    if (p == nullptr) return fail(start, kVarint, &op);
    const auto number = static_cast<int32_t>(value);
    if (!fits(op.scalar, value)) needs_raw_ = true;
    if (op.closed) {
        // A number that a closed enum does not know is an unknown field.
        if (op.names->find(number) < 0) {
            needs_raw_ = true;
            if ((op.extras & FieldOp::kPushes) != 0) {
                op.column->truncate_items(row);
            } else {
                drop_item_ = true;
            }
            return p;
        }
        if (op.oneof != nullptr) enter_oneof(op, row);
    }
    if (op.op == Op::EnumIndex) {
        column.put_enum_index(row, number);
    } else if (op.op == Op::EnumNumber) {
        column.put<int32_t>(row, number);
    } else {
        put_enum_text(op, column, row, number);
    }
    return p;
}

const uint8_t* Decoder::unix_time(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                                  const uint8_t* end) {
    const uint8_t* start = p;
    uint64_t value = 0;
    if (op.wire == Wire::Varint) {
        p = read_varint(p, end, safe_, value);
        if (p == nullptr) return fail(start, kVarint, &op);
    } else {
        const int width = fixed_width(op.wire);
        if (end - p < width) return fail(start, kTruncated, &op);
        value = width == 4 ? load<uint32_t>(p) : load<uint64_t>(p);
        p += width;
    }
    if (op.wire == Wire::Varint && !fits(op.scalar, value)) needs_raw_ = true;
    const bool is_unsigned = op.scalar == Scalar::Uint64 || op.scalar == Scalar::Fixed64;
    const int64_t ticks = integer_of(op.scalar, value);
    if ((is_unsigned && value > INT64_MAX) || !is_storable(op, ticks)) {
        unrepresentable(column, row);
    } else {
        column.put<int64_t>(row, ticks);
    }
    return p;
}

// The common form of a timestamp: seconds, then perhaps nanos, once. Null for every other form.
const uint8_t* Decoder::timestamp(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                                  const uint8_t* end) {
    if (end - p < 1 || *p > end - p - 1 || *p >= 0x80 || column.merge_row == row || depth_ <= 0) {
        return nullptr;
    }
    const uint8_t* body = p + 1;
    const uint8_t* stop = body + *p;
    uint64_t seconds = 0;
    uint64_t nanos = 0;
    const uint8_t* at = body;
    if (at < stop && *at == 0x08) {
        at = read_varint(at + 1, stop, safe_, seconds);
        if (at == nullptr) return nullptr;
    }
    if (at < stop && *at == 0x10) {
        at = read_varint(at + 1, stop, safe_, nanos);
        if (at == nullptr) return nullptr;
    }
    const auto whole = static_cast<int64_t>(seconds);
    const auto tick = static_cast<uint64_t>(op.tick);
    int64_t ticks = 0;
    if (at != stop || nanos >= kNanos ||
        !ticks_of(whole, op.unit, static_cast<int64_t>(nanos / tick), ticks) ||
        !is_storable(op, ticks)) {
        return nullptr;
    }
    if (nanos % tick != 0) needs_raw_ = true;
    column.put<int64_t>(row, ticks);
    column.merge_row = row;
    column.merge_data = body;
    column.merge_size = static_cast<size_t>(stop - body);
    return stop;
}

const uint8_t* Decoder::text(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                             const uint8_t* end) {
    const uint8_t* start = p;
    size_t size = 0;
    p = read_length(p, end, size);
    if (p == nullptr) return fail(start, kTruncated, &op);
    const uint8_t* next = p + size;
    const bool fixed = column.layout == Layout::Fixed;
    switch (op.op) {
        case Op::LargeUtf8:
        case Op::LossyUtf8: {
            uint8_t* to = column.begin_text(row, size);
            const bool ascii = copy_is_ascii(to, p, size, static_cast<size_t>(limit_ - p));
            if (__builtin_expect(!ascii, 0) && !is_utf8(p, size)) {
                if (op.op == Op::LargeUtf8) return fail(p, kUtf8, &op);
                unrepresentable(column, row);
                return next;
            }
            column.end_text(row, size);
            return next;
        }
        case Op::LargeBytes:
            copy(column.begin_text(row, size), p, size, static_cast<size_t>(limit_ - p));
            column.end_text(row, size);
            return next;
        default:
            break;
    }
    if (fixed && size == 0 && op.implicit) {
        column.reset_row(row);  // absent, for a field without presence
        return next;
    }
    const auto width = static_cast<size_t>(column.width);
    uint8_t* place = column.values.data() + static_cast<size_t>(row) * width;
    bool good = false;
    if (op.op == Op::FixedBytes) {
        good = size == width && (!op.utf8 || is_utf8(p, size));
        if (good) std::memcpy(place, p, width);
    } else if (op.op == Op::Decimal) {
        good = parse_decimal(p, size, op.precision, op.scale, place, column.width);
    } else if (op.op == Op::Hex && fixed) {
        good = size == 2 * width && parse_hex(p, size, place);
    } else {
        uint8_t* to = nullptr;
        if (fixed) {
            scratch_.resize(size + kParseSlack);
            to = reinterpret_cast<uint8_t*>(scratch_.data());
        } else {
            to = column.begin_text(row, size);
        }
        int64_t length = -1;
        if (op.op == Op::Hex) {
            length = parse_hex(p, size, to) ? static_cast<int64_t>(size / 2) : -1;
        } else if (op.op == Op::Base64) {
            length = parse_base64(p, size, to);
        } else {
            length = parse_base32(p, size, to);
        }
        good = length >= 0;
        if (good && fixed) {
            good = static_cast<size_t>(length) == width;
            if (good) std::memcpy(place, to, width);
        } else if (good) {
            column.end_text(row, static_cast<size_t>(length));
            return next;
        }
    }
    if (good) {
        column.mark(row);
        return next;
    }
    // Digits are ASCII: what is no UTF-8 is among the others.
    if (op.utf8 && !is_utf8(p, size)) return fail(p, kUtf8, &op);
    unrepresentable(column, row);
    return next;
}

const uint8_t* Decoder::sub_message(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                                    const uint8_t* end) {
    const uint8_t* start = p;
    if (depth_ <= 0) return fail(start, too_deep_.c_str(), &op);
    const uint8_t* stop = end;
    uint32_t group = op.number;
    if (op.wire == Wire::Length) {
        size_t size = 0;
        p = read_length(p, end, size);
        if (p == nullptr) return fail(start, kTruncated, &op);
        stop = p + size;
        group = 0;
    }
    if (op.op == Op::Wrapper) {
        if (!column.is_valid(row)) {
            // Present with the default, until the field within says otherwise.
            if (column.layout == Layout::Text32 || column.layout == Layout::Text64) {
                column.put_text(row, {});
            }
            column.mark(row);
        }
    } else if (op.op == Op::Flatten) {
        for (FieldOp* inner : op.message->touched) {
            if (inner->repeated) {
                inner->column->open_list(row);
            } else if (!inner->column->is_valid(row)) {
                Column& value = *inner->column;
                if (inner->op == Op::EnumText) {
                    put_enum_text(*inner, value, row, 0);
                } else if (value.layout == Layout::Text32 || value.layout == Layout::Text64) {
                    value.put_text(row, {});
                }
                value.mark(row);
            }
        }
    } else {
        column.mark(row);
    }
    --depth_;
    p = message(*op.message, row, p, stop, group);
    ++depth_;
    if (p != nullptr && op.op == Op::Flatten &&
        std::ranges::none_of(op.message->columns,
                             [row](const Column* inner) { return inner->is_valid(row); })) {
        needs_raw_ = true;  // present and empty: no column can tell
    }
    return p;
}

// The item is the one that the entry is to become.
void Decoder::begin_entry(FieldOp& op, int64_t item, const uint8_t* p, const uint8_t* end) {
    const Column& list = *op.column;
    if (item == list.offset_at(list.next - 1)) op.entries.clear();
    op.entries.emplace_back(p, static_cast<size_t>(end - p));
    drop_item_ = false;
}

// Takes back an entry whose value is a number that its closed enum does not know. (A closed enum
// outside of maps says so too, also one in a message that is the value.)
void Decoder::end_entry(FieldOp& op, int64_t item) {
    if (op.op != Op::Map || !op.message->fields[1]->closed) return;
    op.column->truncate_items(item);
    op.entries.pop_back();
}

// Of entries with one key the last counts. Entries are rewritten only where a key really repeats.
bool Decoder::drop_repeated_keys(FieldOp& op, int64_t row) {
    const size_t count = op.entries.size();
    if (count < 2) return true;
    Column& key = *op.message->fields[0]->column;
    const int64_t begin = op.column->offset_at(row);
    const auto key_at = [&](size_t i) -> std::string_view {
        const int64_t at = begin + static_cast<int64_t>(i);
        const auto* data = reinterpret_cast<const char*>(key.values.data());
        if (key.layout == Layout::Bit) {
            const bool set = ((key.values.data()[at >> 3] >> (at & 7)) & 1) != 0;
            return set ? "1" : "0";
        }
        if (key.layout == Layout::Fixed) {
            const auto width = static_cast<size_t>(key.width);
            return {data + static_cast<size_t>(at) * width, width};
        }
        const int64_t from = key.offset_at(at);
        return {data + from, static_cast<size_t>(key.offset_at(at + 1) - from)};
    };
    if (key.layout == Layout::Text32 || key.layout == Layout::Text64)
        key.pad_to(op.column->items->rows);
    constexpr size_t kFew = 8;
    std::vector<size_t> order;
    bool repeated = false;
    if (count <= kFew) {
        for (size_t i = 1; i < count && !repeated; ++i) {
            for (size_t j = 0; j < i && !repeated; ++j) repeated = key_at(i) == key_at(j);
        }
        if (!repeated) return true;
    }
    order.resize(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return key_at(a) < key_at(b); });
    std::vector<bool> dead(count);
    for (size_t i = 1; i < count; ++i) {
        if (key_at(order[i - 1]) == key_at(order[i])) dead[order[i - 1]] = repeated = true;
    }
    if (!repeated) return true;
    std::vector<std::pair<const uint8_t*, size_t>> kept;
    for (size_t i = 0; i < count; ++i) {
        if (!dead[i]) kept.push_back(op.entries[i]);
    }
    op.column->truncate_items(begin);
    op.entries = kept;
    --depth_;
    for (const auto& [data, size] : kept) {
        const int64_t item = op.column->push_item(row);
        if (message(*op.message, item, data, data + size, 0) == nullptr) return false;
    }
    ++depth_;
    return true;
}

const uint8_t* Decoder::packed(FieldOp& op, int64_t row, const uint8_t* p, const uint8_t* end) {
    const uint8_t* start = p;
    size_t size = 0;
    p = read_length(p, end, size);
    if (p == nullptr) return fail(start, kTruncated, &op);
    const uint8_t* stop = p + size;
    Column& list = *op.column;
    Column& value = *op.value;
    list.open_list(row);
    Domain& items = *list.items;
    const int width = fixed_width(op.wire);
    if (width != 0 && size % static_cast<size_t>(width) != 0) return fail(start, kTruncated, &op);
    // A varint has at least one byte. They are counted only where there may be no room for so many.
    auto most = static_cast<int64_t>(width == 0 ? size : size / static_cast<size_t>(width));
    if (items.rows + most > items.capacity) {
        if (width == 0) most = static_cast<int64_t>(count_varints(p, size));
        if (items.rows + most > items.capacity) items.grow(items.rows + most);
    }
    if (!value.nullable && !op.closed) {
        if (op.op == Op::Fixed32 || op.op == Op::Fixed64) {
            uint8_t* to = value.values.data() + items.rows * width;
            if (size != 0) std::memcpy(to, p, size);
            items.rows += most;
            fetch_behind_run(to + size, static_cast<int64_t>(size));
            return stop;
        }
        const std::optional<PackedKind> kind = packed_kind(op.op);
        if (kind) {
            const bool narrow = *kind == PackedKind::Varint32 || *kind == PackedKind::ZigZag32;
            uint8_t* to = value.values.data() + items.rows * (narrow ? 4 : 8);
            const uint8_t* bad = p;
            const uint64_t bias =
                op.scalar == Scalar::Int32 || op.scalar == Scalar::Enum ? uint64_t{1} << 31 : 0;
            uint64_t over = 0;
            const int64_t count = read_packed(*kind, p, stop, limit_, to, bias, over, bad);
            if (count < 0) return fail(bad, kVarint, &op);
            if (over != 0) needs_raw_ = true;
            items.rows += count;
            const int64_t bytes = count * (narrow ? 4 : 8);
            fetch_behind_run(to + bytes, bytes);
            return stop;
        }
    }
    while (p < stop) {
        const int64_t item = list.push_item(row);
        p = step(op, value, item, p, stop);
        if (p == nullptr) return nullptr;
    }
    return p;
}

void Decoder::enter_oneof(FieldOp& op, int64_t row) {
    Oneof& oneof = *op.oneof;
    if (oneof.row == row && oneof.member == &op) return;
    if (oneof.row == row && oneof.member->op != Op::Skip) {
        if (oneof.member->op == Op::Flatten) {
            leave_flattened(*oneof.member->message, row);
        } else {
            oneof.member->column->reset_row(row);
        }
    }
    oneof.row = row;
    oneof.member = &op;
    if (oneof.case_column != nullptr) {
        oneof.case_column->put_enum_index(row, static_cast<int32_t>(op.number));
    }
}

// Fields 1, 2, ... that are int64 (the first of a pair) or int32; false where the bytes are
// malformed.
bool Decoder::small_integers(const uint8_t* p, const uint8_t* end, std::span<int64_t> values) {
    while (p < end) {
        const uint8_t* start = p;
        uint32_t tag = 0;
        p = read_tag(p, end, tag);
        if (p == nullptr || tag >> 3 == 0) return fail(start, kTag) != nullptr;
        const uint32_t number = tag >> 3;
        if (number <= values.size() && (tag & 7) == static_cast<uint32_t>(Wire::Varint)) {
            uint64_t value = 0;
            p = read_varint(p, end, value);
            if (p == nullptr) return fail(start, kVarint) != nullptr;
            const bool wide = values.size() == 2 && number == 1;
            values[number - 1] = wide ? static_cast<int64_t>(value) : static_cast<int32_t>(value);
        } else {
            p = skip(tag, p, end, depth_ - 1);
            if (p == nullptr) return false;
            needs_raw_ = true;
        }
    }
    return true;
}

const uint8_t* Decoder::well_known(FieldOp& op, Column& column, int64_t row, const uint8_t* p,
                                   const uint8_t* end) {
    const uint8_t* start = p;
    if (depth_ <= 0) return fail(start, too_deep_.c_str(), &op);
    const uint8_t* next = nullptr;
    size_t size = 0;
    if (op.wire == Wire::Length) {
        p = read_length(p, end, size);
        if (p == nullptr) return fail(start, kTruncated, &op);
        next = p + size;
    } else {
        next = check(op.message, p, end, op.number, depth_ - 1);
        if (next == nullptr) return fail(start, kTruncated, &op);
        // Kept without the end tag, which is as long as the start tag was.
        size =
            static_cast<size_t>(next - p) - static_cast<size_t>((std::bit_width(op.tag) + 6) / 7);
    }
    if (column.merge_row == row) {
        // Messages merge as their bytes concatenate.
        if (column.merge_data != reinterpret_cast<const uint8_t*>(column.merged.data())) {
            column.merged.assign(reinterpret_cast<const char*>(column.merge_data),
                                 column.merge_size);
        }
        column.merged.append(reinterpret_cast<const char*>(p), size);
        p = reinterpret_cast<const uint8_t*>(column.merged.data());
        size = column.merged.size();
    }
    const uint8_t* stop = p + size;
    std::array<int64_t, 4> parts{};
    const auto integers = [&](size_t count) {
        if (small_integers(p, stop, std::span(parts).first(count))) return true;
        at_ = start;  // merged bytes lie nowhere in the payload
        return false;
    };
    bool good = true;
    switch (op.op) {
        case Op::Timestamp:
        case Op::Duration: {
            if (!integers(2)) return nullptr;
            const auto [seconds, nanos] = std::pair(parts[0], parts[1]);
            constexpr auto kMost = static_cast<int64_t>(kNanos) - 1;
            const int64_t tick = op.tick;
            const int64_t low = op.op == Op::Timestamp || seconds > 0 ? 0 : -kMost;
            const int64_t high = op.op == Op::Duration && seconds < 0 ? 0 : kMost;
            int64_t ticks = 0;
            good = nanos >= low && nanos <= high &&
                   ticks_of(seconds, op.unit, nanos / tick, ticks) &&
                   (op.op == Op::Duration || is_storable(op, ticks));
            if (good && nanos % tick != 0) needs_raw_ = true;
            if (good) column.put<int64_t>(row, ticks);
            break;
        }
        case Op::Date: {
            int32_t days = 0;
            if (!integers(3)) return nullptr;
            good = days_of_date(parts[0], parts[1], parts[2], days);
            if (good) column.put<int32_t>(row, days);
            break;
        }
        case Op::TimeOfDay: {
            if (!integers(4)) return nullptr;
            const auto& [hours, minutes, seconds, nanos] = parts;
            const int64_t tick = op.tick;
            good = hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60 && seconds >= 0 &&
                   seconds < 60 && nanos >= 0 && nanos < 1'000'000'000;
            if (good && nanos % tick != 0) needs_raw_ = true;
            if (good) {
                column.put<int64_t>(
                    row, ((hours * 60 + minutes) * 60 + seconds) * op.unit + nanos / tick);
            }
            break;
        }
        case Op::Json: {
            scratch_.clear();
            const JsonResult result = json_of_message(op.json, p, size, depth_ - 1, scratch_);
            if (result == JsonResult::Malformed) return fail(start, "malformed JSON value", &op);
            good = result != JsonResult::NoJson;
            if (good) column.put_text(row, scratch_);
            if (result == JsonResult::Inexact) needs_raw_ = true;
            break;
        }
        default: {
            if (op.wire == Wire::Length && check(op.message, p, stop, 0, depth_ - 1) == nullptr) {
                at_ = start;
                return nullptr;
            }
            column.put_text(row, {reinterpret_cast<const char*>(p), size});
            break;
        }
    }
    if (!good) unrepresentable(column, row);
    column.merge_row = row;
    column.merge_data = p;
    column.merge_size = size;
    return next;
}

const uint8_t* Decoder::skip(uint32_t tag, const uint8_t* p, const uint8_t* end, int depth) {
    const uint8_t* start = p;
    switch (static_cast<Wire>(tag & 7)) {
        case Wire::Varint: {
            uint64_t value = 0;
            p = read_varint(p, end, value);
            return p == nullptr ? fail(start, kVarint) : p;
        }
        case Wire::Fixed64:
            return end - p < 8 ? fail(start, kTruncated) : p + 8;
        case Wire::Fixed32:
            return end - p < 4 ? fail(start, kTruncated) : p + 4;
        case Wire::Length: {
            size_t size = 0;
            p = read_length(p, end, size);
            return p == nullptr ? fail(start, kTruncated) : p + size;
        }
        case Wire::Start:
            if (depth <= 0) return fail(start, too_deep_.c_str());
            return check(nullptr, p, end, tag >> 3, depth - 1);
        case Wire::End:
            return fail(start, kGroup);
    }
    return fail(start, "unknown wire type");
}

// Walks a message that no column takes; with its program (if it is known) as strictly as `message`.
const uint8_t* Decoder::check(const Message* message, const uint8_t* p, const uint8_t* end,
                              uint32_t group, int depth) {
    while (true) {
        if (p >= end) return group == 0 ? p : fail(p, kTruncated);
        const uint8_t* start = p;
        uint32_t tag = 0;
        p = read_tag(p, end, tag);
        if (p == nullptr || tag >> 3 == 0) return fail(start, kTag);
        const uint32_t number = tag >> 3;
        const auto wire = static_cast<Wire>(tag & 7);
        if (wire == Wire::End) return number == group ? p : fail(start, kGroup);
        const FieldOp* op = message == nullptr ? nullptr : message->find(number);
        if (op != nullptr && wire == Wire::Length && op->wire == Wire::Length) {
            size_t size = 0;
            p = read_length(p, end, size);
            if (p == nullptr) return fail(start, kTruncated);
            if (!check_content(*op, p, p + size, depth)) return nullptr;
            p += size;
        } else if (op != nullptr && wire == Wire::Length && op->repeated && is_scalar(*op)) {
            size_t size = 0;
            p = read_length(p, end, size);
            if (p == nullptr) return fail(start, kTruncated);
            const uint8_t* stop = p + size;
            while (p != stop) {
                p = skip(op->tag, p, stop, depth);
                if (p == nullptr) return nullptr;
            }
        } else if (op != nullptr && wire == Wire::Start && op->wire == Wire::Start) {
            if (depth <= 0) return fail(start, too_deep_.c_str(), op);
            p = check(op->message, p, end, number, depth - 1);
        } else {
            p = skip(tag, p, end, depth);
        }
        if (p == nullptr) return nullptr;
    }
}

bool Decoder::check_content(const FieldOp& op, const uint8_t* p, const uint8_t* end, int depth) {
    if (op.utf8 && !is_utf8(p, static_cast<size_t>(end - p))) {
        return fail(p, kUtf8, &op) != nullptr;
    }
    const bool is_message = op.message != nullptr || op.op == Op::Timestamp ||
                            op.op == Op::Duration || op.op == Op::Date || op.op == Op::TimeOfDay ||
                            op.op == Op::Json;
    if (!is_message) return true;
    if (depth <= 0) return fail(p, too_deep_.c_str(), &op) != nullptr;
    if (op.op == Op::Json) {
        scratch_.clear();
        const auto size = static_cast<size_t>(end - p);
        const bool good =
            json_of_message(op.json, p, size, depth - 1, scratch_) != JsonResult::Malformed;
        return good || fail(p, "malformed JSON value", &op) != nullptr;
    }
    // The other well-known messages have numbers only: nothing but their fields can be malformed.
    return check(op.message, p, end, 0, depth - 1) != nullptr;
}

}  // namespace cdp
