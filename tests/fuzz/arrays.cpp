#include "arrays.h"

#include <cstring>

#include "utf8.h"

namespace fuzz {

namespace {

bool bit(const void* bits, int64_t at) {
    return ((static_cast<const uint8_t*>(bits)[at >> 3] >> (at & 7)) & 1) != 0;
}

template <typename T>
T load(const void* data, int64_t at) {
    T value;
    std::memcpy(&value, static_cast<const uint8_t*>(data) + at * static_cast<int64_t>(sizeof value),
                sizeof value);
    return value;
}

bool is_text(const Schema& schema) {
    return schema.format == "u" || schema.format == "z" || schema.format == "U" ||
           schema.format == "Z";
}
bool is_list(const Schema& schema) {
    return schema.format == "+l" || schema.format == "+L" || schema.format == "+m";
}
bool is_wide(const Schema& schema) {
    return schema.format == "U" || schema.format == "Z" || schema.format == "+L";
}

std::pair<int64_t, int64_t> range(const Schema& schema, const ArrowArray& array, int64_t row) {
    const int64_t at = row + array.offset;
    const void* offsets = array.buffers[1];
    if (is_wide(schema)) return {load<int64_t>(offsets, at), load<int64_t>(offsets, at + 1)};
    return {load<int32_t>(offsets, at), load<int32_t>(offsets, at + 1)};
}

void touch(std::string_view bytes) {
    char all = 0;
    for (const char byte : bytes) all = static_cast<char>(all ^ byte);
    asm volatile("" : : "r"(all));  // read, whatever the compiler thinks of it
}

}  // namespace

int64_t width_of(const Schema& schema) {
    const std::string& format = schema.format;
    if (format.starts_with("w:")) return std::stoll(format.substr(2));
    if (format.starts_with("d:")) return format.ends_with(",256") ? 32 : 16;
    return format == "i" || format == "I" || format == "f" || format == "tdD" ? 4 : 8;
}

bool is_valid(const ArrowArray& array, int64_t row) {
    return array.null_count == 0 || array.buffers[0] == nullptr ||
           bit(array.buffers[0], row + array.offset);
}

std::string_view text_at(const Schema& schema, const ArrowArray& array, int64_t row) {
    if (schema.dictionary != nullptr) {
        const auto index = load<int32_t>(array.buffers[1], row + array.offset);
        return text_at(*schema.dictionary, *array.dictionary, index);
    }
    const auto [begin, end] = range(schema, array, row);
    return {static_cast<const char*>(array.buffers[2]) + begin, static_cast<size_t>(end - begin)};
}

void validate(const Schema& schema, const ArrowArray& array) {
    const auto check = [&schema](bool holds, const char* what) {
        expect(holds, [&] { return "column " + schema.name + ": " + what; });
    };
    int64_t nulls = 0;
    for (int64_t row = 0; row < array.length; ++row) nulls += is_valid(array, row) ? 0 : 1;
    check(array.null_count == nulls, "a wrong count of nulls");
    check(nulls == 0 || schema.nullable(), "a null in a column that has none");
    check(static_cast<size_t>(array.n_children) == schema.children.size(), "wrong children");
    if (schema.dictionary != nullptr) {
        validate(*schema.dictionary, *array.dictionary);
        for (int64_t row = 0; row < array.length; ++row) {
            const auto index = load<int32_t>(array.buffers[1], row + array.offset);
            check(index >= 0 && index < array.dictionary->length, "an index outside of its names");
        }
    } else if (is_text(schema) || is_list(schema)) {
        int64_t last = range(schema, array, -array.offset).first;
        check(last == 0, "offsets that do not begin with 0");
        for (int64_t row = 0; row < array.length; ++row) {
            const auto [begin, end] = range(schema, array, row);
            check(begin == last && end >= begin, "offsets that fall");
            last = end;
            if (!is_text(schema)) continue;
            const std::string_view text = text_at(schema, array, row);
            touch(text);
            const bool utf8 = schema.format == "u" || schema.format == "U";
            const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
            check(!utf8 || cdp::is_utf8(bytes, text.size()), "a text that is not UTF-8");
        }
        check(!is_list(schema) || array.children[0]->length == last, "items of no list");
    } else if (schema.format == "b") {
        touch({static_cast<const char*>(array.buffers[1]),
               static_cast<size_t>((array.offset + array.length + 7) / 8)});
    } else if (schema.format == "+s") {
        for (int64_t i = 0; i < array.n_children; ++i) {
            check(array.children[i]->length == array.length, "children of another length");
        }
    } else {
        touch({static_cast<const char*>(array.buffers[1]),
               static_cast<size_t>((array.offset + array.length) * width_of(schema))});
    }
    for (size_t i = 0; i < schema.children.size(); ++i) {
        validate(*schema.children[i], *array.children[i]);
    }
}

std::string difference(const Schema& schema, const ArrowArray& a, int64_t row_of_a,
                       const ArrowArray& b, int64_t row_of_b) {
    const bool valid = is_valid(a, row_of_a);
    if (valid != is_valid(b, row_of_b)) return schema.name + (valid ? " (not null)" : " (null)");
    if (!valid) return "";
    if (schema.dictionary != nullptr || is_text(schema)) {
        return text_at(schema, a, row_of_a) == text_at(schema, b, row_of_b) ? "" : schema.name;
    }
    if (is_list(schema)) {
        const auto [begin, end] = range(schema, a, row_of_a);
        const auto [begin_of_b, end_of_b] = range(schema, b, row_of_b);
        if (end - begin != end_of_b - begin_of_b) return schema.name + " (length)";
        for (int64_t i = 0; i < end - begin; ++i) {
            const std::string found = difference(*schema.children[0], *a.children[0], begin + i,
                                                 *b.children[0], begin_of_b + i);
            if (!found.empty()) return schema.name + "[" + std::to_string(i) + "]." + found;
        }
        return "";
    }
    if (schema.format == "+s") {
        for (size_t i = 0; i < schema.children.size(); ++i) {
            // A struct's own offset counts for its children too.
            const std::string found =
                difference(*schema.children[i], *a.children[i], row_of_a + a.offset, *b.children[i],
                           row_of_b + b.offset);
            if (!found.empty()) return schema.name + "." + found;
        }
        return "";
    }
    const int64_t at = row_of_a + a.offset;
    const int64_t at_of_b = row_of_b + b.offset;
    if (schema.format == "b") {
        return bit(a.buffers[1], at) == bit(b.buffers[1], at_of_b) ? "" : schema.name;
    }
    const auto width = static_cast<size_t>(width_of(schema));
    const auto* value =
        static_cast<const uint8_t*>(a.buffers[1]) + at * static_cast<int64_t>(width);
    const auto* value_of_b =
        static_cast<const uint8_t*>(b.buffers[1]) + at_of_b * static_cast<int64_t>(width);
    return std::memcmp(value, value_of_b, width) == 0 ? "" : schema.name;
}

}  // namespace fuzz
