#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "utf8.h"
#include "wire.h"

namespace cdp {

namespace {

// Field numbers of google/protobuf/struct.proto.
enum ValueField : uint32_t {
    kNull = 1,
    kNumber = 2,
    kString = 3,
    kBool = 4,
    kStruct = 5,
    kList = 6
};
constexpr uint32_t kStructFields = 1;
constexpr uint32_t kListValues = 1;
constexpr uint32_t kEntryKey = 1;
constexpr uint32_t kEntryValue = 2;

constexpr uint32_t tag_of(uint32_t number, Wire wire) {
    return number << 3 | static_cast<uint32_t>(wire);
}

struct Node {
    uint32_t kind = 0;  // a ValueField, 0 for none
    double number = 0;
    bool boolean = false;
    std::string_view text;
    std::vector<std::pair<std::string_view, Node>> members;
    std::vector<Node> items;
};

class Reader {
  public:
    bool exact = true;

    bool structure(Node& node, const uint8_t* p, const uint8_t* end, int depth) {
        node.kind = kStruct;
        return each_field(p, end, [&](uint32_t tag, const uint8_t*& at) {
            std::string_view entry;
            if (tag != tag_of(kStructFields, Wire::Length)) return unknown(tag, at, end, depth);
            if (depth <= 0 || !bytes(at, end, entry)) return false;
            std::string_view key;
            Node value;
            const bool good =
                each_field(begin_of(entry), end_of(entry), [&](uint32_t inner, const uint8_t*& in) {
                    if (inner == tag_of(kEntryKey, Wire::Length)) {
                        return bytes(in, end_of(entry), key) && utf8(key);
                    }
                    if (inner == tag_of(kEntryValue, Wire::Length)) {
                        std::string_view body;
                        return depth > 1 && bytes(in, end_of(entry), body) &&
                               this->value(value, begin_of(body), end_of(body), depth - 2);
                    }
                    return unknown(inner, in, end_of(entry), depth - 1);
                });
            node.members.emplace_back(key, std::move(value));
            return good;
        });
    }

    bool list(Node& node, const uint8_t* p, const uint8_t* end, int depth) {
        node.kind = kList;
        return each_field(p, end, [&](uint32_t tag, const uint8_t*& at) {
            std::string_view body;
            if (tag != tag_of(kListValues, Wire::Length)) return unknown(tag, at, end, depth);
            if (depth <= 0 || !bytes(at, end, body)) return false;
            return value(node.items.emplace_back(), begin_of(body), end_of(body), depth - 1);
        });
    }

    bool value(Node& node, const uint8_t* p, const uint8_t* end, int depth) {
        return each_field(p, end, [&](uint32_t tag, const uint8_t*& at) {
            const uint32_t kind = tag >> 3;
            std::string_view body;
            uint64_t number = 0;
            switch (tag) {
                case tag_of(kNull, Wire::Varint):
                case tag_of(kBool, Wire::Varint):
                    at = read_varint(at, end, number);
                    if (at == nullptr) return false;
                    become(node, kind);
                    node.boolean = number != 0;
                    return true;
                case tag_of(kNumber, Wire::Fixed64):
                    if (end - at < 8) return false;
                    become(node, kind);
                    node.number = load<double>(at);
                    at += 8;
                    return true;
                case tag_of(kString, Wire::Length):
                    become(node, kind);
                    return bytes(at, end, node.text) && utf8(node.text);
                case tag_of(kStruct, Wire::Length):
                case tag_of(kList, Wire::Length):
                    if (depth <= 0 || !bytes(at, end, body)) return false;
                    if (node.kind != kind) become(node, kind);  // the same kind again merges
                    return kind == kStruct
                               ? structure(node, begin_of(body), end_of(body), depth - 1)
                               : list(node, begin_of(body), end_of(body), depth - 1);
                default:
                    return unknown(tag, at, end, depth);
            }
        });
    }

    static const uint8_t* begin_of(std::string_view text) {
        return reinterpret_cast<const uint8_t*>(text.data());
    }
    static const uint8_t* end_of(std::string_view text) { return begin_of(text) + text.size(); }

  private:
    static void become(Node& node, uint32_t kind) {
        node = Node{};
        node.kind = kind;
    }

    static bool utf8(std::string_view text) { return is_utf8(begin_of(text), text.size()); }

    static bool bytes(const uint8_t*& p, const uint8_t* end, std::string_view& body) {
        size_t size = 0;
        p = read_length(p, end, size);
        if (p == nullptr) return false;
        body = {reinterpret_cast<const char*>(p), size};
        p += size;
        return true;
    }

    template <typename Take>
    static bool each_field(const uint8_t* p, const uint8_t* end, Take take) {
        while (p < end) {
            uint32_t tag = 0;
            p = read_tag(p, end, tag);
            if (p == nullptr || tag >> 3 == 0 || !take(tag, p)) return false;
        }
        return true;
    }

    bool unknown(uint32_t tag, const uint8_t*& p, const uint8_t* end, int depth) {
        exact = false;
        return skip(tag, p, end, depth);
    }

