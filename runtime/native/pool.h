// Memory of column buffers. A batch's buffers come back here when its consumer releases it, so that
// the next batch does not pay the page faults of fresh memory again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>

namespace cdp {

class BufferPool {
  public:
    // The one of the process. It outlives every array that may still hold a buffer at exit.
    static BufferPool& instance();

    // A block of at least `bytes`, its contents undefined; the size that it really has is written
    // back.
    uint8_t* take(size_t bytes, size_t& block);
    void give(uint8_t* data, size_t block) noexcept;

    // How much is kept for later at most.
    void limit(size_t bytes);

  private:
    // At the head of a block that is idle.
    struct Idle {
        Idle* older;  // of all that are idle
        Idle* newer;
        Idle* below;  // of those of its size
        Idle* above;
        size_t block;
    };

    BufferPool() = default;

    // Where blocks of so many bytes are kept, and how large they really are.
    static size_t bin_of(size_t bytes, size_t& block);
    // Takes a block out of both lists.
    void remove(Idle* idle);
    // Takes out those that have been idle longest, until there are no more than may be; linked by
    // `older`.
    Idle* remove_oldest();
    static void release_all(Idle* idle) noexcept;

    std::mutex mutex_;
    std::array<Idle*, 1024> tops_{};
    Idle* oldest_ = nullptr;
    Idle* newest_ = nullptr;
    size_t idle_bytes_ = 0;
    size_t most_idle_ = size_t{256} << 20;
};

// A growable block of the pool. Every buffer has `kSlack` writable bytes behind its capacity, so
// that copies may be rounded up to whole vectors.
class Buffer {
  public:
    static constexpr size_t kSlack = 64;

    Buffer() = default;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() { drop(); }

    uint8_t* data() const { return data_; }
    template <typename T>
    T* as() const {
        return reinterpret_cast<T*>(data_);
    }
    size_t capacity() const { return capacity_; }

    // Room for `bytes`; the first `keep` bytes stay.
    void reserve(size_t bytes, size_t keep);
    // The same, and from `keep` on they are zero.
    void reserve_zeroed(size_t bytes, size_t keep);
    void drop() noexcept;

  private:
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
    }

    uint8_t* data_ = nullptr;
    size_t capacity_ = 0;
};

}  // namespace cdp
