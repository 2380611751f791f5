// google.protobuf.Struct, Value and ListValue as JSON text, and back
// (https://protobuf.dev/programming-guides/json).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "program.h"

namespace cdp {

enum class JsonResult : uint8_t {
    Exact,      // the text says all that the message says
    Inexact,    // the message has unknown fields besides
    NoJson,     // a valid message that JSON cannot say: no kind set, NaN ...
    Malformed,  // no valid message
};

// Appends the JSON text of the serialized message.
JsonResult json_of_message(JsonKind kind, const uint8_t* data, size_t size, int depth,
                           std::string& out);

// Appends the serialized message of the JSON text; false where the text is not such a JSON value.
bool message_of_json(JsonKind kind, std::string_view text, int depth, std::string& out);

}  // namespace cdp
