#include "target.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "arrays.h"
#include "decoder.h"
#include "encoder.h"
#include "export.h"
#include "parquet/file.h"
#include "random_arrays.h"

namespace fuzz {

namespace {

using Rows = std::vector<std::string_view>;

// What became of payloads: batches, and where in them each payload that was taken stands.
struct Decoded {
    std::vector<Array> batches;
    std::vector<std::pair<size_t, int64_t>> rows;
    std::vector<int64_t> taken;  // the payload of each row
    std::vector<cdp::Rejected> rejected;

    const ArrowArray& batch_of(size_t row) const { return *batches[rows[row].first]; }
};

// As Codec::decode in module.cpp does it.
Decoded decode(Table& table, std::span<const cdp::Payload> payloads, cdp::Limits limits = {},
               std::span<const std::string> registry_indexes = {}) {
    cdp::Program& program = *table.program;
    cdp::Decoder decoder(program, limits, registry_indexes);
    Decoded decoded;
    size_t done = 0;
    do {
        const size_t before = done;
        done = decoder.run(payloads, done, false, decoded.rejected);
        decoded.batches.emplace_back();
        cdp::export_batch(program, *decoded.batches.back());
        expect(done > before || payloads.empty(), "a batch that took no payload");
    } while (done < payloads.size());
    for (size_t i = 0; i < decoded.batches.size(); ++i) {
        validate(*table.schema, *decoded.batches[i]);
        for (int64_t row = 0; row < decoded.batches[i]->length; ++row) {
            decoded.rows.emplace_back(i, row);
        }
    }
    int64_t index = 0;
    for (const cdp::Rejected& bad : decoded.rejected) {
        expect(bad.row >= index, "rejected rows out of order");
        for (; index < bad.row; ++index) decoded.taken.push_back(index);
        ++index;
        const auto size = static_cast<int64_t>(payloads[static_cast<size_t>(bad.row)].size);
        expect(bad.offset >= 0 && bad.offset <= size, "an offset outside of the payload");
        expect(!bad.reason.empty(), "a payload rejected without a reason");
    }
    for (; index < static_cast<int64_t>(payloads.size()); ++index) decoded.taken.push_back(index);
    expect(decoded.taken.size() == decoded.rows.size(), "payloads that are nowhere");
    return decoded;
}

// Payloads of their own, as a sequence of bytes has them: nothing behind one may be read.
class Separate {
  public:
    explicit Separate(const Rows& rows) {
        for (const std::string_view row : rows) {
            memory_.push_back(std::make_unique<uint8_t[]>(row.size()));
            uint8_t* data = memory_.back().get();
            std::memcpy(data, row.data(), row.size());
            payloads.push_back({data, row.size(), data + row.size()});
        }
    }
    std::vector<cdp::Payload> payloads;

  private:
    std::vector<std::unique_ptr<uint8_t[]>> memory_;
};

// Payloads one behind the other, as a binary array has them: what is behind one may be read.
class Joined {
  public:
    explicit Joined(const Rows& rows) {
        size_t size = 0;
        for (const std::string_view row : rows) size += row.size();
        memory_ = std::make_unique<uint8_t[]>(size);
        size_t at = 0;
        for (const std::string_view row : rows) {
            uint8_t* data = memory_.get() + at;
            std::memcpy(data, row.data(), row.size());
            payloads.push_back({data, row.size(), memory_.get() + size});
            at += row.size();
        }
    }
    std::vector<cdp::Payload> payloads;

  private:
    std::unique_ptr<uint8_t[]> memory_;
};

void expect_equal(const Table& table, const Decoded& a, size_t row_of_a, const Decoded& b,
                  size_t row_of_b, const char* what) {
    const std::string found =
        difference(*table.schema, a.batch_of(row_of_a), a.rows[row_of_a].second,
                   b.batch_of(row_of_b), b.rows[row_of_b].second);
    expect(found.empty(), [&] {
        return std::string(what) + ": payload " + std::to_string(a.taken[row_of_a]) + ", column " +
               found;
    });
}

void expect_equal(const Table& table, const Decoded& a, const Decoded& b, const char* what) {
    expect(a.rows.size() == b.rows.size(), what);
    for (size_t row = 0; row < a.rows.size(); ++row) expect_equal(table, a, row, b, row, what);
}

class Encoded {
  public:
    Encoded(const Table& table, const ArrowArray& batch) {
        cdp::Encoder(*table.program, batch).run(*array_);
        static const Schema kBinary = [] {
            Schema schema;
            schema.format = "z";
            schema.name = "encoded";
            return schema;
        }();
        validate(kBinary, *array_);
        expect(array_->length == batch.length, "encoded: another number of rows");
        for (int64_t row = 0; row < array_->length; ++row) {
            rows.push_back(text_at(kBinary, *array_, row));
        }
    }
    Rows rows;

