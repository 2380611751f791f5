#include "random_arrays.h"

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "wire.h"

namespace fuzz {

namespace {

constexpr std::array<std::string_view, 20> kTexts{
    "",
    "a",
    "USDC",
    "na\xC3\xAFve",
    "\xE6\x97\xA5\xE6\x9C\xAC",
    "\xF0\x9F\x98\x80",
    "0",
    "-1",
    "1.50",
    "00",
    "AA==",
    "MZXW6",
    "\"\\\n",
    "1e3",
    "null",
    "-0",
    "123456",
    "x\x7F",
    "ascii and then \xC3\xA9",
    "forty bytes of plain text, or even more",
};
constexpr std::array<std::string_view, 8> kStructs{
    "{}",
    R"({"a":1})",
    R"({"a":{"b":[null,true]}})",
    R"({"":""})",
    R"({"x":-0.0,"y":1e300})",
    R"({"a":1,"a":2})",
    "{\"k\":\"\\u00e9\\ud83d\\ude00\"}",
    R"( { "a" : [ ] } )",
};
constexpr std::array<std::string_view, 8> kLists{
    "[]", "[1]", "[null,[],{}]", R"(["a",1.5,true])", "[[[[]]]]", "[1e308]", "[ ]", R"(["\ud800"])",
};
constexpr std::array<std::string_view, 8> kValues{
    "null", "true", "1.5", R"("text")", "{}", "[]", "-12345678901234567890", R"("\u0000")",
};
constexpr std::array<uint64_t, 12> kNumbers{
    0,        1,         UINT64_MAX, INT64_MAX,    uint64_t{1} << 63, UINT32_MAX,
    1u << 31, INT32_MAX, 127,        253402300800, 999'999'999,       0x7FF8000000000001,
};

// What the program makes of a column: which texts it takes.
struct Use {
    const cdp::FieldSpec* field = nullptr;
    bool raw = false;
};

using Uses = std::vector<std::pair<std::string_view, Use>>;

void add_uses(const cdp::ProgramSpec& spec, Uses& uses) {
    for (const cdp::FieldSpec& field : spec.fields) {
        if (field.encoding == "flatten" && field.program) {
            add_uses(*field.program, uses);
        } else if (!field.dropped) {
            uses.emplace_back(field.column, Use{&field, false});
        }
    }
    if (!spec.raw.empty()) uses.emplace_back(spec.raw, Use{nullptr, true});
}

struct Owned {
    std::array<const void*, 3> buffers{};
    std::array<std::unique_ptr<uint8_t[]>, 3> memory;  // as large as needed, and not a byte more
    std::vector<ArrowArray> children;
    std::vector<ArrowArray*> pointers;
    ArrowArray dictionary{};
};

void release(ArrowArray* array) {
    auto* owned = static_cast<Owned*>(array->private_data);
    for (ArrowArray& child : owned->children) {
        if (child.release != nullptr) child.release(&child);
    }
    if (owned->dictionary.release != nullptr) owned->dictionary.release(&owned->dictionary);
    array->release = nullptr;
    delete owned;
}

class Builder {
  public:
    Builder(const Table& table, Choices& choices) : table_(table), choices_(choices) {}

    bool dubious = false;

    // An array of `length` rows that may be read from an offset on.
    void build(const Schema& schema, const Use& use, int64_t length, ArrowArray& out) {
        auto made = std::make_unique<Owned>();
        Owned& owned = *made;
        out = ArrowArray{};
        out.length = length;
        out.offset = choices_.one_in(4) ? static_cast<int64_t>(choices_.below(10)) : 0;
        out.buffers = owned.buffers.data();
        out.release = release;
        out.private_data = made.release();
        const int64_t rows = out.offset + length;
        if (schema.nullable()) add_validity(out, owned, rows);
        if (schema.format == "+s") {
            out.n_buffers = 1;
            build_children(schema, use.field == nullptr ? nullptr : use.field->program.get(), rows,
                           out, owned);
        } else if (schema.format.starts_with("+")) {
            out.n_buffers = 2;
            build_list(schema, use, rows, out, owned);
        } else if (schema.dictionary != nullptr) {
            out.n_buffers = 2;
            build_dictionary(schema, use, rows, out, owned);
        } else if (schema.format == "u" || schema.format == "z") {
            out.n_buffers = 3;
            build_text<int32_t>(schema, use, rows, out, owned);
        } else if (schema.format == "U" || schema.format == "Z") {
            out.n_buffers = 3;
            build_text<int64_t>(schema, use, rows, out, owned);
        } else {
            out.n_buffers = 2;
            build_numbers(schema, rows, owned);
        }
    }

