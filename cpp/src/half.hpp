// IEEE 754 half precision, for compilers without a type of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace gstk::impl {

inline float from_half(std::uint16_t half) {
    const int exponent = (half >> 10) & 31, fraction = half & 1023;
    float value;
    if (exponent == 31)
        value = fraction ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    else if (exponent == 0)
        value = std::ldexp(static_cast<float>(fraction), -24);
    else
        value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    return half & 0x8000 ? -value : value;
}

// Rounds to the nearest, halfway to the even one, as NumPy does.
inline std::uint16_t to_half(float value) {
    constexpr float kSmallestNormal = 6.103515625e-05f, kOverflow = 65520.0f;
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7e00);
    if (size >= kOverflow) return static_cast<std::uint16_t>(sign | 0x7c00);
    if (size < kSmallestNormal) return static_cast<std::uint16_t>(sign + std::lrintf(std::ldexp(size, 24)));
    int exponent = 0;
    const float fraction = std::frexp(size, &exponent);  // 0.5 to 1
    // A fraction that rounds up to 1 carries into the exponent by itself.
    const long bits = ((static_cast<long>(exponent) + 14) << 10) + std::lrintf(std::ldexp(fraction, 11)) - 1024;
    return static_cast<std::uint16_t>(sign + bits);
}

}  // namespace gstk::impl
