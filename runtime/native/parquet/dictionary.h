// The dictionary of a column chunk: the different values in the order in which they came, and a
// hash table that finds them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "bytes.h"
#include "hashes.h"

namespace cdp::parquet {

constexpr uint32_t kFree = UINT32_MAX;

// What both kinds have: the entries, and the slots of the table that finds them, of which those
// that are free have the index `kFree`.
template <typename Slot>
class Dictionary {
  public:
    size_t count() const { return count_; }
    const Bytes& entries() const { return entries_; }  // as a dictionary page has them
    Bytes take_entries() { return std::move(entries_); }
    size_t held() const { return slots_.size() * sizeof(Slot) + entries_.size(); }
    void drop() {
        slots_.drop();
        entries_.drop();
        count_ = 0;
    }

  protected:
    // Whether there are slots for so many more entries, and enough free ones between them.
    bool has_room(size_t more) const { return (count_ + more) * 8 <= slots_.size() * 5; }
    template <typename HashOf>
    void grow(HashOf hash_of) {
        constexpr size_t kLeast = 16;
        const size_t size = std::max(slots_.size() * 2, kLeast);
        Numbers<Slot> before;
        std::swap(before, slots_);
        slots_.fill(size, Slot{});
        for (const Slot& slot : before.span()) {
            if (slot.index == kFree) continue;
            size_t at = hash_of(slot) & (size - 1);
            while (slots_[at].index != kFree) at = (at + 1) & (size - 1);
            slots_[at] = slot;
        }
    }

    Numbers<Slot> slots_;
    Bytes entries_;
    size_t count_ = 0;
    const uint64_t seed_ = hash_seed();
};

template <typename T>
struct NumberSlot {
    T value = 0;
    uint32_t index = kFree;
};

struct BytesSlot {
    uint32_t hash = 0;
    uint32_t index = kFree;
    uint32_t offset = 0;  // of the value in the entries
    uint32_t size = 0;
};

// Of numbers of four or eight bytes, by their bits.
template <typename T>
class NumberDictionary : public Dictionary<NumberSlot<T>> {
    using Base = Dictionary<NumberSlot<T>>;
    using Base::count_, Base::entries_, Base::seed_, Base::slots_;

  public:
    uint32_t find(T value) {
        if (count_ != 0 && value == last_) return last_index_;
        if (__builtin_expect(!Base::has_room(1), 0)) {
            Base::grow([&](const NumberSlot<T>& slot) { return hash_number(slot.value, seed_); });
        }
        const size_t mask = slots_.size() - 1;
        for (size_t at = hash_number(value, seed_) & mask;; at = (at + 1) & mask) {
            NumberSlot<T>& slot = slots_[at];
            if (slot.index == kFree) {
                slot = {value, static_cast<uint32_t>(count_++)};
                entries_.push(value);
            } else if (slot.value != value) {
                continue;
            }
            last_ = value;
            return last_index_ = slot.index;
        }
    }

  private:
    T last_ = 0;
    uint32_t last_index_ = 0;
};

// Of bytes; with a length of their own each, or all of one.
class BytesDictionary : public Dictionary<BytesSlot> {
  public:
    // `prefixed`: entries are written behind their length.
    explicit BytesDictionary(bool prefixed) : prefix_(prefixed ? sizeof(uint32_t) : 0) {}

    // How many values are looked up at once: memory is asked for all of them before it is needed
    // for the first.
    static constexpr size_t kAtOnce = 64;

    // The places of up to so many values.
    void find(std::span<const std::string_view> values, uint32_t* places) {
        while (!has_room(values.size())) grow([](const BytesSlot& slot) { return slot.hash; });
        const size_t mask = slots_.size() - 1;
        const bool large = slots_.size() >= kLarge;
        std::array<uint32_t, kAtOnce> hashes;
        for (size_t i = 0; i < values.size(); ++i) {
            hashes[i] = hash_of(values[i]);
            if (large) __builtin_prefetch(&slots_[hashes[i] & mask]);
        }
        for (size_t i = 0; large && i < values.size(); ++i) {
            __builtin_prefetch(entries_.data() + slots_[hashes[i] & mask].offset);
        }
        for (size_t i = 0; i < values.size(); ++i) places[i] = find(values[i], hashes[i]);
    }
    uint32_t find(std::string_view value) {
        uint32_t place = 0;
        find({&value, 1}, &place);
        return place;
    }

  private:
    static constexpr size_t kLarge = 4096;  // of slots: more than the nearest caches have room for

    uint32_t hash_of(std::string_view value) const {
        return static_cast<uint32_t>(
            hash_bytes(reinterpret_cast<const uint8_t*>(value.data()), value.size(), seed_));
    }
    uint32_t find(std::string_view value, uint32_t hash) {
        const size_t mask = slots_.size() - 1;
        for (size_t at = hash & mask;; at = (at + 1) & mask) {
            BytesSlot& slot = slots_[at];
            if (slot.index == kFree) {
                slot = {hash, static_cast<uint32_t>(count_++), add(value),
                        static_cast<uint32_t>(value.size())};
                return slot.index;
            }
            if (slot.hash == hash && slot.size == value.size() && same(value, slot.offset)) {
                return slot.index;
            }
        }
    }
    bool same(std::string_view value, size_t offset) const {
        return value.empty() ||
               std::memcmp(value.data(), entries_.data() + offset, value.size()) == 0;
    }
    uint32_t add(std::string_view value) {
        if (prefix_ != 0) entries_.push(static_cast<uint32_t>(value.size()));
        const auto offset = static_cast<uint32_t>(entries_.size());
        entries_.append(value.data(), value.size());
        return offset;
    }

    const size_t prefix_;
};

}  // namespace cdp::parquet