    // A struct of all columns; `spec` is null where the program does not say.
    void build_children(const Schema& schema, const cdp::ProgramSpec* spec, int64_t rows,
                        ArrowArray& out, Owned& owned) {
        Uses uses;
        if (spec != nullptr) add_uses(*spec, uses);
        begin_children(schema, out, owned);
        for (size_t i = 0; i < schema.children.size(); ++i) {
            Use use;
            for (const auto& [column, found] : uses) {
                if (column == schema.children[i]->name) use = found;
            }
            // A child may be longer than its parent.
            const int64_t more = choices_.one_in(16) ? 1 : 0;
            build(*schema.children[i], use, rows + more, owned.children[i]);
        }
    }

  private:
    static uint8_t* allocate(Owned& owned, size_t at, size_t bytes) {
        owned.memory[at] = std::make_unique<uint8_t[]>(bytes);
        owned.buffers[at] = owned.memory[at].get();
        return owned.memory[at].get();
    }

    static void begin_children(const Schema& schema, ArrowArray& out, Owned& owned) {
        owned.children.resize(schema.children.size());
        for (ArrowArray& child : owned.children) owned.pointers.push_back(&child);
        out.n_children = static_cast<int64_t>(owned.children.size());
        out.children = owned.pointers.data();
    }

    void add_validity(ArrowArray& out, Owned& owned, int64_t rows) {
        const size_t how = choices_.below(4);
        if (how == 0) return;  // all are there
        uint8_t* bits = allocate(owned, 0, static_cast<size_t>((rows + 7) / 8));
        for (int64_t i = 0; i < (rows + 7) / 8; ++i) bits[i] = how == 1 ? 0 : choices_.byte();
        for (int64_t row = 0; row < out.length; ++row) {
            const int64_t at = row + out.offset;
            out.null_count += ((bits[at >> 3] >> (at & 7)) & 1) == 0 ? 1 : 0;
        }
        if (choices_.one_in(4)) out.null_count = -1;  // not counted
    }

    uint64_t number() {
        if (choices_.one_in(3)) return kNumbers[choices_.below(kNumbers.size())];
        uint64_t value = 0;
        const std::string_view bytes = choices_.bytes(choices_.below(9));
        std::memcpy(&value, bytes.data(), bytes.size());
        return choices_.one_in(2) ? value : ~value;
    }

    void build_numbers(const Schema& schema, int64_t rows, Owned& owned) {
        if (schema.format == "b") {
            uint8_t* bits = allocate(owned, 1, static_cast<size_t>((rows + 7) / 8));
            for (int64_t i = 0; i < (rows + 7) / 8; ++i) bits[i] = choices_.byte();
            return;
        }
        const auto width = static_cast<size_t>(width_of(schema));
        const size_t size = static_cast<size_t>(rows) * width;
        uint8_t* values = allocate(owned, 1, size);
        for (size_t at = 0; at < size; at += 8) {
            const uint64_t word = number();
            std::memcpy(values + at, &word, std::min<size_t>(8, size - at));
        }
    }

    template <typename Offset>
    void build_text(const Schema& schema, const Use& use, int64_t rows, const ArrowArray& out,
                    Owned& owned) {
        std::string all;
        std::vector<Offset> offsets{0};
        for (int64_t row = 0; row < rows; ++row) {
            // Under a null there may be anything, and mostly is nothing.
            if (row < out.offset || is_valid(out, row - out.offset)) all += text(schema, use);
            offsets.push_back(static_cast<Offset>(all.size()));
        }
        std::memcpy(allocate(owned, 1, offsets.size() * sizeof(Offset)), offsets.data(),
                    offsets.size() * sizeof(Offset));
        if (all.empty() && choices_.one_in(2)) return;  // no buffer at all
        std::memcpy(allocate(owned, 2, all.size()), all.data(), all.size());
    }

