#include "leaf.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace cdp::parquet {

namespace {

struct Types {
    Source source;
    Physical physical;
    size_t width;
    Order order;
};

std::vector<size_t> numbers_in(std::string_view text) {
    std::vector<size_t> numbers;
    const char* end = text.data() + text.size();
    for (const char* p = text.data(); p < end; ++p) {
        size_t number = 0;
        const auto [next, error] = std::from_chars(p, end, number);
        if (error != std::errc{}) break;
        numbers.push_back(number);
        p = next;
    }
    return numbers;
}

// As many bytes as the digits of a decimal need, with a sign.
size_t bytes_for(size_t digits) {
    constexpr double kBitsOfDigit = 3.3219280948873623;
    return static_cast<size_t>(static_cast<double>(digits) * kBitsOfDigit + 1) / 8 + 1;
}

// https://arrow.apache.org/docs/format/CDataInterface.html#data-type-description-format-strings
Types types_of(std::string_view format) {
    using enum Source;
    if (format == "b") return {Bits, Physical::Boolean, 0, Order::Unsigned};
    if (format == "i" || format == "tdD") return {Four, Physical::Int32, 4, Order::Signed};
    if (format == "I") return {Four, Physical::Int32, 4, Order::Unsigned};
    if (format == "l" || format == "ttu" || format == "ttn" || format.starts_with("tD") ||
        format.starts_with("tsm") || format.starts_with("tsu") || format.starts_with("tsn")) {
        return {Eight, Physical::Int64, 8, Order::Signed};
    }
    if (format == "L") return {Eight, Physical::Int64, 8, Order::Unsigned};
    if (format.starts_with("tss")) return {Seconds, Physical::Int64, 8, Order::Signed};
    if (format == "f") return {Four, Physical::Float, 4, Order::Float};
    if (format == "g") return {Eight, Physical::Double, 8, Order::Float};
    if (format == "u" || format == "z") return {Text32, Physical::ByteArray, 0, Order::Bytes};
    if (format == "U" || format == "Z") return {Text64, Physical::ByteArray, 0, Order::Bytes};
    if (format.starts_with("w:")) {
        return {Fixed, Physical::FixedLenByteArray, numbers_in(format.substr(2)).at(0),
                Order::Bytes};
    }
    if (format.starts_with("d:")) {
        const auto numbers = numbers_in(format.substr(2));
        const size_t width = numbers.size() > 2 ? numbers[2] / 8 : 16;
        return {Decimal, Physical::FixedLenByteArray, width, Order::SignedBytes};
    }
    throw std::invalid_argument("no way to write the Arrow type '" + std::string(format) +
                                "' to Parquet");
}

// `name` is that in Parquet; a map's entries have none of their own there.
void add_leaves(const ArrowSchema& schema, const char* name, Leaf path, std::vector<Leaf>& leaves) {
    const std::string_view format = schema.format;
    if (name != nullptr) path.names.emplace_back(name);
    Node node;
    node.nullable = (schema.flags & ARROW_FLAG_NULLABLE) != 0;
    node.def = path.max_def;
    path.max_def += node.nullable ? 1 : 0;
    const bool is_map = format == "+m";
    const bool is_list = is_map || format == "+l" || format == "+L";
    if (is_list) {
        node.kind = format == "+L" ? Node::Kind::List64 : Node::Kind::List32;
        node.rep = ++path.max_rep;
        ++path.max_def;
        path.names.emplace_back(is_map ? "key_value" : "list");
    } else if (format == "+s") {
        node.kind = Node::Kind::Struct;
    } else {
        const bool names = schema.dictionary != nullptr;
        if (names && (format != "i" || std::string_view(schema.dictionary->format) != "u")) {
            throw std::invalid_argument("no way to write a dictionary of '" + std::string(format) +
                                        "' to Parquet");
        }
        const Types types = types_of(names ? schema.dictionary->format : format);
        path.source = names ? Source::Names : types.source;
        if (names) path.choice = Leaf::Choice::Dictionary;
        path.physical = types.physical;
        path.width = types.width;
        path.order = types.order;
        if (types.source == Source::Fixed) path.length = types.width;
        if (types.source == Source::Decimal) {
            path.length = std::min(types.width, bytes_for(numbers_in(format.substr(2)).at(0)));
        }
        path.path.push_back(node);
        leaves.push_back(std::move(path));
        return;
    }
    for (int64_t child = 0; child < schema.n_children; ++child) {
        const ArrowSchema& inner = *schema.children[child];
        node.child = static_cast<size_t>(child);
        Leaf longer = path;
        longer.path.push_back(node);
        const char* inner_name = is_map ? nullptr : is_list ? "element" : inner.name;
        add_leaves(inner, inner_name, std::move(longer), leaves);
    }
}

}  // namespace

std::string Leaf::name() const {
    std::string name;
    for (const std::string& part : names) name += (name.empty() ? "" : ".") + part;
    return name;
}

std::vector<Leaf> leaves_of(const ArrowSchema& schema) {
    std::vector<Leaf> leaves;
    for (int64_t column = 0; column < schema.n_children; ++column) {
        Leaf path;
        path.column = static_cast<size_t>(column);
        add_leaves(*schema.children[column], schema.children[column]->name, std::move(path),
                   leaves);
    }
    return leaves;
}

}  // namespace cdp::parquet
