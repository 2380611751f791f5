// Memory of column buffers. A batch's buffers come back here when its consumer releases it, so that
// the next batch does not pay the page faults of fresh memory again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace cdp {

class BufferPool {
  public:
    explicit BufferPool(size_t max_idle_bytes) : max_idle_bytes_(max_idle_bytes) {}
    ~BufferPool();
    BufferPool(const BufferPool&) = delete;
    BufferPool& operator=(const BufferPool&) = delete;

    // A block of at least `bytes`, its contents undefined; the capacity that it really has is
    // written back.
    uint8_t* take(size_t bytes, size_t& capacity);
    void give(uint8_t* data, size_t capacity) noexcept;

  private:
    struct Block {
        uint8_t* data;
        size_t capacity;
    };
    std::mutex mutex_;
    std::vector<std::vector<Block>> idle_ = std::vector<std::vector<Block>>(64);
    size_t idle_bytes_ = 0;
    const size_t max_idle_bytes_;
};

// A growable block of the pool. Every buffer has `kSlack` writable bytes behind its capacity, so
// that copies may be rounded up to whole vectors.
class Buffer {
  public:
    static constexpr size_t kSlack = 64;

    Buffer() = default;
    explicit Buffer(std::shared_ptr<BufferPool> pool) : pool_(std::move(pool)) {}
    // What is moved from is empty and can be filled again: it keeps its pool.
    Buffer(Buffer&& other) noexcept : pool_(other.pool_) { swap_memory(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        drop();
        pool_ = other.pool_;
        swap_memory(other);
        return *this;
    }
    ~Buffer() { drop(); }

    uint8_t* data() const { return data_; }
    template <typename T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }
    size_t capacity() const { return capacity_; }
    const std::shared_ptr<BufferPool>& pool() const { return pool_; }

    // Room for `bytes`; the first `keep` bytes stay.
    void reserve(size_t bytes, size_t keep);
    // The same, and everything from `keep` on is zero.
    void reserve_zeroed(size_t bytes, size_t keep);
    void drop() noexcept;

  private:
    void swap_memory(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
        std::swap(block_, other.block_);
    }

    std::shared_ptr<BufferPool> pool_;
    uint8_t* data_ = nullptr;
    size_t capacity_ = 0;
    size_t block_ = 0;
};

}  // namespace cdp
