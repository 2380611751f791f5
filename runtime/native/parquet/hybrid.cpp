#include "hybrid.h"

namespace cdp::parquet {

namespace {

constexpr size_t kGroup = 8;

// Whether a run begins that is worth one of its own.
template <typename T>
bool is_run(const T* values, size_t size) {
    if (size < kGroup || values[0] != values[kGroup - 1]) return false;
    T other = 0;
    for (size_t i = 1; i < kGroup - 1; ++i) other |= values[i] ^ values[0];
    return other == 0;
}

// Groups of eight values, the last one filled up with zeros.
template <typename T>
void append_packed(const T* values, size_t size, int width, Bytes& out) {
    const size_t groups = (size + kGroup - 1) / kGroup;
    out.push_varint(groups << 1 | 1);
    const size_t bytes = groups * static_cast<size_t>(width);
    uint8_t* to = out.room(bytes + 8);  // a word is written where a byte is meant
    uint64_t held = 0;
    int bits = 0;
    const auto put = [&](uint64_t value) {
        held |= value << bits;
        bits += width;
        if (bits >= 32) {
            std::memcpy(to, &held, 4);
            to += 4;
            held >>= 32;
            bits -= 32;
        }
    };
    for (size_t i = 0; i < size; ++i) put(values[i]);
    for (size_t i = size; i < groups * kGroup; ++i) put(0);
    std::memcpy(to, &held, 8);
    out.resize(out.size() + bytes);
}

template <typename T>
void append(std::span<const T> values, int width, Bytes& out) {
    const T* p = values.data();
    const size_t size = values.size();
    size_t at = 0;
    while (at < size) {
        size_t end = at;
        if (is_run(p + at, size - at)) {
            end += kGroup;
            while (end < size && p[end] == p[at]) ++end;
            out.push_varint((end - at) << 1);
            const uint64_t value = p[at];
            out.append(&value, static_cast<size_t>(width + 7) / 8);
        } else {
            do {
                end = std::min(end + kGroup, size);
            } while (end < size && !is_run(p + end, size - end));
            append_packed(p + at, end - at, width, out);
        }
        at = end;
    }
}

}  // namespace

void append_hybrid(std::span<const uint16_t> values, int width, Bytes& out) {
    append(values, width, out);
}
void append_hybrid(std::span<const uint32_t> values, int width, Bytes& out) {
    append(values, width, out);
}

void append_bits(std::span<const uint8_t> values, Bytes& out) {
    for (size_t at = 0; at < values.size(); at += 8) {
        uint8_t byte = 0;
        for (size_t i = at; i < std::min(at + 8, values.size()); ++i) {
            byte |= static_cast<uint8_t>(values[i] << (i - at));
        }
        out.push(byte);
    }
}

}  // namespace cdp::parquet
