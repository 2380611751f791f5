#include "pool.h"

#include <bit>
#include <cstring>
#include <new>

namespace cdp {

namespace {
constexpr std::align_val_t kAlignment{64};
}

BufferPool::~BufferPool() {
    for (auto& bin : idle_) {
        for (Block& block : bin) ::operator delete(block.data, kAlignment);
    }
}

uint8_t* BufferPool::take(size_t bytes, size_t& capacity) {
    // Powers of two keep a growing column's old block useful to a smaller one.
    capacity = std::bit_ceil(bytes < 256 ? size_t{256} : bytes);
    {
        std::lock_guard lock(mutex_);
        auto& bin = idle_[std::countr_zero(capacity)];
        if (!bin.empty()) {
            uint8_t* data = bin.back().data;
            bin.pop_back();
            idle_bytes_ -= capacity;
            return data;
        }
    }
    return static_cast<uint8_t*>(::operator new(capacity, kAlignment));
}

void BufferPool::give(uint8_t* data, size_t capacity) noexcept {
    {
        std::lock_guard lock(mutex_);
        if (idle_bytes_ + capacity <= max_idle_bytes_) {
            try {
                idle_[std::countr_zero(capacity)].push_back({data, capacity});
                idle_bytes_ += capacity;
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
    uint8_t* data = pool_->take(bytes + kSlack, block);
    if (keep != 0) std::memcpy(data, data_, keep);
    drop();
    data_ = data;
    block_ = block;
    capacity_ = block - kSlack;
}

void Buffer::reserve_zeroed(size_t bytes, size_t keep) {
    reserve(bytes, keep);
    std::memset(data_ + keep, 0, capacity_ - keep);
}

void Buffer::drop() noexcept {
    if (data_ != nullptr) pool_->give(data_, block_);
    data_ = nullptr;
    capacity_ = block_ = 0;
}

}  // namespace cdp