    std::string text(const Schema& schema, const Use& use) {
        if (use.raw) return raw();
        const bool utf8 = schema.format == "u" || schema.format == "U";
        const cdp::FieldSpec* field = use.field;
        const bool odd = choices_.one_in(16);
        if (field != nullptr && !odd) {
            if (field->encoding == "serialized") {
                dubious = dubious || field->program != nullptr;
                return std::string(choices_.bytes(choices_.below(6)));
            }
            if (field->kind == "json") {
                const std::string& message = field->program->message;
                return std::string(message.ends_with(".Struct")      ? kStructs[choices_.below(8)]
                                   : message.ends_with(".ListValue") ? kLists[choices_.below(8)]
                                                                     : kValues[choices_.below(8)]);
            }
            if (field->enumeration) return name(*field->enumeration);
        }
        if (field != nullptr && field->encoding == "serialized") dubious = true;
        if (utf8) return std::string(kTexts[choices_.below(kTexts.size())]);
        return std::string(choices_.bytes(choices_.below(80)));
    }

    std::string raw() {
        if (choices_.one_in(2) && !table_.seeds.empty()) {
            return table_.seeds[choices_.below(table_.seeds.size())];
        }
        dubious = true;
        return std::string(choices_.bytes(choices_.below(20)));
    }

    std::string name(const cdp::EnumSpec& names) {
        if (choices_.one_in(4)) return std::to_string(static_cast<int32_t>(number()));
        if (names.values.empty()) return "0";
        return names.values[choices_.below(names.values.size())].second;
    }

    void build_dictionary(const Schema& schema, const Use& use, int64_t rows, ArrowArray& out,
                          Owned& owned) {
        const size_t count = choices_.below(4) + 1;
        build(*schema.dictionary, use, static_cast<int64_t>(count), owned.dictionary);
        out.dictionary = &owned.dictionary;
        auto* values =
            reinterpret_cast<int32_t*>(allocate(owned, 1, static_cast<size_t>(rows) * 4));
        for (int64_t row = 0; row < rows; ++row) {
            const bool there = row < out.offset || is_valid(out, row - out.offset);
            values[row] = there ? static_cast<int32_t>(choices_.below(count)) : -7;
        }
    }

    void build_list(const Schema& schema, const Use& use, int64_t rows, ArrowArray& out,
                    Owned& owned) {
        std::vector<int64_t> offsets{0};
        for (int64_t row = 0; row < rows; ++row) {
            const size_t most = choices_.one_in(8) ? 20 : 3;
            offsets.push_back(offsets.back() + static_cast<int64_t>(choices_.below(most)));
        }
        if (schema.format == "+L") {
            std::memcpy(allocate(owned, 1, offsets.size() * 8), offsets.data(), offsets.size() * 8);
        } else {
            const std::vector<int32_t> narrow(offsets.begin(), offsets.end());
            std::memcpy(allocate(owned, 1, narrow.size() * 4), narrow.data(), narrow.size() * 4);
        }
        begin_children(schema, out, owned);
        build(*schema.children[0], use, offsets.back(), owned.children[0]);
    }

    const Table& table_;
    Choices& choices_;
};

}  // namespace

RandomBatch random_batch(const Table& table, Choices& choices) {
    constexpr size_t kMostRows = 9;
    RandomBatch batch;
    Builder builder(table, choices);
    cdp::FieldSpec outermost;
    outermost.program = {std::shared_ptr<void>(), &table.spec};
    const auto rows = static_cast<int64_t>(choices.below(kMostRows));
    builder.build(*table.schema, Use{&outermost, false}, rows, *batch.array);
    batch.dubious = builder.dubious;
    return batch;
}

}  // namespace fuzz
