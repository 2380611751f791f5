// New inputs from old ones.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>

namespace fuzz {

using Random = std::mt19937_64;

inline size_t below(Random& random, size_t count) { return count == 0 ? 0 : random() % count; }
inline bool one_in(Random& random, size_t count) { return below(random, count) == 0; }

// A message after accidents to its fields (numbers, wire types, varints, texts, lengths, nesting,
// order; fields of `other` among them), to its bytes, or both.
std::string mutate_message(Random& random, const std::string& message, const std::string& other);

// Bytes after accidents, some of them of `other`.
std::string mutate_bytes(Random& random, std::string bytes, const std::string& other);

}  // namespace fuzz
