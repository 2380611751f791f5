// Record batches of a table with arbitrary values, nulls, offsets and lengths, drawn from bytes: so
// that what mutates the bytes and watches the coverage finds its way through the encoder.
#pragma once

#include <cstdint>
#include <string_view>

#include "arrays.h"
#include "tables.h"

namespace fuzz {

// A stream of choices; where it has ended, all of them are 0.
class Choices {
  public:
    explicit Choices(std::string_view bytes) : bytes_(bytes) {}
    uint8_t byte() {
        return at_ < bytes_.size() ? static_cast<uint8_t>(bytes_[at_++]) : uint8_t{0};
    }
    // One of 0 .. count - 1, at most 256.
    size_t below(size_t count) { return byte() % count; }
    bool one_in(size_t count) { return below(count) == count - 1; }
    std::string_view bytes(size_t count) {
        const std::string_view found = bytes_.substr(at_, count);
        at_ += found.size();
        return found;
    }

  private:
    std::string_view bytes_;
    size_t at_ = 0;
};

struct RandomBatch {
    Array array;
    // Whether a value was drawn that may make no valid message: bytes of a message that are none.
    bool dubious = false;
};

RandomBatch random_batch(const Table& table, Choices& choices);

}  // namespace fuzz
