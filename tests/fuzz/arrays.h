// Arrow arrays: owned, checked against the columnar format, and compared by their values.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrow_abi.h"
#include "tables.h"

namespace fuzz {

// A property that does not hold.
struct Finding : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// `what`, a text or a function that makes one, says what does not hold.
template <typename What>
void expect(bool holds, const What& what) {
    if (holds) return;
    if constexpr (std::is_invocable_v<What>) {
        throw Finding(what());
    } else {
        throw Finding(what);
    }
}

// Releases what it holds.
class Array {
  public:
    Array() = default;
    Array(Array&& other) noexcept : arrow_(std::exchange(other.arrow_, {})) {}
    Array& operator=(Array&& other) noexcept {
        std::swap(arrow_, other.arrow_);
        return *this;
    }
    ~Array() {
        if (arrow_.release != nullptr) arrow_.release(&arrow_);
    }
    ArrowArray& operator*() { return arrow_; }
    const ArrowArray& operator*() const { return arrow_; }
    const ArrowArray* operator->() const { return &arrow_; }

  private:
    ArrowArray arrow_{};
};

// The bytes of a value of a column of numbers or of a fixed size.
int64_t width_of(const Schema& schema);

bool is_valid(const ArrowArray& array, int64_t row);

// The bytes of a value of a utf8 or binary column, or of a dictionary column its name.
std::string_view text_at(const Schema& schema, const ArrowArray& array, int64_t row);

// Reads all of the array and throws Finding where it is not of its schema and the format.
void validate(const Schema& schema, const ArrowArray& array);

// Where the values of two rows differ: the column's path, or empty where they are equal.
std::string difference(const Schema& schema, const ArrowArray& a, int64_t row_of_a,
                       const ArrowArray& b, int64_t row_of_b);

}  // namespace fuzz
