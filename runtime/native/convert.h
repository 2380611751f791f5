// Texts that a rule turns into values, and back: hex, base64, base32, decimals, and the calendar.
//
// Each `parse_` takes only the canonical text of a value, the one that its `format_` writes: a text
// that would not come back the same is for `_raw`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cdp {

// Lower-case hexadecimal. `to` takes size / 2 bytes.
bool parse_hex(const uint8_t* text, size_t size, uint8_t* to);
void format_hex(const uint8_t* data, size_t size, uint8_t* to);

// RFC 4648 section 4, padded. Returns the number of bytes, or -1. `to` takes size / 4 * 3 bytes,
// and `kParseSlack` more may be written.
constexpr size_t kParseSlack = 32;
int64_t parse_base64(const uint8_t* text, size_t size, uint8_t* to);
void format_base64(const uint8_t* data, size_t size, uint8_t* to);
inline size_t base64_size(size_t size) { return (size + 2) / 3 * 4; }

// RFC 4648 section 6, upper case, without padding. `to` takes size * 5 / 8 bytes.
int64_t parse_base32(const uint8_t* text, size_t size, uint8_t* to);
void format_base32(const uint8_t* data, size_t size, uint8_t* to);
inline size_t base32_size(size_t size) { return (size * 8 + 4) / 5; }

// Digits with exactly `scale` of them behind the point, into `width` (16 or 32) bytes of two's
// complement.
bool parse_decimal(const uint8_t* text, size_t size, int32_t precision, int32_t scale, uint8_t* to,
                   int32_t width);
std::string format_decimal(const uint8_t* value, int32_t width, int32_t scale);

// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, and back.
bool days_of_date(int64_t year, int64_t month, int64_t day, int32_t& days);
void date_of_days(int32_t days, int64_t& year, int64_t& month, int64_t& day);

}  // namespace cdp