    static bool skip(uint32_t tag, const uint8_t*& p, const uint8_t* end, int depth) {
        uint64_t number = 0;
        std::string_view body;
        switch (static_cast<Wire>(tag & 7)) {
            case Wire::Varint:
                p = read_varint(p, end, number);
                return p != nullptr;
            case Wire::Fixed64:
            case Wire::Fixed32: {
                const int width = static_cast<Wire>(tag & 7) == Wire::Fixed64 ? 8 : 4;
                if (end - p < width) return false;
                p += width;
                return true;
            }
            case Wire::Length:
                return bytes(p, end, body);
            case Wire::Start:
                while (depth > 0 && p < end) {
                    uint32_t inner = 0;
                    p = read_tag(p, end, inner);
                    if (p == nullptr || inner >> 3 == 0) return false;
                    if (inner == ((tag & ~7u) | static_cast<uint32_t>(Wire::End))) return true;
                    if (!skip(inner, p, end, depth - 1)) return false;
                }
                return false;
            default:
                return false;
        }
    }
};

void write_text(std::string_view text, std::string& out) {
    out.push_back('"');
    for (const char c : text) {
        switch (c) {
            case '"':
                out += "\\\"";
                break;
            case '\\':
                out += "\\\\";
                break;
            case '\n':
                out += "\\n";
                break;
            case '\r':
                out += "\\r";
                break;
            case '\t':
                out += "\\t";
                break;
            default:
                if (static_cast<uint8_t>(c) < 0x20) {
                    char escaped[8];
                    std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
                    out += escaped;
                } else {
                    out.push_back(c);
                }
        }
    }
    out.push_back('"');
}

// Of members with one name the last counts, as in a map.
void drop_repeated(std::vector<std::pair<std::string_view, Node>>& members) {
    std::vector<size_t> order(members.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::stable_sort(order, {}, [&](size_t i) { return members[i].first; });
    std::vector<bool> dead(members.size());
    for (size_t i = 1; i < order.size(); ++i) {
        if (members[order[i - 1]].first == members[order[i]].first) dead[order[i - 1]] = true;
    }
    size_t kept = 0;
    for (size_t i = 0; i < members.size(); ++i) {
        if (dead[i]) continue;
        if (kept != i) members[kept] = std::move(members[i]);
        ++kept;
    }
    members.erase(members.begin() + static_cast<std::ptrdiff_t>(kept), members.end());
}

bool write(Node& node, std::string& out) {
    switch (node.kind) {
        case kNull:
            out += "null";
            return !node.boolean;
        case kBool:
            out += node.boolean ? "true" : "false";
            return true;
        case kNumber: {
            char text[32];
            const auto end = std::to_chars(text, text + sizeof text, node.number).ptr;
            out.append(text, end);
            return std::isfinite(node.number);
        }
        case kString:
            write_text(node.text, out);
            return true;
        case kStruct: {
            drop_repeated(node.members);
            bool exact = true;
            out.push_back('{');
            for (size_t i = 0; i < node.members.size(); ++i) {
                if (i != 0) out.push_back(',');
                write_text(node.members[i].first, out);
                out.push_back(':');
                exact = write(node.members[i].second, out) && exact;
            }
            out.push_back('}');
            return exact;
        }
        case kList: {
            bool exact = true;
            out.push_back('[');
            for (size_t i = 0; i < node.items.size(); ++i) {
                if (i != 0) out.push_back(',');
                exact = write(node.items[i], out) && exact;
            }
            out.push_back(']');
            return exact;
        }
        default:
            return false;
    }
}

void put_varint(uint64_t value, std::string& out) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
}

void put_bytes(uint32_t number, std::string_view body, std::string& out) {
    put_varint(tag_of(number, Wire::Length), out);
    put_varint(body.size(), out);
    out += body;
}

// A recursive descent over JSON (RFC 8259) that writes the messages as it goes.
class Parser {
  public:
    explicit Parser(std::string_view text) : p_(text.data()), end_(p_ + text.size()) {}

    bool top(JsonKind kind, int depth, std::string& out) {
        space();
        bool good = false;
        if (kind == JsonKind::Value) {
            good = value(depth, out);
        } else if (kind == JsonKind::Struct) {
            good = p_ < end_ && *p_ == '{' && structure(depth, out);
        } else {
            good = p_ < end_ && *p_ == '[' && list(depth, out);
        }
        space();
        return good && p_ == end_;
    }

