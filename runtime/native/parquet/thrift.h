// Writes Thrift's compact protocol, in which Parquet keeps its metadata
// (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cdp::parquet {

class Thrift {
  public:
    enum Type : uint8_t {
        True = 1,
        False = 2,
        I16 = 4,
        I32 = 5,
        I64 = 6,
        Bytes = 8,
        List = 9,
        Struct = 12
    };

    void i16(int16_t field, int16_t value) { number(field, I16, value); }
    void i32(int16_t field, int32_t value) { number(field, I32, value); }
    void i64(int16_t field, int64_t value) { number(field, I64, value); }
    void boolean(int16_t field, bool value) { header(field, value ? True : False); }
    void bytes(int16_t field, std::string_view value) {
        header(field, Bytes);
        element(value);
    }

    // A struct as a field, or as an element of a list; both end with `end`.
    void begin(int16_t field) {
        header(field, Struct);
        begin();
    }
    void begin() {
        outer_.push_back(static_cast<char>(last_ >> 8));
        outer_.push_back(static_cast<char>(last_));
        last_ = 0;
    }
    void end() {
        out_.push_back(0);
        if (outer_.empty()) return;
        last_ = static_cast<int16_t>(static_cast<uint8_t>(outer_[outer_.size() - 2]) << 8 |
                                     static_cast<uint8_t>(outer_.back()));
        outer_.resize(outer_.size() - 2);
    }

    // A list; its elements follow.
    void list(int16_t field, Type type, size_t size) {
        constexpr size_t kLong = 15;
        header(field, List);
        if (size < kLong) {
            out_.push_back(static_cast<char>(size << 4 | type));
        } else {
            out_.push_back(static_cast<char>(kLong << 4 | type));
            varint(size);
        }
    }
    void element(int64_t value) { varint(zigzag(value)); }
    void element(bool value) { out_.push_back(value ? True : False); }
    void element(std::string_view value) {
        varint(value.size());
        out_.append(value);
    }

    // A field whose encoding is known.
    void encoded(int16_t field, Type type, std::string_view value) {
        header(field, type);
        out_.append(value);
    }

    const std::string& out() const { return out_; }

  private:
    static uint64_t zigzag(int64_t value) {
        return static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63);
    }
    void varint(uint64_t value) {
        for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
        out_.push_back(static_cast<char>(value));
    }
    void header(int16_t field, Type type) {
        constexpr int kMostStep = 15;
        const int step = field - last_;
        if (step > 0 && step <= kMostStep) {
            out_.push_back(static_cast<char>(step << 4 | type));
        } else {
            out_.push_back(static_cast<char>(type));
            varint(zigzag(field));
        }
        last_ = field;
    }
    void number(int16_t field, Type type, int64_t value) {
        header(field, type);
        varint(zigzag(value));
    }

    std::string out_;
    std::string outer_;  // the last field of each struct around this one
    int16_t last_ = 0;
};

}  // namespace cdp::parquet