  private:
    Array array_;
};

// The same rows without the first few, as `slice` makes it.
ArrowArray slice(const ArrowArray& batch, int64_t first) {
    ArrowArray sliced = batch;
    sliced.offset += first;
    sliced.length -= first;
    sliced.release = nullptr;
    return sliced;
}

int64_t raw_column(const Table& table) {
    for (size_t i = 0; i < table.schema->children.size(); ++i) {
        if (table.schema->children[i]->name == table.spec.raw) return static_cast<int64_t>(i);
    }
    return -1;
}

// The bytes that `_raw` keeps of a row, if it does.
bool raw_of(const Table& table, const ArrowArray& batch, int64_t row, std::string_view& bytes) {
    const int64_t raw = raw_column(table);
    if (raw < 0) return false;
    const ArrowArray& column = *batch.children[raw];
    if (!is_valid(column, row + batch.offset)) return false;
    bytes = text_at(*table.schema->children[static_cast<size_t>(raw)], column, row + batch.offset);
    return true;
}

bool drops(const cdp::ProgramSpec& spec) {
    return std::any_of(spec.fields.begin(), spec.fields.end(), [](const cdp::FieldSpec& field) {
        return field.dropped || (field.program && drops(*field.program));
    });
}

// Decoded rows as messages are `taken`, decoded they are the same rows, and again the same bytes.
void check_way_back(Table& table, const Decoded& decoded, const Rows* sources) {
    std::vector<Encoded> encoded;
    Rows messages;
    try {
        for (const Array& batch : decoded.batches) {
            encoded.emplace_back(table, *batch);
            messages.insert(messages.end(), encoded.back().rows.begin(), encoded.back().rows.end());
        }
    } catch (const cdp::EncodeError& error) {
        throw Finding("a decoded row does not encode: row " + std::to_string(error.row) + ": " +
                      error.what());
    }
    for (size_t row = 0; row < messages.size(); ++row) {
        std::string_view raw;
        if (!raw_of(table, decoded.batch_of(row), decoded.rows[row].second, raw)) continue;
        expect(raw == messages[row], "_raw is not what was encoded");
        expect(sources == nullptr || raw == (*sources)[static_cast<size_t>(decoded.taken[row])],
               "_raw is not what was decoded");
    }
    const Separate again(messages);
    const Decoded twice = decode(table, again.payloads);
    for (const cdp::Rejected& bad : twice.rejected) {
        throw Finding("an encoded message does not decode: row " + std::to_string(bad.row) +
                      ", byte " + std::to_string(bad.offset) + ": " + bad.reason);
    }
    // What is dropped does not come back, and its oneof's case column with it.
    if (!drops(table.spec)) {
        expect_equal(table, decoded, twice, "decode(encode(decode(x))) is not decode(x)");
    }
    const ArrowArray& batch = *twice.batches.front();
    const int64_t first = batch.length == 0 ? 0 : batch.length / 3;
    const Encoded last(table, slice(batch, first));
    for (size_t row = 0; row < last.rows.size(); ++row) {
        expect(last.rows[row] == messages[row + static_cast<size_t>(first)],
               "encode(decode(encode(x))) is not encode(x)");
    }
}

void check_limits(Table& table, const Rows& rows, const Decoded& decoded, size_t choice) {
    const cdp::Limits limits{.max_depth = static_cast<int>(choice % 6),
                             .max_message_bytes = choice / 6 % 200};
    const Separate payloads(rows);
    const Decoded limited = decode(table, payloads.payloads, limits);
    size_t at = 0;
    for (size_t row = 0; row < limited.taken.size(); ++row) {
        const auto index = limited.taken[row];
        expect(rows[static_cast<size_t>(index)].size() <= limits.max_message_bytes,
               "a message over the limit was taken");
        while (at < decoded.taken.size() && decoded.taken[at] < index) ++at;
        expect(at < decoded.taken.size() && decoded.taken[at] == index,
               "a bad message was taken under a limit");
        expect_equal(table, decoded, at, limited, row, "a limit changes a row");
    }
    std::vector<bool> taken(rows.size());
    for (const int64_t index : decoded.taken) taken[static_cast<size_t>(index)] = true;
    for (const cdp::Rejected& bad : limited.rejected) {
        const auto index = static_cast<size_t>(bad.row);
        const bool too_large = rows[index].size() > limits.max_message_bytes;
        expect(too_large == (bad.reason.find("larger than the limit") != std::string::npos),
               "a wrong reason of size");
        expect(!taken[index] || too_large ||
                   bad.reason.find("deeper than the limit") != std::string::npos ||
                   bad.reason.ends_with("malformed JSON value"),
               [&] { return "a good message was rejected under a limit: " + bad.reason; });
    }
}

// A bound on the batch splits it, and changes no row.
void check_split(Table& table, const Rows& rows, const Decoded& decoded, size_t choice) {
    const Joined payloads(rows);
    size_t& most = table.program->batch.max_bytes;
    const size_t before = std::exchange(most, 1 + choice % 40'000);
    const Decoded split = decode(table, payloads.payloads);
    most = before;
    size_t at = 0;
    for (size_t row = 0; row < split.taken.size(); ++row, ++at) {
        while (at < decoded.taken.size() && decoded.taken[at] < split.taken[row]) ++at;
        expect(at < decoded.taken.size() && decoded.taken[at] == split.taken[row],
               "a bad message was taken in a split batch");
        expect_equal(table, decoded, at, split, row, "a split batch changes a row");
    }
}

// Behind the Schema Registry's prefix a message is the same.
void check_prefix(Table& table, const Rows& rows, const Decoded& decoded, size_t choice) {
    static const std::array<std::string, 2> kIndexes{std::string("\x02\x00", 2),
                                                     std::string("\0", 1)};
    std::vector<std::string> prefixed;
    for (const std::string_view row : rows) {
        prefixed.push_back(std::string("\0\0\0\x01\x02", 5) + kIndexes[choice % 2]);
        prefixed.back() += row;
    }
    const Separate payloads(Rows(prefixed.begin(), prefixed.end()));
    const Decoded same = decode(table, payloads.payloads, {}, kIndexes);
    expect(decoded.taken == same.taken, "behind a prefix other messages are taken");
    expect_equal(table, decoded, same, "behind a prefix");
    const Separate bare(rows);
    decode(table, bare.payloads, {}, kIndexes);
}

// Whether a top-level column holds what was encoded, whatever it was.
bool is_plain(const cdp::FieldSpec& field) {
    static const std::vector<std::string_view> kKinds{
        "double", "float",   "int32",   "int64",    "uint32",   "uint64", "sint32", "sint64",
        "bool",   "fixed32", "fixed64", "sfixed32", "sfixed64", "string", "bytes",
    };
    const bool kind = std::find(kKinds.begin(), kKinds.end(), field.kind) != kKinds.end();
    const bool encoding = field.encoding.empty() || field.encoding == "hex" ||
                          field.encoding == "base64" || field.encoding == "base32" ||
                          field.encoding.starts_with("unix_");
    return kind && encoding && field.oneof.empty() && !field.dropped;
}

void check_plain_columns(const Table& table, const ArrowArray& batch, const Decoded& decoded) {
    for (size_t i = 0; i < table.schema->children.size(); ++i) {
        const Schema& schema = *table.schema->children[i];
        const auto field =
            std::find_if(table.spec.fields.begin(), table.spec.fields.end(),
                         [&schema](const auto& one) { return one.column == schema.name; });
        if (field == table.spec.fields.end() || !is_plain(*field)) continue;
        for (int64_t row = 0; row < batch.length; ++row) {
            std::string_view raw;
            if (raw_of(table, batch, row, raw)) continue;
            const std::string found = difference(schema, *batch.children[i], row + batch.offset,
                                                 *decoded.batches.front()->children[i], row);
            expect(found.empty(), [&] {
                return "encoded and decoded a value is another: row " + std::to_string(row) +
                       ", column " + found;
            });
        }
    }
}

// Writes a batch to Parquet, whole and in pieces, without a codec.
void check_parquet(const Table& table, const ArrowArray& batch) {
    namespace parquet = cdp::parquet;
    parquet::Layout layout(parquet::leaves_of(table.schema->arrow), 0);
    for (parquet::Leaf& leaf : layout.leaves)
        leaf.bloom_filter = leaf.physical != parquet::Physical::Boolean;
    layout.codec.has_fast = true;
    layout.codec.compress = [](std::span<const uint8_t> body, bool fast, const auto& take) {
        std::vector<uint8_t> made(body.begin(), body.end());
        if (fast && body.size() % 2 == 0) made.resize(2 * body.size());
        take(made);
    };
    parquet::File file(layout);
    for (const int64_t most : {batch.length, int64_t{1}, int64_t{3}}) {
        for (int64_t row = 0; row < batch.length;) {
            ArrowArray piece = batch;
            piece.offset += row;
            piece.length = std::min(most, batch.length - row);
            piece.release = [](ArrowArray*) {};
            row += piece.length;
            file.append(piece, static_cast<size_t>(piece.length));
        }
        expect(file.rows() == batch.length, "rows are missing in a row group");
        expect(batch.length == 0 || file.held() > 0, "rows that take no memory");
        file.end_row_group();
        file.settle();
    }
    file.finish({{"key", "value"}}, "fuzz");
    std::vector<uint8_t> bytes(file.ready(SIZE_MAX));
    file.take(bytes.data(), bytes.size());
    expect(static_cast<int64_t>(bytes.size()) == file.size(),
           "a file of another size than it says");
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    expect(text.starts_with("PAR1") && text.ends_with("PAR1"), "a file without its magic");
}

}  // namespace

void run_decoder(Table& table, std::span<const std::string> inputs, size_t choice) {
    Rows rows(inputs.begin(), inputs.end());
    const size_t good = table.seeds.size();
    if (good != 0) {
        rows.insert(rows.begin(), table.seeds[choice % good]);
        rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 2),
                    table.seeds[choice / good % good]);
        rows.push_back(table.seeds[choice / good / good % good]);
    }
    const Separate separate(rows);
    const Decoded decoded = decode(table, separate.payloads);

