// In the place of runtime/native/pool.cpp: a block is exactly as large as it was asked for, holds
// garbage, and is out of bounds to everyone (to AddressSanitizer) once it was given back.
#include <sanitizer/asan_interface.h>

#include <bit>
#include <cstring>
#include <new>
#include <vector>

#include "pool.h"

namespace cdp {

namespace {
constexpr std::align_val_t kAlignment{64};
constexpr int kGarbage = 0xA5;

size_t whole(size_t block) { return std::bit_ceil(block); }
size_t own_bin(size_t block) { return static_cast<size_t>(std::countr_zero(whole(block))); }

std::vector<uint8_t*>& idle(size_t block) {
    static auto* bins = new std::vector<std::vector<uint8_t*>>(64);
    return (*bins)[own_bin(block)];
}
}  // namespace

BufferPool& BufferPool::instance() {
    static auto* pool = new BufferPool;
    return *pool;
}

uint8_t* BufferPool::take(size_t bytes, size_t& block) {
    block = bytes;
    auto& bin = idle(bytes);
    uint8_t* data = nullptr;
    if (bin.empty()) {
        data = static_cast<uint8_t*>(::operator new(whole(bytes), kAlignment));
    } else {
        data = bin.back();
        bin.pop_back();
        ASAN_UNPOISON_MEMORY_REGION(data, whole(bytes));
    }
    std::memset(data, kGarbage, bytes);
    ASAN_POISON_MEMORY_REGION(data + bytes, whole(bytes) - bytes);
    return data;
}

void BufferPool::give(uint8_t* data, size_t block) noexcept {
    ASAN_POISON_MEMORY_REGION(data, whole(block));
    idle(block).push_back(data);
}

void Buffer::reserve(size_t bytes, size_t keep) {
    if (data_ != nullptr && bytes <= capacity_) return;
    size_t block = 0;
    uint8_t* data = BufferPool::instance().take(bytes + kSlack, block);
    if (keep != 0) std::memcpy(data, data_, keep);
    drop();
    data_ = data;
    capacity_ = block - kSlack;
}

void Buffer::reserve_zeroed(size_t bytes, size_t keep) {
    reserve(bytes, keep);
    std::memset(data_ + keep, 0, bytes - keep);
}

void Buffer::drop() noexcept {
    if (data_ != nullptr) BufferPool::instance().give(data_, capacity_ + kSlack);
    data_ = nullptr;
    capacity_ = 0;
}

}  // namespace cdp
