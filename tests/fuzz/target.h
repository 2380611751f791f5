// What is run on each input, and the properties that have to hold.
#pragma once

#include <span>
#include <string>

#include "tables.h"

namespace fuzz {

// Decodes the inputs, as one batch with good messages around them, in every way there is, and what
// comes of it back and forth. `choice` says which messages, and how small the limits. Throws
// Finding.
void run_decoder(Table& table, std::span<const std::string> inputs, size_t choice);

// Encodes the batch drawn from the input, and what comes of it back and forth. Throws Finding.
void run_encoder(Table& table, const std::string& input);

}  // namespace fuzz
