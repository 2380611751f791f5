#include "pool.h"

#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <new>

namespace cdp {

namespace {
constexpr std::align_val_t kAlignment{64};
constexpr size_t kLarge = size_t{64} << 10;
constexpr size_t kHuge = size_t{2} << 20;

// Large blocks are the system's own: what malloc gets back of so many sizes it cannot return.
uint8_t* allocate(size_t block) {
    if (block < kLarge) return static_cast<uint8_t*>(::operator new(block, kAlignment));
    void* data = mmap(nullptr, block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc{};
#ifdef MADV_HUGEPAGE
    // A dictionary is read all over, and every small page of it would be looked up anew.
    if (block >= kHuge) madvise(data, block, MADV_HUGEPAGE);
#endif
    return static_cast<uint8_t*>(data);
}

void release(uint8_t* data, size_t block) noexcept {
    if (block < kLarge) {
        ::operator delete(data, kAlignment);
    } else {
        munmap(data, block);
    }
}
}  // namespace

BufferPool& BufferPool::instance() {
    static auto* pool = new BufferPool;
    return *pool;
}

// Eight sizes between a power of two and the next: what a block has too much is at most an eighth.
size_t BufferPool::bin_of(size_t bytes, size_t& block) {
    constexpr size_t kLeast = 256;
    constexpr int kStepBits = 3;
    bytes = bytes < kLeast ? kLeast : bytes;
    const int shift = std::bit_width(bytes - 1) - 1 - kStepBits;
    const size_t steps = ((bytes - 1) >> shift) + 1;
    block = steps << shift;
    return (static_cast<size_t>(shift) << (kStepBits + 1)) + steps;
}

uint8_t* BufferPool::take(size_t bytes, size_t& block) {
    const size_t bin = bin_of(bytes, block);
    {
        std::lock_guard lock(mutex_);
        auto& idle = idle_[bin];
        if (!idle.empty()) {
            uint8_t* data = idle.back();
            idle.pop_back();
            idle_bytes_ -= block;
            return data;
        }
    }
    return allocate(block);
}

void BufferPool::limit(size_t bytes) {
    std::lock_guard lock(mutex_);
    most_idle_ = bytes;
}

void BufferPool::give(uint8_t* data, size_t block) noexcept {
    const size_t bin = bin_of(block, block);
    {
        std::lock_guard lock(mutex_);
        if (idle_bytes_ + block <= most_idle_) {
            try {
                idle_[bin].push_back(data);
                idle_bytes_ += block;
                return;
            } catch (const std::bad_alloc&) {
                // No room to remember the block: it is freed instead.
            }
        }
    }
    release(data, block);
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
