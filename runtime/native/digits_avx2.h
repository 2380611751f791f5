// Hexadecimal and base64 digits in vectors of 32, for processors that have them; convert.cpp reads
// the rest.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>

namespace cdp {

inline const bool kHasAvx2 = [] {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}();

// Each takes as many digits from the start of the text as it can, and says how many; it stops in
// front of what is no digit. Nothing is written behind the bytes that the whole text makes.

[[gnu::target("avx2")]] inline size_t parse_hex_avx2(const uint8_t* text, size_t size,
                                                     uint8_t* to) {
    size_t at = 0;
    for (; size - at >= 32; at += 32) {
        const __m256i chars = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + at));
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

// By the method of W. Mula and D. Lemire, "Faster Base64 Encoding and Decoding using AVX2
// Instructions" (2018), section 4: the high and the low half of a character each say with which of
// the other it is a digit, and the high one how far from its value.
[[gnu::target("avx2")]] inline size_t parse_base64_avx2(const uint8_t* text, size_t size,
                                                        uint8_t* to) {
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
    // 24 bytes come of 32 digits, and 32 are written: the last 8 must be of digits to come.
    constexpr size_t kBehind = 12;
    size_t at = 0;
    for (; size - at >= 32 + kBehind; at += 32) {
        const __m256i chars = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + at));
        const __m256i high = _mm256_and_si256(_mm256_srli_epi32(chars, 4), slash);
        const __m256i low = _mm256_and_si256(chars, slash);
        if (_mm256_testz_si256(_mm256_shuffle_epi8(of_low, low),
                               _mm256_shuffle_epi8(of_high, high)) == 0) {
            break;
        }
        const __m256i row = _mm256_add_epi8(_mm256_cmpeq_epi8(chars, slash), high);
        const __m256i values = _mm256_add_epi8(chars, _mm256_shuffle_epi8(distance, row));
        const __m256i pairs = _mm256_maddubs_epi16(values, _mm256_set1_epi32(0x01400140));
        const __m256i words = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00011000));
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_shuffle_epi8(words, in_order), _mm256_setr_epi32(0, 1, 2, 4, 5, 6, -1, -1));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at / 4 * 3), bytes);
    }
    return at;
}

}  // namespace cdp
#endif
