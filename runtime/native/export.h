// Columns as Arrow arrays through the Arrow C data interface.
#pragma once

#include "arrow_abi.h"
#include "program.h"

namespace cdp {

// Moves the rows decoded so far into a struct array, and leaves the program empty for the next
// batch. Buffers return to the pool when the consumer releases the array.
void export_batch(Program& program, ArrowArray& out);

// A binary array of `rows` texts that lie at `data` within `memory`.
void export_binary(int64_t rows, Buffer offsets, const uint8_t* data, Buffer memory,
                   ArrowArray& out);

}  // namespace cdp
