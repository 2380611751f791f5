#include "mutate.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "wire.h"

namespace fuzz {

namespace {

constexpr size_t kMostBytes = 4096;
constexpr int kMostDepth = 8;

constexpr std::array<uint64_t, 24> kNumbers{
    0,
    1,
    2,
    127,
    128,
    300,
    16'383,
    16'384,
    INT32_MAX,
    1u << 31,
    UINT32_MAX,
    uint64_t{1} << 32,
    INT64_MAX,
    1ull << 63,
    UINT64_MAX,
    UINT64_MAX - 1,
    999'999'999,
    1'000'000'000,
    1'713'730'569,
    253'402'300'799,
    253'402'300'800,
    9'223'372'036,
    9'223'372'036'854,
    0xFFFFFFFF80000000,
};
constexpr std::array<std::string_view, 30> kTexts{
    "",
    "0",
    "-1",
    "-0",
    "1.50",
    "007",
    "1.505",
    "ff",
    "0g",
    "36fe1cfb",
    "AA==",
    "AB==",
    "/+8=",
    "AAA",
    "MZXW6",
    "mzxw6",
    "MZXW6YTB",
    "\xFF",
    "\xC0\x80",
    "\xED\xA0\x80",
    "abc\xE2\x82",
    "na\xC3\xAFve",
    "sixteen bytes of",
    "sixteen bytes \xC3\xA9",
    "99999999999999999999999999999999999999",
    "-99999999999999999999999999999999999999.9",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcd",
    "\x08\x01",
    "\x0B\x0C",
};

// A field as a tree, so that the lengths around a change come out right.
struct Field {
    uint32_t number = 1;
    uint32_t wire = 0;
    uint64_t value = 0;        // of a varint or fixed field
    int overlong = 0;          // bytes that the varint has too many
    int64_t length_off = 0;    // how far its length is from the truth
    std::string bytes;         // of a length-delimited field that has no `parts`
    std::vector<Field> parts;  // of a message
    bool is_message = false;
};

bool parse(const uint8_t*& p, const uint8_t* end, uint32_t group, int depth,
           std::vector<Field>& fields) {
    while (p < end) {
        uint32_t tag = 0;
        p = cdp::read_tag(p, end, tag);
        if (p == nullptr || tag >> 3 == 0) return false;
        Field field;
        field.number = tag >> 3;
        field.wire = tag & 7;
        switch (field.wire) {
            case 0:
                p = cdp::read_varint(p, end, field.value);
                if (p == nullptr) return false;
                break;
            case 1:
                if (end - p < 8) return false;
                field.value = cdp::load<uint64_t>(p);
                p += 8;
                break;
            case 2: {
                size_t size = 0;
                p = cdp::read_length(p, end, size);
                if (p == nullptr) return false;
                field.bytes.assign(reinterpret_cast<const char*>(p), size);
                const uint8_t* inner = p;
                field.is_message =
                    size != 0 && depth > 0 && parse(inner, p + size, 0, depth - 1, field.parts);
                if (!field.is_message) field.parts.clear();
                p += size;
                break;
            }
            case 3:
                field.is_message = true;
                if (depth <= 0 || !parse(p, end, field.number, depth - 1, field.parts))
                    return false;
                break;
            case 4:
                return field.number == group;
            case 5:
                if (end - p < 4) return false;
                field.value = cdp::load<uint32_t>(p);
                p += 4;
                break;
            default:
                return false;
        }
        fields.push_back(std::move(field));
    }
    return group == 0;
}

bool parse(const std::string& message, std::vector<Field>& fields) {
    const auto* p = reinterpret_cast<const uint8_t*>(message.data());
    const uint8_t* end = p + message.size();
    return parse(p, end, 0, kMostDepth, fields);
}

void put_varint(std::string& out, uint64_t value, int overlong = 0) {
    for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
    if (overlong <= 0) {
        out += static_cast<char>(value);
        return;
    }
    out += static_cast<char>(value | 0x80);
    for (; overlong > 1; --overlong) out += static_cast<char>(0x80);
    out += '\0';
}

std::string serialize(const std::vector<Field>& fields) {
    std::string out;
    for (const Field& field : fields) {
        put_varint(out, uint64_t{field.number} << 3 | field.wire);
        switch (field.wire) {
            case 0:
                put_varint(out, field.value, field.overlong);
                break;
            case 1:
                out.append(reinterpret_cast<const char*>(&field.value), 8);
                break;
            case 2: {
                const std::string content = field.is_message ? serialize(field.parts) : field.bytes;
                put_varint(out, content.size() + static_cast<uint64_t>(field.length_off),
                           field.overlong);
                out += content;
                break;
            }
            case 3:
                out += serialize(field.parts);
                put_varint(out, uint64_t{field.number} << 3 | 4);
                break;
            case 5:
                out.append(reinterpret_cast<const char*>(&field.value), 4);
                break;
            default:
                break;
        }
    }
    return out;
}

uint64_t any_number(Random& random, uint64_t value) {
    switch (below(random, 5)) {
        case 0:
            return value + below(random, 5) - 2;
        case 1:
            return value ^ uint64_t{1} << below(random, 64);
        case 2:
            return random() >> below(random, 64);
        default:
            return kNumbers[below(random, kNumbers.size())];
    }
}

// One of the lists of fields at any depth.
std::vector<Field>& any_fields(Random& random, std::vector<Field>& fields) {
    std::vector<Field>* at = &fields;
    while (!at->empty() && !one_in(random, 3)) {
        Field& field = (*at)[below(random, at->size())];
        if (!field.is_message) break;
        at = &field.parts;
    }
    return *at;
}

void mutate_value(Random& random, Field& field) {
    if (field.wire != 2) {
        field.value = any_number(random, field.value);
        if (one_in(random, 8)) field.overlong = static_cast<int>(below(random, 10));
        return;
    }
    switch (below(random, 6)) {
        case 0:
            field.length_off = static_cast<int64_t>(below(random, 7)) - 3;
            return;
        case 1:
            field.overlong = static_cast<int>(below(random, 6));
            return;
        default:
            break;
    }
    if (field.is_message) field.bytes = serialize(field.parts);
    field.is_message = false;
    if (one_in(random, 3)) {
        field.bytes = kTexts[below(random, kTexts.size())];
    } else if (one_in(random, 4)) {
        field.bytes.clear();  // packed numbers
        for (size_t i = below(random, 40); i > 0; --i) {
            put_varint(field.bytes, any_number(random, i), one_in(random, 9) ? 1 : 0);
        }
    } else {
        field.bytes = mutate_bytes(random, field.bytes, field.bytes);
    }
}

void mutate_fields(Random& random, std::vector<Field>& all, std::vector<Field>& others) {
    std::vector<Field>& fields = any_fields(random, all);
    const auto at = static_cast<std::ptrdiff_t>(below(random, fields.size() + 1));
    if (!others.empty() && (fields.empty() || one_in(random, 4))) {
        const std::vector<Field>& from = any_fields(random, others);
        if (!from.empty()) fields.insert(fields.begin() + at, from[below(random, from.size())]);
        return;
    }
    if (fields.empty()) {
        Field& made = fields.emplace_back();
        made.number = static_cast<uint32_t>(below(random, 40) + 1);
        made.value = any_number(random, 0);
        return;
    }
    const size_t which = below(random, fields.size());
    switch (below(random, 9)) {
        case 0:
            fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(which));
            break;
        case 1: {
            const Field copy = fields[which];
            const bool many = one_in(random, 8) && !copy.is_message && copy.bytes.size() < 32;
            fields.insert(fields.begin() + at, 1 + below(random, many ? 70 : 3), copy);
            break;
        }
        case 2:
            std::swap(fields[which], fields[below(random, fields.size())]);
            break;
        case 3:
            fields[which].number = static_cast<uint32_t>(one_in(random, 8) ? random() % (1u << 29)
                                                                           : below(random, 80) + 1);
            break;
        case 4: {
            // Another wire type of what it holds: delimited and group, numbers of every width.
            static constexpr std::array<uint32_t, 6> kOther{5, 0, 3, 2, 4, 1};
            Field& field = fields[which];
            if (field.wire == 2 && !field.is_message) break;
            field.wire = kOther[field.wire];
            break;
        }
        case 5: {
            Field inside = fields[which];
            for (size_t deep = 1 + (one_in(random, 8) ? below(random, 110) : 0); deep > 0; --deep) {
                Field around;
                around.number = inside.number;
                around.wire = one_in(random, 6) ? 3 : 2;
                around.is_message = true;
                around.parts.push_back(std::move(inside));
                inside = std::move(around);
            }
            fields[which] = std::move(inside);
            break;
        }
        default:
            mutate_value(random, fields[which]);
            break;
    }
}

}  // namespace