    for (const Array& batch : decoded.batches) check_parquet(table, *batch);

    const Joined joined(rows);
    const Decoded same = decode(table, joined.payloads);
    expect(decoded.taken == same.taken, "an array's payloads are taken otherwise than a list's");
    for (size_t i = 0; i < decoded.rejected.size(); ++i) {
        const cdp::Rejected& a = decoded.rejected[i];
        const cdp::Rejected& b = same.rejected[i];
        expect(a.offset == b.offset && a.reason == b.reason, [&] {
            return "an array's payload is rejected for another reason: " + a.reason + "; " +
                   b.reason;
        });
    }
    expect_equal(table, decoded, same, "an array's payloads and a list's");

    if (!decoded.rejected.empty()) {
        Rows taken;
        for (const int64_t index : decoded.taken) taken.push_back(rows[static_cast<size_t>(index)]);
        const Separate alone(taken);
        const Decoded clean = decode(table, alone.payloads);
        expect(clean.rejected.empty(), "a message is rejected without its bad neighbours");
        expect_equal(table, decoded, clean, "a rejected row changes its neighbours");
    }
    check_limits(table, rows, decoded, choice);
    check_split(table, rows, decoded, choice);
    check_prefix(table, rows, decoded, choice);
    check_way_back(table, decoded, &rows);
}

void run_encoder(Table& table, const std::string& input) {
    Choices choices(input);
    const RandomBatch batch = random_batch(table, choices);
    const int64_t rows = batch.array->length;
    if (!batch.dubious) check_parquet(table, *batch.array);
    try {
        const Encoded encoded(table, *batch.array);
        const Separate payloads(encoded.rows);
        const Decoded decoded = decode(table, payloads.payloads);
        expect(batch.dubious || decoded.rejected.empty(), [&] {
            return "an encoded batch does not decode: " + decoded.rejected.front().reason;
        });
        if (!batch.dubious) check_plain_columns(table, *batch.array, decoded);
        check_way_back(table, decoded, &encoded.rows);
    } catch (const cdp::EncodeError& error) {
        expect(error.row >= 0 && error.row < rows, "an error of a row that there is not");
        expect(*error.what() != '\0', "an error without a reason");
    }
}

}  // namespace fuzz
