#include "convert.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

#include "digits_avx2.h"

namespace cdp {

namespace {

constexpr uint8_t kNone = 0xFF;

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr std::string_view kBase64Digits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view kBase32Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

constexpr std::array<uint8_t, 256> values_of(std::string_view digits) {
    std::array<uint8_t, 256> values{};
    values.fill(kNone);
    for (size_t i = 0; i < digits.size(); ++i) {
        values[static_cast<uint8_t>(digits[i])] = static_cast<uint8_t>(i);
    }
    return values;
}

constexpr auto kHexValues = values_of(kHexDigits);
constexpr auto kBase64Values = values_of(kBase64Digits);
constexpr auto kBase32Values = values_of(kBase32Digits);

// An unsigned number of 256 bits, in words from the lowest.
using Wide = std::array<uint64_t, 4>;

void multiply_add(Wide& value, uint64_t factor, uint64_t addend) {
    unsigned __int128 carry = addend;
    for (uint64_t& word : value) {
        carry += static_cast<unsigned __int128>(word) * factor;
        word = static_cast<uint64_t>(carry);
        carry >>= 64;
    }
}

uint64_t divide(Wide& value, uint64_t divisor) {
    unsigned __int128 rest = 0;
    for (size_t i = value.size(); i-- > 0;) {
        rest = (rest << 64) | value[i];
        value[i] = static_cast<uint64_t>(rest / divisor);
        rest %= divisor;
    }
    return static_cast<uint64_t>(rest);
}

void negate(Wide& value) {
    uint64_t carry = 1;
    for (uint64_t& word : value) {
        word = ~word + carry;
        carry = (carry != 0 && word == 0) ? 1 : 0;
    }
}

constexpr uint64_t kChunk = 1'000'000'000'000'000'000u;  // the largest power of ten in 64 bits
constexpr int kChunkDigits = 18;

// Characters of `bits` bits each; returns -1 on a foreign character or bits left over that are not
// zero.
template <int kBits>
int64_t parse_digits(const std::array<uint8_t, 256>& values, const uint8_t* text, size_t size,
                     uint8_t* to) {
    uint32_t window = 0;
    int held = 0;
    uint8_t* out = to;
    for (size_t i = 0; i < size; ++i) {
        const uint8_t digit = values[text[i]];
        if (digit == kNone) return -1;
        window = (window << kBits) | digit;
        held += kBits;
        if (held >= 8) {
            held -= 8;
            *out++ = static_cast<uint8_t>(window >> held);
        }
    }
    if (held >= kBits || (window & ((1u << held) - 1)) != 0) return -1;
    return out - to;
}

// Digits without padding, a multiple of four.
bool parse_whole_base64(const uint8_t* text, size_t size, uint8_t* to) {
    uint32_t seen = 0;
    for (size_t at = 0; at < size; at += 4) {
        const uint32_t a = kBase64Values[text[at]];
        const uint32_t b = kBase64Values[text[at + 1]];
        const uint32_t c = kBase64Values[text[at + 2]];
        const uint32_t d = kBase64Values[text[at + 3]];
        seen |= a | b | c | d;
        const uint32_t word = a << 18 | b << 12 | c << 6 | d;
        *to++ = static_cast<uint8_t>(word >> 16);
        *to++ = static_cast<uint8_t>(word >> 8);
        *to++ = static_cast<uint8_t>(word);
    }
    return seen <= 0x3F;
}

template <int kBits>
uint8_t* format_digits(std::string_view digits, const uint8_t* data, size_t size, uint8_t* to) {
    uint32_t window = 0;
    int held = 0;
    for (size_t i = 0; i < size; ++i) {
        window = (window << 8) | data[i];
        held += 8;
        while (held >= kBits) {
            held -= kBits;
            *to++ = static_cast<uint8_t>(digits[(window >> held) & ((1u << kBits) - 1)]);
        }
    }
    if (held > 0) {
        *to++ = static_cast<uint8_t>(digits[(window << (kBits - held)) & ((1u << kBits) - 1)]);
    }
    return to;
}

}  // namespace

bool parse_hex(const uint8_t* text, size_t size, uint8_t* to) {
    if (size % 2 != 0) return false;
    uint8_t seen = 0;
    size_t i = 0;
#if defined(__x86_64__)
    if (kHasAvx2) i = parse_hex_avx2(text, size, to);
#endif
    for (; i < size; i += 2) {
        const uint8_t high = kHexValues[text[i]];
        const uint8_t low = kHexValues[text[i + 1]];
        seen |= high | low;
        to[i / 2] = static_cast<uint8_t>(high << 4 | (low & 0x0F));
    }
    return seen <= 0x0F;
}

void format_hex(const uint8_t* data, size_t size, uint8_t* to) {
    size_t at = 0;
#if defined(__x86_64__)
    if (kHasAvx2) at = format_hex_avx2(data, size, to);
#endif
    format_digits<4>(kHexDigits, data + at, size - at, to + at * 2);
}

int64_t parse_base64(const uint8_t* text, size_t size, uint8_t* to) {
    if (size % 4 != 0) return -1;
    if (size == 0) return 0;
    const size_t body = size - 4;  // of the last four some may be padding
#if defined(__x86_64__)
    const bool good =
        kHasAvx2 ? parse_base64_avx2(text, body, to) : parse_whole_base64(text, body, to);
#else
    const bool good = parse_whole_base64(text, body, to);
#endif
    if (!good) return -1;
    text += body;
    to += body / 4 * 3;
    const size_t left = text[3] != '=' ? 4 : text[2] != '=' ? 3 : 2;
    const int64_t last = parse_digits<6>(kBase64Values, text, left, to);
    return last < 0 ? -1 : static_cast<int64_t>(body / 4 * 3) + last;
}

void format_base64(const uint8_t* data, size_t size, uint8_t* to) {
    size_t at = 0;
#if defined(__x86_64__)
    if (kHasAvx2) at = format_base64_avx2(data, size, to);
#endif
    uint8_t* end = format_digits<6>(kBase64Digits, data + at, size - at, to + at / 3 * 4);
    std::fill(end, to + base64_size(size), '=');
}

int64_t parse_base32(const uint8_t* text, size_t size, uint8_t* to) {
    return parse_digits<5>(kBase32Values, text, size, to);
}

void format_base32(const uint8_t* data, size_t size, uint8_t* to) {
    format_digits<5>(kBase32Digits, data, size, to);
}

bool parse_decimal(const uint8_t* text, size_t size, int32_t precision, int32_t scale, uint8_t* to,
                   int32_t width) {
    const uint8_t* p = text;
    const uint8_t* end = text + size;
    const bool negative = p < end && *p == '-';
    if (negative) ++p;
    const auto length = static_cast<int64_t>(end - p);
    const int64_t fraction = scale > 0 ? scale : 0;
    const int64_t whole = length - (fraction > 0 ? fraction + 1 : 0);
    if (whole < 1 || (whole > 1 && *p == '0')) return false;
    if (fraction > 0 && p[whole] != '.') return false;
    if (scale == 0 && length <= std::min(precision, kChunkDigits)) {
        uint64_t value = 0;
        uint32_t most = 0;
        for (; p < end; ++p) {
            const uint32_t digit = static_cast<uint8_t>(*p - '0');
            most = std::max(most, digit);
            value = value * 10 + digit;
        }
        if (most > 9 || (negative && value == 0)) return false;
        const uint64_t low = negative ? 0 - value : value;
        std::memset(to, negative ? 0xFF : 0, static_cast<size_t>(width));
        std::memcpy(to, &low, sizeof low);
        return true;
    }
    int64_t zeros = scale < 0 ? -int64_t{scale} : 0;  // a negative scale: the last digits are zeros
    if (zeros >= whole && !(whole == 1 && *p == '0')) return false;
    if (whole == 1 && *p == '0') zeros = 0;
    Wide value{};
    uint64_t chunk = 0;
    uint64_t power = 1;
    int64_t digits = 0;
    for (int64_t i = 0; i < length; ++i) {
        if (fraction > 0 && i == whole) continue;
        const uint8_t digit = static_cast<uint8_t>(p[i] - '0');
        if (digit > 9) return false;
        if (i >= whole - zeros && i < whole) {
            if (digit != 0) return false;
            continue;
        }
        if (digits > 0 || digit != 0) ++digits;
        if (digits > precision) return false;
        chunk = chunk * 10 + digit;
        power *= 10;
        if (power == kChunk) {
            multiply_add(value, power, chunk);
            chunk = 0;
            power = 1;
        }
    }
    multiply_add(value, power, chunk);
    if (negative) {
        if (digits == 0) return false;
        negate(value);
    }
    std::memcpy(to, value.data(), static_cast<size_t>(width));
    return true;
}

std::string format_decimal(const uint8_t* data, int32_t width, int32_t scale) {
    Wide value{};
    std::memcpy(value.data(), data, static_cast<size_t>(width));
    const bool negative = (data[width - 1] & 0x80) != 0;
    if (negative) {
        if (width < 32) std::fill(value.begin() + width / 8, value.end(), ~uint64_t{0});
        negate(value);
    }
    std::string digits;  // from the last
    while (std::ranges::any_of(value, [](uint64_t word) { return word != 0; })) {
        uint64_t chunk = divide(value, kChunk);
        const bool top = std::ranges::all_of(value, [](uint64_t word) { return word == 0; });
        for (int i = 0; i < kChunkDigits && (!top || chunk != 0); ++i, chunk /= 10) {
            digits.push_back(static_cast<char>('0' + chunk % 10));
        }
    }
    const bool zero = digits.empty();
    if (scale < 0 && !zero) digits.insert(0, static_cast<size_t>(-scale), '0');
    const size_t fraction = scale > 0 ? static_cast<size_t>(scale) : 0;
    if (digits.size() <= fraction) digits.append(fraction + 1 - digits.size(), '0');
    if (fraction > 0) digits.insert(fraction, 1, '.');
    if (negative) digits.push_back('-');
    std::ranges::reverse(digits);
    return digits;
}

// Both ways after Howard Hinnant's description of the civil calendar in 400-year eras.
bool days_of_date(int64_t year, int64_t month, int64_t day, int32_t& days) {
    static constexpr std::array<int, 12> kDays{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (year < 1 || year > 9999 || month < 1 || month > 12 || day < 1) return false;
    const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    const int last = kDays[static_cast<size_t>(month - 1)] + (month == 2 && leap ? 1 : 0);
    if (day > last) return false;
    const int64_t y = month <= 2 ? year - 1 : year;
    const int64_t era = y / 400;
    const int64_t year_of_era = y - era * 400;
    const int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    const int64_t day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    days = static_cast<int32_t>(era * 146097 + day_of_era - 719468);
    return true;
}

void date_of_days(int32_t days, int64_t& year, int64_t& month, int64_t& day) {
    const int64_t shifted = int64_t{days} + 719468;
    const int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    const int64_t day_of_era = shifted - era * 146097;
    const int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    const int64_t day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const int64_t shifted_month = (5 * day_of_year + 2) / 153;
    day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
}

}  // namespace cdp
