// Bytes that grow, in memory of the pool.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "../pool.h"

namespace cdp::parquet {

class Bytes {
  public:
    size_t size() const { return size_; }
    size_t capacity() const { return memory_.capacity(); }
    bool empty() const { return size_ == 0; }
    const uint8_t* data() const { return memory_.data(); }
    uint8_t* data() { return memory_.data(); }
    std::span<const uint8_t> span() const { return {memory_.data(), size_}; }

    // Room for so many more; they count once `resize` says so.
    uint8_t* room(size_t more) {
        const size_t need = size_ + more;
        if (__builtin_expect(need > memory_.capacity(), 0)) {
            constexpr size_t kLeast = 192;
            constexpr size_t kLarge = size_t{4} << 20;  // from here on it doubles in two steps
            const size_t now = memory_.capacity();
            memory_.reserve(std::max({need, now < kLarge ? now * 2 : now + now / 2, kLeast}),
                            size_);
        }
        return memory_.data() + size_;
    }
    void resize(size_t size) { size_ = size; }
    void append(const void* from, size_t size) {
        if (size == 0) return;
        std::memcpy(room(size), from, size);
        size_ += size;
    }
    template <typename T>
    void push(T value) {
        std::memcpy(room(sizeof value), &value, sizeof value);
        size_ += sizeof value;
    }
    void push_varint(uint64_t value) {
        for (; value >= 0x80; value >>= 7) push(static_cast<uint8_t>(value | 0x80));
        push(static_cast<uint8_t>(value));
    }
    void clear() { size_ = 0; }
    void drop() {
        memory_.drop();
        size_ = 0;
    }

  private:
    Buffer memory_;
    size_t size_ = 0;
};

// The same of numbers.
template <typename T>
class Numbers {
  public:
    size_t size() const { return bytes_.size() / sizeof(T); }
    size_t capacity() const { return bytes_.capacity(); }
    const T* data() const { return reinterpret_cast<const T*>(bytes_.data()); }
    T* data() { return reinterpret_cast<T*>(bytes_.data()); }
    T& operator[](size_t i) { return data()[i]; }
    T operator[](size_t i) const { return data()[i]; }
    std::span<const T> span() const { return {data(), size()}; }
    T* room(size_t more) { return reinterpret_cast<T*>(bytes_.room(more * sizeof(T))); }
    void grow(size_t more) { bytes_.resize(bytes_.size() + more * sizeof(T)); }
    void push(T value) { bytes_.push(value); }
    void fill(size_t count, T value) {
        std::fill_n(room(count), count, value);
        grow(count);
    }
    void clear() { bytes_.clear(); }
    void drop() { bytes_.drop(); }

  private:
    Bytes bytes_;
};

}  // namespace cdp::parquet
