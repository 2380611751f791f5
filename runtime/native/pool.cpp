#include "pool.h"

#include <bit>
#include <cstring>
#include <new>

namespace cdp {

namespace {
constexpr std::align_val_t kAlignment{64};
constexpr size_t kMaxIdleBytes = size_t{256} << 20;
}  // namespace

BufferPool& BufferPool::instance() {
    static auto* pool = new BufferPool;
    return *pool;
}

uint8_t* BufferPool::take(size_t bytes, size_t& block) {
    // Powers of two keep a growing column's old block useful to a smaller one.
    block = std::bit_ceil(bytes < 256 ? size_t{256} : bytes);
    {
        std::lock_guard lock(mutex_);
        auto& bin = idle_[static_cast<size_t>(std::countr_zero(block))];
        if (!bin.empty()) {
            uint8_t* data = bin.back().data;
            bin.pop_back();
            idle_bytes_ -= block;
            return data;
        }
    }
    return static_cast<uint8_t*>(::operator new(block, kAlignment));
}

void BufferPool::give(uint8_t* data, size_t block) noexcept {
    {
        std::lock_guard lock(mutex_);
        if (idle_bytes_ + block <= kMaxIdleBytes) {
            try {
                idle_[static_cast<size_t>(std::countr_zero(block))].push_back({data, block});
                idle_bytes_ += block;
                return;
            } catch (const std::bad_alloc&) {
                // No room to remember the block: it is freed instead.
            }
        }
    }
    ::operator delete(data, kAlignment);
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
