#include "packed.h"

#include <algorithm>
#include <array>
#include <bit>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "wire.h"

namespace cdp {

namespace {

constexpr size_t kBlock = 64;

// What of a block's end is read beyond it: a varint that is taken for one that begins there.
constexpr size_t kBeyond = 16;

// One bit for each of 64 bytes that ends a varint.
[[gnu::always_inline]] inline uint64_t ends_of_block(const uint8_t* p) {
    uint64_t goes_on = 0;
#if defined(__SSE2__)
    for (int i = 0; i < 4; ++i) {
        const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * i));
        goes_on |= uint64_t{static_cast<uint32_t>(_mm_movemask_epi8(chunk))} << (16 * i);
    }
#else
    for (size_t i = 0; i < kBlock; ++i) goes_on |= static_cast<uint64_t>(p[i] >> 7) << i;
#endif
    return ~goes_on;
}

// The groups of seven bits in a varint of so many bytes, up to eight; what is no varint, from one
// behind the end of a block on, has none.
constexpr std::array<uint64_t, kBlock + 2> kGroups = [] {
    std::array<uint64_t, kBlock + 2> groups{};
    for (size_t i = 1; i <= 8; ++i) groups[i] = groups[i - 1] << 8 | 0x7F;
    return groups;
}();

// Moves groups of seven bits together.
struct ByShifts {
    static uint64_t join(uint64_t word, uint64_t groups) { return join_groups(word & groups); }
};

#if defined(__x86_64__)
struct ByPext {
    static uint64_t join(uint64_t word, uint64_t groups) { return pext(word, groups); }
};
#endif

template <PackedKind kind>
struct Number;
template <>
struct Number<PackedKind::Varint32> {
    using Type = uint32_t;
    static Type of(uint64_t value) { return static_cast<uint32_t>(value); }
};
template <>
struct Number<PackedKind::Varint64> {
    using Type = uint64_t;
    static Type of(uint64_t value) { return value; }
};
template <>
struct Number<PackedKind::ZigZag32> {
    using Type = int32_t;
    static Type of(uint64_t value) { return unzigzag32(static_cast<uint32_t>(value)); }
};
template <>
struct Number<PackedKind::ZigZag64> {
    using Type = int64_t;
    static Type of(uint64_t value) { return unzigzag64(value); }
};

// Whether one of the bits set begins so many in a row.
template <int length>
bool has_run(uint64_t bits) {
    for (int have = 1; have < length; have *= 2) bits &= bits >> have;
    return bits != 0;
}

// Reads the varints of one run, a block of 64 bytes at a time.
template <typename Groups, PackedKind kind>
class Reader {
  public:
    static constexpr bool kNarrow = kind == PackedKind::Varint32 || kind == PackedKind::ZigZag32;
    using Type = typename Number<kind>::Type;

    Reader(const uint8_t* p, Type* out, uint64_t bias) : p_(p), out_(out), bias_(bias) {}

    // Takes the varints that end in the block, as `ends` says, of which the first may begin before;
    // `goes_on` are the other bytes of its varints. Beyond the block `kBeyond` bytes are readable.
    // False at a varint that is malformed.
    [[gnu::always_inline]] inline bool take(const uint8_t* block, uint64_t ends, uint64_t goes_on) {
        if (ends == UINT64_MAX && p_ == block) {
            for (size_t i = 0; i < kBlock; ++i) out_[i] = Number<kind>::of(block[i]);
            out_ += kBlock;
            p_ = block + kBlock;
            return true;
        }
        if (__builtin_expect(ends == 0, 0)) return false;
        // Numbers of 32 bits that take at most four bytes do not have to be looked at again.
        constexpr int kShort = kNarrow ? 4 : 8;
        const auto first = block + std::countr_zero(ends) + 1 - p_;
        if (__builtin_expect(first > kShort || has_run<kShort>(goes_on), 0)) {
            return take_long(block, ends);
        }
        // In fours, so that the branch at the end is taken rarely: of those too many the next
        // block's are written over.
        const int count = std::popcount(ends);
        const uint8_t* p = p_;
        uint64_t rest = ends;
        for (int i = 0; i < count; i += 4) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const uint8_t* next = block + std::countr_zero(rest) + 1;
                rest &= rest - 1;
                const auto length = static_cast<size_t>(next - p);
                out_[i + j] = Number<kind>::of(Groups::join(load<uint64_t>(p), kGroups[length]));
                p = next;
            }
        }
        out_ += count;
        p_ = block + kBlock - std::countl_zero(ends);
        return true;
    }

    const uint8_t* at() const { return p_; }
    Type* out() const { return out_; }
    uint64_t over() const { return sums_ >> 32; }
    void go_to(const uint8_t* p) { p_ = p; }

  private:
    [[gnu::noinline]] bool take_long(const uint8_t* block, uint64_t ends) {
        for (; ends != 0; ends &= ends - 1) {
            const uint8_t* next = block + std::countr_zero(ends) + 1;
            uint64_t value = 0;
            if (read_varint_slow(p_, next, value) == nullptr) return false;
            if constexpr (kNarrow) sums_ |= value + bias_;
            *out_++ = Number<kind>::of(value);
            p_ = next;
        }
        return true;
    }

    const uint8_t* p_;
    Type* out_;
    const uint64_t bias_;
    uint64_t sums_ = 0;
};

