#include "pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <map>
#include <new>

namespace cdp {

namespace {
constexpr std::align_val_t kAlignment{64};
constexpr size_t kLarge = size_t{16} << 10;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSpan = size_t{64} << 20;
// Beyond whole pages. The columns of a batch are written at about the same place of their blocks: a
// page apart, these places would share one set of the first-level cache.
constexpr size_t kStagger = 320;
constexpr size_t kLeastIdle = 4;  // blocks: one that leaves no room for so many is not kept

size_t round_down(size_t size, size_t to) { return size / to * to; }
size_t round_up(size_t size, size_t to) { return round_down(size + to - 1, to); }

// All but the smallest blocks: malloc would keep them apart by what else it has given in between,
// and grow for as long as a process lives. They lie side by side in few spans, so that many share
// one huge page, and huge pages that are not used are the system's.
class Heap {
  public:
    static Heap& instance() {
        static auto* heap = new Heap;
        return *heap;
    }

    uint8_t* take(size_t size) {
        size = place_of(size);
        std::lock_guard lock(mutex_);
        // The smallest that has room: the first one would leave more huge pages half used.
        auto found = free_.end();
        for (auto one = free_.begin(); one != free_.end(); ++one) {
            if (one->second < size) continue;
            if (found == free_.end() || one->second < found->second) found = one;
        }
        if (found == free_.end()) found = add_span(size);
        const auto [place, free] = *found;
        free_.erase(found);
        if (free > size) free_.emplace(place + size, free - size);
        return reinterpret_cast<uint8_t*>(place);
    }

    void give(uint8_t* data, size_t size) noexcept {
        const auto place = reinterpret_cast<uintptr_t>(data);
        const uintptr_t end = place + place_of(size);
        std::lock_guard lock(mutex_);
        uintptr_t first = place;
        uintptr_t last = end;
        auto next = free_.lower_bound(place);
        if (next != free_.end() && end == next->first) {
            last += next->second;
            next = free_.erase(next);
        }
        const auto before = next == free_.begin() ? free_.end() : std::prev(next);
        const bool joins = before != free_.end() && before->first + before->second == place;
        if (joins) first = before->first;
        // Only whole huge pages are given back: of the rest of one that is split, each small page
        // would be a fault of its own.
        const uintptr_t from = std::max(round_up(first, kHugePage), round_down(place, kHugePage));
        const uintptr_t to = std::min(round_down(last, kHugePage), round_up(end, kHugePage));
        if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
        if (joins) {
            before->second = last - first;
            return;
        }
        try {
            free_.emplace_hint(next, first, last - first);
        } catch (const std::bad_alloc&) {
            // No room to remember it: the addresses are lost.
        }
    }

  private:
    size_t place_of(size_t size) const { return round_up(size, page_) + kStagger; }

    using Ranges = std::map<uintptr_t, size_t>;  // by where they begin

    Ranges::iterator add_span(size_t size) {
        size = round_up(std::max(size, kSpan), kHugePage);
        void* data = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED) throw std::bad_alloc{};
        const auto place = round_up(reinterpret_cast<uintptr_t>(data), kHugePage);
#ifdef MADV_HUGEPAGE
        madvise(reinterpret_cast<void*>(place), size, MADV_HUGEPAGE);
#endif
        return free_.emplace(place, size).first;
    }

    const size_t page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));  // 64 KB on some arm64
    std::mutex mutex_;
    Ranges free_;
};

uint8_t* allocate(size_t block) {
    if (block >= kLarge) return Heap::instance().take(block);
    return static_cast<uint8_t*>(::operator new(block, kAlignment));
}

void release(uint8_t* data, size_t block) noexcept {
    if (block >= kLarge) {
        Heap::instance().give(data, block);
    } else {
        ::operator delete(data, kAlignment);
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

void BufferPool::remove(Idle* idle) {
    (idle->older != nullptr ? idle->older->newer : oldest_) = idle->newer;
    (idle->newer != nullptr ? idle->newer->older : newest_) = idle->older;
    if (idle->below != nullptr) idle->below->above = idle->above;
    if (idle->above != nullptr) {
        idle->above->below = idle->below;
    } else {
        tops_[bin_of(idle->block, idle->block)] = idle->below;
    }
    idle_bytes_ -= idle->block;
}

// What has just been used is in the caches, and will be asked for again soon; what has not been for
// long may be of a size that nobody asks for any more.
BufferPool::Idle* BufferPool::remove_oldest() {
    Idle* removed = nullptr;
    while (idle_bytes_ > most_idle_) {
        Idle* idle = oldest_;
        remove(idle);
        idle->older = removed;
        removed = idle;
    }
    return removed;
}

void BufferPool::release_all(Idle* idle) noexcept {
    while (idle != nullptr) {
        Idle* next = idle->older;
        release(reinterpret_cast<uint8_t*>(idle), idle->block);
        idle = next;
    }
}

uint8_t* BufferPool::take(size_t bytes, size_t& block) {
    const size_t bin = bin_of(bytes, block);
    {
        std::lock_guard lock(mutex_);
        if (Idle* idle = tops_[bin]; idle != nullptr) {
            remove(idle);
            return reinterpret_cast<uint8_t*>(idle);
        }
    }
    return allocate(block);
}

void BufferPool::limit(size_t bytes) {
    Idle* removed = nullptr;
    {
        std::lock_guard lock(mutex_);
        most_idle_ = bytes;
        removed = remove_oldest();
    }
    release_all(removed);
}

void BufferPool::give(uint8_t* data, size_t block) noexcept {
    const size_t bin = bin_of(block, block);
    Idle* removed = nullptr;
    {
        std::lock_guard lock(mutex_);
        if (block <= most_idle_ / kLeastIdle) {
            auto* idle = new (data) Idle{newest_, nullptr, tops_[bin], nullptr, block};
            (newest_ != nullptr ? newest_->newer : oldest_) = idle;
            if (idle->below != nullptr) idle->below->above = idle;
            newest_ = tops_[bin] = idle;
            idle_bytes_ += block;
            data = nullptr;
        }
        removed = remove_oldest();
    }
    release_all(removed);
    if (data != nullptr) release(data, block);
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
