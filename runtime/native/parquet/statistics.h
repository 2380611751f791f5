// The smallest and largest of values, in the order that Parquet gives their type
// (https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift,
// ColumnOrder).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

#include "../wire.h"

namespace cdp::parquet {

enum class Order : uint8_t {
    None,
    Signed,
    Unsigned,
    Float,
    Bytes,        // unsigned, byte by byte
    SignedBytes,  // two's complement, the highest byte first
};

// Whether `a` comes before `b`, of bytes.
inline bool is_before(std::string_view a, std::string_view b, Order order) {
    if (order == Order::SignedBytes && !a.empty() && !b.empty() && a[0] != b[0]) {
        return static_cast<int8_t>(a[0]) < static_cast<int8_t>(b[0]);
    }
    return a < b;  // char_traits compares as unsigned
}

// Of one page or chunk; the values as they are written.
struct Range {
    bool known = false;
    std::string min;
    std::string max;
};

// Of bytes. With a smallest or largest value that is long there is none: it would stand in the
// footer whole, and readers have limits there.
class BytesRange {
  public:
    explicit BytesRange(Order order)
        : flip_(order == Order::SignedBytes ? kSign : 0), order_(order) {}

    void add(std::string_view value) {
        // Most values lie between the two, and their first bytes say so.
        const uint64_t head = head_of(value);
        if (__builtin_expect(head > min_head_ && head < max_head_, 1)) return;
        const bool is_min = !range_.known || is_before(value, range_.min, order_);
        const bool is_max = !range_.known || is_before(range_.max, value, order_);
        if (given_up_ || !(is_min || is_max)) return;
        if (value.size() > kLongest) {
            given_up_ = true;
            min_head_ = 0;
            max_head_ = UINT64_MAX;
            return;
        }
        if (is_min) {
            range_.min = value;
            min_head_ = head;
        }
        if (is_max) {
            range_.max = value;
            max_head_ = head;
        }
        range_.known = true;
    }
    // Starts anew.
    Range take() {
        Range taken;
        if (!given_up_) std::swap(taken, range_);
        range_ = {};
        given_up_ = false;
        min_head_ = UINT64_MAX;
        max_head_ = 0;
        return taken;
    }

  private:
    static constexpr uint64_t kSign = uint64_t{1} << 63;
    static constexpr size_t kLongest = 1024;

    uint64_t head_of(std::string_view value) const {
        uint64_t head = 0;
        if (value.size() >= sizeof head) {
            std::memcpy(&head, value.data(), sizeof head);
        } else if (!value.empty()) {
            std::memcpy(&head, value.data(), value.size());
        }
        return __builtin_bswap64(head) ^ flip_;
    }

    const uint64_t flip_;  // makes signed numbers compare as unsigned ones
    const Order order_;
    Range range_;
    bool given_up_ = false;
    uint64_t min_head_ = UINT64_MAX;
    uint64_t max_head_ = 0;
};

// Of numbers; floats take zero for the one of either sign that is further out, and have no range
// with a NaN among them: engines do not agree where that stands in the order.
template <typename T>
class NumberRange {
  public:
    using Number = T;

    void add(const T* values, int64_t count) {
        T min = min_;
        T max = max_;
        bool has_nan = false;
        for (int64_t i = 0; i < count; ++i) {
            min = values[i] < min ? values[i] : min;
            max = values[i] > max ? values[i] : max;
            if constexpr (std::is_floating_point_v<T>) has_nan |= values[i] != values[i];
        }
        min_ = min;
        max_ = max;
        has_nan_ |= has_nan;
    }
    // As bytes of the type, and starts anew.
    Range take() {
        Range range;
        range.known = min_ <= max_ && !has_nan_;
        if (range.known) {
            if constexpr (std::is_floating_point_v<T>) {
                if (min_ == 0) min_ = -T{0};
                if (max_ == 0) max_ = T{0};
            }
            range.min.assign(reinterpret_cast<const char*>(&min_), sizeof(T));
            range.max.assign(reinterpret_cast<const char*>(&max_), sizeof(T));
        }
        *this = {};
        return range;
    }

  private:
    static constexpr T kMost = std::is_floating_point_v<T> ? std::numeric_limits<T>::infinity()
                                                           : std::numeric_limits<T>::max();
    static constexpr T kLeast = std::is_floating_point_v<T> ? -std::numeric_limits<T>::infinity()
                                                            : std::numeric_limits<T>::lowest();
    T min_ = kMost;
    T max_ = kLeast;
    bool has_nan_ = false;
};

// Whether one range of numbers of a type comes before another, for the chunk and the order of
// pages.
inline bool is_number_before(std::string_view a, std::string_view b, Order order) {
    const bool wide = a.size() == sizeof(uint64_t);
    const auto bits = [&](std::string_view value) {
        const auto* p = reinterpret_cast<const uint8_t*>(value.data());
        return wide ? load<uint64_t>(p) : uint64_t{load<uint32_t>(p)};
    };
    if (order == Order::Unsigned) return bits(a) < bits(b);
    if (order == Order::Float) {
        if (wide) return std::bit_cast<double>(bits(a)) < std::bit_cast<double>(bits(b));
        return std::bit_cast<float>(static_cast<uint32_t>(bits(a))) <
               std::bit_cast<float>(static_cast<uint32_t>(bits(b)));
    }
    if (wide) return static_cast<int64_t>(bits(a)) < static_cast<int64_t>(bits(b));
    return static_cast<int32_t>(bits(a)) < static_cast<int32_t>(bits(b));
}

}  // namespace cdp::parquet
