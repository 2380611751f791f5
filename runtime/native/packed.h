// Packed varints, many at once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cdp {

enum class PackedKind : uint8_t { Varint32, Varint64, ZigZag32, ZigZag64 };

// How many varints end in the `size` bytes at `p`.
size_t count_varints(const uint8_t* p, size_t size);

// Stores the varints between `p` and `stop` as 32 or 64 bit numbers from `to` on, where there is
// room for as many as `count_varints` says. Memory may be read up to `limit`. Returns how many
// there were, or -1 at a malformed one, which then begins at `bad`. `over` is not zero where one of
// 32 bits, `bias` added to it, is more than that: 2^31 for signed ones, 0 for others.
int64_t read_packed(PackedKind kind, const uint8_t* p, const uint8_t* stop, const uint8_t* limit,
                    void* to, uint64_t bias, uint64_t& over, const uint8_t*& bad);

}  // namespace cdp
