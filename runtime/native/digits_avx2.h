// Hexadecimal and base64 digits in vectors of 32, for processors that have them; convert.cpp reads
// the rest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>

namespace cdp {

inline const bool kHasAvx2 = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}();

[[gnu::target("avx2")]] inline __m256i load_32(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// `parse_hex_avx2` takes as many digits from the start of the text as it can, and says how many; it
// stops in front of what is no digit. Each `format_` does the same with bytes. Nothing is written
// behind what the whole makes.

[[gnu::target("avx2")]] inline size_t parse_hex_avx2(const uint8_t* text, size_t size,
                                                     uint8_t* to) {
    size_t at = 0;
    for (; size - at >= 32; at += 32) {
        const __m256i chars = load_32(text + at);
        const __m256i digit = _mm256_sub_epi8(chars, _mm256_set1_epi8('0'));
        const __m256i letter = _mm256_sub_epi8(chars, _mm256_set1_epi8('a'));
        const __m256i is_digit =
            _mm256_cmpeq_epi8(_mm256_min_epu8(digit, _mm256_set1_epi8(9)), digit);
        const __m256i is_letter =
            _mm256_cmpeq_epi8(_mm256_min_epu8(letter, _mm256_set1_epi8(5)), letter);
        if (_mm256_movemask_epi8(_mm256_or_si256(is_digit, is_letter)) != -1) break;
        const __m256i nibbles =
            _mm256_blendv_epi8(_mm256_add_epi8(letter, _mm256_set1_epi8(10)), digit, is_digit);
        const __m256i bytes = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x0110));
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(bytes, bytes), 0x08);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at / 2), _mm256_castsi256_si128(packed));
    }
    return at;
}

// 24 bytes of 32 digits; false where one is none. Writes 32.
//
// By the method of W. Mula and D. Lemire, "Faster Base64 Encoding and Decoding using AVX2
// Instructions" (2018), section 4: the high and the low half of a character each say with which of
// the other it is a digit, and the high one how far from its value.
[[gnu::target("avx2")]] inline bool parse_32_of_base64(__m256i chars, uint8_t* to) {
    const __m256i of_low =
        _mm256_setr_epi8(0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1A,
                         0x1B, 0x1B, 0x1B, 0x1A, 0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
                         0x11, 0x11, 0x13, 0x1A, 0x1B, 0x1B, 0x1B, 0x1A);
    const __m256i of_high =
        _mm256_setr_epi8(0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10,
                         0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08,
                         0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10);
    const __m256i distance =
        _mm256_setr_epi8(0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0,  //
                         0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i in_order =
        _mm256_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1,  //
                         2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const __m256i slash = _mm256_set1_epi8('/');
    const __m256i high = _mm256_and_si256(_mm256_srli_epi32(chars, 4), slash);
    const __m256i low = _mm256_and_si256(chars, slash);
    const bool good = _mm256_testz_si256(_mm256_shuffle_epi8(of_low, low),
                                         _mm256_shuffle_epi8(of_high, high)) != 0;
    const __m256i row = _mm256_add_epi8(_mm256_cmpeq_epi8(chars, slash), high);
    const __m256i values = _mm256_add_epi8(chars, _mm256_shuffle_epi8(distance, row));
    const __m256i pairs = _mm256_maddubs_epi16(values, _mm256_set1_epi32(0x01400140));
    const __m256i words = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00011000));
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(words, in_order),
                                                      _mm256_setr_epi32(0, 1, 2, 4, 5, 6, -1, -1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    return good;
}

// The bytes of digits without padding, a multiple of four; false where one is none. Writes up to 32
// bytes more than there are.
[[gnu::target("avx2")]] inline bool parse_base64_avx2(const uint8_t* text, size_t size,
                                                      uint8_t* to) {
    constexpr size_t kAtOnce = 32;
    if (size < kAtOnce) {
        // None behind the end is read: they count as 'A'.
        static constexpr std::array<int32_t, 16> kMasks{-1, -1, -1, -1, -1, -1, -1, -1};
        const __m256i mask = _mm256_loadu_si256(
            reinterpret_cast<const __m256i*>(kMasks.data() + kMasks.size() / 2 - size / 4));
        const __m256i few = _mm256_maskload_epi32(reinterpret_cast<const int*>(text), mask);
        return parse_32_of_base64(_mm256_blendv_epi8(_mm256_set1_epi8('A'), few, mask), to);
    }
    bool good = true;
    for (size_t at = 0; at + kAtOnce < size; at += kAtOnce) {
        good &= parse_32_of_base64(load_32(text + at), to + at / 4 * 3);
    }
    // The last ones overlap those before.
    const size_t last = size - kAtOnce;
    return parse_32_of_base64(load_32(text + last), to + last / 4 * 3) && good;
}

[[gnu::target("avx2")]] inline size_t format_hex_avx2(const uint8_t* data, size_t size,
                                                      uint8_t* to) {
    const __m256i digits = _mm256_setr_epi8('0', '1', '2', '3', '4', '5', '6', '7',  //
                                            '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',  //
                                            '0', '1', '2', '3', '4', '5', '6', '7',  //
                                            '8', '9', 'a', 'b', 'c', 'd', 'e', 'f');
    size_t at = 0;
    for (; size - at >= 16; at += 16) {
        const __m256i bytes =
            _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + at)));
        const __m256i halves =
            _mm256_or_si256(_mm256_srli_epi16(bytes, 4), _mm256_slli_epi16(bytes, 8));
        const __m256i nibbles = _mm256_and_si256(halves, _mm256_set1_epi8(0x0F));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at * 2),
                            _mm256_shuffle_epi8(digits, nibbles));
    }
    return at;
}

// By section 3 of the paper named above: three bytes are spread over four, of which a
// multiplication each moves two groups of six bits to their places; the group that a digit belongs
// to says how far it is.
[[gnu::target("avx2")]] inline size_t format_base64_avx2(const uint8_t* data, size_t size,
                                                         uint8_t* to) {
    const __m256i spread = _mm256_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10,  //
                                            1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
    // Of 'a' to 'z', then the ten digits, '+', '/', and 'A' to 'Z'.
    const __m256i distance =
        _mm256_setr_epi8(71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0,  //
                         71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0);
    // 12 bytes are taken in each half, but 16 are read.
    constexpr size_t kRead = 28;
    size_t at = 0;
    for (; size - at >= kRead; at += 24) {
        const auto* low = reinterpret_cast<const __m128i*>(data + at);
        const auto* high = reinterpret_cast<const __m128i*>(data + at + 12);
        const __m256i bytes = _mm256_shuffle_epi8(
            _mm256_set_m128i(_mm_loadu_si128(high), _mm_loadu_si128(low)), spread);
        const __m256i first = _mm256_mulhi_epu16(
            _mm256_and_si256(bytes, _mm256_set1_epi32(0x0FC0FC00)), _mm256_set1_epi32(0x04000040));
        const __m256i second = _mm256_mullo_epi16(
            _mm256_and_si256(bytes, _mm256_set1_epi32(0x003F03F0)), _mm256_set1_epi32(0x01000010));
        const __m256i values = _mm256_or_si256(first, second);
        const __m256i is_upper = _mm256_cmpgt_epi8(_mm256_set1_epi8(26), values);
        const __m256i group = _mm256_or_si256(_mm256_subs_epu8(values, _mm256_set1_epi8(51)),
                                              _mm256_and_si256(is_upper, _mm256_set1_epi8(13)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at / 3 * 4),
                            _mm256_add_epi8(values, _mm256_shuffle_epi8(distance, group)));
    }
    return at;
}

}  // namespace cdp
#endif
