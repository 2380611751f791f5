// A buffer that grows at its front: what is written last comes first.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "pool.h"
#include "prefetch.h"
#include "wire.h"

namespace cdp {

class BackwardWriter {
  public:
    size_t size() const { return static_cast<size_t>(end_ - front_); }
    uint8_t* data() const { return front_; }
    Buffer take() { return std::move(buffer_); }

    // Room for `count` bytes in front, and a word more, so that short writes may be whole words.
    void reserve(size_t count) {
        if (__builtin_expect(static_cast<size_t>(front_ - buffer_.data()) < count + kWord, 0)) {
            grow(count + kWord);
        }
    }
    // `count` more bytes in front, for the caller to fill.
    uint8_t* extend(size_t count) {
        reserve(count);
        front_ -= count;
        return front_;
    }
    void bytes(const void* from, size_t count) {
        uint8_t* to = extend(count);
        for (size_t at = 0; at < count; at += kLine) fetch_for_write(to + at, -kAheadOfTexts);
        copy_exactly(to, static_cast<const uint8_t*>(from), count);
    }
    void varint(uint64_t value) {
        reserve(kMaxVarintBytes);
        if (value < 0x80) {
            *--front_ = static_cast<uint8_t>(value);
        } else if (value < uint64_t{1} << 56) {
            // Groups of seven spread over eight bytes, then all but the last marked as going on.
            const int length = (std::bit_width(value) + 6) / 7;
            uint64_t word = (value & 0x000000000FFFFFFFu) | ((value & 0x00FFFFFFF0000000u) << 4);
            word = (word & 0x00003FFF00003FFFu) | ((word & 0x0FFFC0000FFFC000u) << 2);
            word = (word & 0x007F007F007F007Fu) | ((word & 0x3F803F803F803F80u) << 1);
            word |= 0x0080808080808080u & ((uint64_t{1} << (8 * (length - 1))) - 1);
            word_of(word, static_cast<uint32_t>(length));
        } else {
            const int length = (std::bit_width(value) + 6) / 7;
            front_ -= length;
            for (int i = 0; i < length - 1; ++i, value >>= 7) {
                front_[i] = static_cast<uint8_t>(value | 0x80);
            }
            front_[length - 1] = static_cast<uint8_t>(value);
        }
    }
    // A tag, or another `size` (1 to 8) bytes in a word.
    void tag(uint64_t bytes, uint32_t size) {
        reserve(kWord);
        word_of(bytes, size);
    }
    template <typename T>
    void fixed(T value) {
        std::memcpy(extend(sizeof value), &value, sizeof value);
    }

  private:
    static constexpr size_t kWord = 8;

    // Writes a whole word that ends where the last write began; what is in front of its `size`
    // bytes is overwritten by what comes next.
    void word_of(uint64_t word, uint32_t size) {
        word <<= 8 * (kWord - size);
        std::memcpy(front_ - kWord, &word, kWord);
        front_ -= size;
    }
    // No byte outside of the source is read: Arrow promises no padding.
    static void copy_exactly(uint8_t* to, const uint8_t* from, size_t count) {
        constexpr size_t kShort = 64;
        if (count >= 16) {
            if (count > kShort) {
                std::memcpy(to, from, count);
                return;
            }
            for (size_t at = 0; at + 16 < count; at += 16) std::memcpy(to + at, from + at, 16);
            std::memcpy(to + count - 16, from + count - 16, 16);
        } else if (count >= 8) {
            std::memcpy(to, from, 8);
            std::memcpy(to + count - 8, from + count - 8, 8);
        } else if (count >= 4) {
            std::memcpy(to, from, 4);
            std::memcpy(to + count - 4, from + count - 4, 4);
        } else {
            for (size_t at = 0; at < count; ++at) to[at] = from[at];
        }
    }
    void grow(size_t count);

    Buffer buffer_;
    uint8_t* front_ = nullptr;
    uint8_t* end_ = nullptr;
};

}  // namespace cdp