// The ends of the varints are found for a block at once, so that no varint has to be read before
// the place of the next one is known.
template <typename Groups, PackedKind kind>
[[gnu::always_inline]] inline int64_t read_all(const uint8_t* p, const uint8_t* stop,
                                               const uint8_t* limit, void* to, uint64_t bias,
                                               uint64_t& over, const uint8_t*& bad) {
    auto* out = static_cast<typename Number<kind>::Type*>(to);
    Reader<Groups, kind> reader(p, out, bias);
    const uint8_t* block = p;
    bool good = true;
    while (good && static_cast<size_t>(stop - block) >= kBlock &&
           static_cast<size_t>(limit - block) >= kBlock + kBeyond) {
        const uint64_t ends = ends_of_block(block);
        good = reader.take(block, ends, ~ends);
        block += kBlock;
    }
    // What is left, less than two blocks from the first varint not taken on, is read from a copy.
    while (good && reader.at() < stop) {
        const uint8_t* from = reader.at();
        std::array<uint8_t, kBlock + kBeyond> rest{};
        const size_t size = std::min(kBlock, static_cast<size_t>(stop - from));
        std::memcpy(rest.data(), from, size);
        reader.go_to(rest.data());
        const uint64_t inside = UINT64_MAX >> (kBlock - size);
        const uint64_t ends = ends_of_block(rest.data());
        good = reader.take(rest.data(), ends & inside, ~ends & inside);
        reader.go_to(from + (reader.at() - rest.data()));
    }
    bad = reader.at();
    over = reader.over();
    return good ? reader.out() - out : -1;
}

template <typename Groups>
[[gnu::always_inline]] inline int64_t read_kind(PackedKind kind, const uint8_t* p,
                                                const uint8_t* stop, const uint8_t* limit, void* to,
                                                uint64_t bias, uint64_t& over,
                                                const uint8_t*& bad) {
    switch (kind) {
        case PackedKind::Varint32:
            return read_all<Groups, PackedKind::Varint32>(p, stop, limit, to, bias, over, bad);
        case PackedKind::Varint64:
            return read_all<Groups, PackedKind::Varint64>(p, stop, limit, to, bias, over, bad);
        case PackedKind::ZigZag32:
            return read_all<Groups, PackedKind::ZigZag32>(p, stop, limit, to, bias, over, bad);
        default:
            return read_all<Groups, PackedKind::ZigZag64>(p, stop, limit, to, bias, over, bad);
    }
}

#if defined(__x86_64__)
// Processors with a fast pext count bits by one instruction too.
[[gnu::target("bmi,bmi2,lzcnt,popcnt")]] int64_t read_with_pext(PackedKind kind, const uint8_t* p,
                                                                const uint8_t* stop,
                                                                const uint8_t* limit, void* to,
                                                                uint64_t bias, uint64_t& over,
                                                                const uint8_t*& bad) {
    return read_kind<ByPext>(kind, p, stop, limit, to, bias, over, bad);
}
#endif

}  // namespace

size_t count_varints(const uint8_t* p, size_t size) {
    size_t count = 0;
#if defined(__SSE2__)
    const __m128i below = _mm_set1_epi8(-1);
    for (; size >= 16; p += 16, size -= 16) {
        const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i ones = _mm_and_si128(_mm_cmpgt_epi8(chunk, below), _mm_set1_epi8(1));
        const __m128i sums = _mm_sad_epu8(ones, _mm_setzero_si128());
        count += static_cast<size_t>(_mm_extract_epi16(sums, 0) + _mm_extract_epi16(sums, 4));
    }
#endif
    for (size_t i = 0; i < size; ++i) count += p[i] < 0x80;
    return count;
}

int64_t read_packed(PackedKind kind, const uint8_t* p, const uint8_t* stop, const uint8_t* limit,
                    void* to, uint64_t bias, uint64_t& over, const uint8_t*& bad) {
#if defined(__x86_64__)
    if (kFastPext) return read_with_pext(kind, p, stop, limit, to, bias, over, bad);
#endif
    return read_kind<ByShifts>(kind, p, stop, limit, to, bias, over, bad);
}

}  // namespace cdp