std::string mutate_bytes(Random& random, std::string bytes, const std::string& other) {
    for (size_t times = 1 + below(random, one_in(random, 2) ? 2 : 6); times > 0; --times) {
        const size_t at = below(random, bytes.size() + 1);
        const size_t few = below(random, one_in(random, 6) ? 64 : 5);
        switch (below(random, 8)) {
            case 0:
                if (at < bytes.size())
                    bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(random, 8));
                break;
            case 1:
                if (at < bytes.size()) bytes[at] = static_cast<char>(random());
                break;
            case 2:
                bytes.erase(at, few);
                break;
            case 3:
                bytes.insert(at, few, static_cast<char>(one_in(random, 2) ? random() : 0x80));
                break;
            case 4:
                if (one_in(random, 4)) bytes.resize(at);
                break;
            case 5: {
                std::string varint;
                put_varint(varint, any_number(random, 0), static_cast<int>(below(random, 3)));
                bytes.replace(at, below(random, 2) * few, varint);
                break;
            }
            case 6:
                bytes.insert(at, other, below(random, other.size() + 1), below(random, 32));
                break;
            default:
                for (size_t i = 0; i < few; ++i)
                    bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                 static_cast<char>(random()));
                break;
        }
    }
    if (bytes.size() > kMostBytes) bytes.resize(kMostBytes);
    return bytes;
}

std::string mutate_message(Random& random, const std::string& message, const std::string& other) {
    std::vector<Field> fields;
    if (one_in(random, 5) || !parse(message, fields)) return mutate_bytes(random, message, other);
    std::vector<Field> others;
    if (!parse(other, others)) others.clear();
    for (size_t times = 1 + below(random, 4); times > 0; --times) {
        mutate_fields(random, fields, others);
    }
    std::string mutant = serialize(fields);
    if (one_in(random, 8)) mutant = mutate_bytes(random, mutant, other);
    if (mutant.size() > kMostBytes) mutant.resize(kMostBytes);
    return mutant;
}

}  // namespace fuzz