  private:
    void space() {
        while (p_ < end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\n' || *p_ == '\r')) ++p_;
    }

    bool take(char c) {
        space();
        if (p_ == end_ || *p_ != c) return false;
        ++p_;
        return true;
    }

    bool word(std::string_view word) {
        if (static_cast<size_t>(end_ - p_) < word.size() ||
            std::string_view(p_, word.size()) != word) {
            return false;
        }
        p_ += word.size();
        return true;
    }

    bool value(int depth, std::string& out) {
        space();
        if (p_ == end_ || depth < 0) return false;
        std::string body;
        switch (*p_) {
            case '{':
                if (!structure(depth - 1, body)) return false;
                put_bytes(kStruct, body, out);
                return true;
            case '[':
                if (!list(depth - 1, body)) return false;
                put_bytes(kList, body, out);
                return true;
            case '"':
                if (!text(body)) return false;
                put_bytes(kString, body, out);
                return true;
            case 'n':
                put_varint(tag_of(kNull, Wire::Varint), out);
                out.push_back(0);
                return word("null");
            case 't':
            case 'f': {
                const bool yes = *p_ == 't';
                put_varint(tag_of(kBool, Wire::Varint), out);
                out.push_back(yes ? 1 : 0);
                return word(yes ? "true" : "false");
            }
            default: {
                double number = 0;
                const auto [rest, error] = std::from_chars(p_, end_, number);
                if (error != std::errc{} || !std::isfinite(number)) return false;
                p_ = rest;
                put_varint(tag_of(kNumber, Wire::Fixed64), out);
                char bytes[sizeof number];
                std::memcpy(bytes, &number, sizeof number);
                out.append(bytes, sizeof number);
                return true;
            }
        }
    }

    bool structure(int depth, std::string& out) {
        ++p_;
        if (take('}')) return true;
        do {
            std::string key;
            std::string entry;
            std::string body;
            space();
            if (p_ == end_ || *p_ != '"' || !text(key) || !take(':')) return false;
            if (!value(depth - 2, body)) return false;
            put_bytes(kEntryKey, key, entry);
            put_bytes(kEntryValue, body, entry);
            put_bytes(kStructFields, entry, out);
        } while (take(','));
        return take('}');
    }

    bool list(int depth, std::string& out) {
        ++p_;
        if (take(']')) return true;
        do {
            std::string body;
            if (!value(depth - 1, body)) return false;
            put_bytes(kListValues, body, out);
        } while (take(','));
        return take(']');
    }

    bool text(std::string& out) {
        for (++p_; p_ < end_; ++p_) {
            const char c = *p_;
            if (c == '"') {
                ++p_;
                return true;
            }
            if (c != '\\') {
                out.push_back(c);
                continue;
            }
            if (++p_ == end_) return false;
            static constexpr std::string_view kFrom = "\"\\/bfnrt";
            static constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
            if (const size_t at = kFrom.find(*p_); at != std::string_view::npos) {
                out.push_back(kTo[at]);
            } else if (*p_ != 'u' || !escaped(out)) {
                return false;
            }
        }
        return false;
    }

    bool hex4(uint32_t& unit) {
        if (end_ - p_ < 5) return false;
        const auto [rest, error] = std::from_chars(p_ + 1, p_ + 5, unit, 16);
        if (error != std::errc{} || rest != p_ + 5) return false;
        p_ += 4;
        return true;
    }

    // \uXXXX, in pairs above the basic plane.
    bool escaped(std::string& out) {
        uint32_t point = 0;
        if (!hex4(point) || (point >= 0xDC00 && point <= 0xDFFF)) return false;
        if (point >= 0xD800 && point <= 0xDBFF) {
            uint32_t low = 0;
            if (end_ - p_ < 3 || p_[1] != '\\' || p_[2] != 'u') return false;
            p_ += 2;
            if (!hex4(low) || low < 0xDC00 || low > 0xDFFF) return false;
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        }
        if (point < 0x80) {
            out.push_back(static_cast<char>(point));
        } else if (point < 0x800) {
            out.push_back(static_cast<char>(0xC0 | point >> 6));
            out.push_back(static_cast<char>(0x80 | (point & 0x3F)));
        } else {
            if (point < 0x10000) {
                out.push_back(static_cast<char>(0xE0 | point >> 12));
            } else {
                out.push_back(static_cast<char>(0xF0 | point >> 18));
                out.push_back(static_cast<char>(0x80 | (point >> 12 & 0x3F)));
            }
            out.push_back(static_cast<char>(0x80 | (point >> 6 & 0x3F)));
            out.push_back(static_cast<char>(0x80 | (point & 0x3F)));
        }
        return true;
    }

    const char* p_;
    const char* end_;
};

}  // namespace

JsonResult json_of_message(JsonKind kind, const uint8_t* data, size_t size, int depth,
                           std::string& out) {
    Reader reader;
    Node node;
    const uint8_t* end = data + size;
    const bool good = kind == JsonKind::Struct ? reader.structure(node, data, end, depth)
                      : kind == JsonKind::List ? reader.list(node, data, end, depth)
                                               : reader.value(node, data, end, depth);
    if (!good) return JsonResult::Malformed;
    if (!write(node, out)) return JsonResult::NoJson;
    return reader.exact ? JsonResult::Exact : JsonResult::Inexact;
}

bool message_of_json(JsonKind kind, std::string_view text, int depth, std::string& out) {
    return Parser(text).top(kind, depth, out);
}

}  // namespace cdp
