// States of 16 bits: the upper half of a float32. Every operation happens in float32 or float64; a
// value is rounded, to nearest and ties to even, where it is stored.
#pragma once

#include <cstdint>
#include <cstring>

#include "portable.h"

namespace deqcert {

struct bfloat16 {
  uint16_t bits;

  bfloat16() = default;

  DEQCERT_SHARED_MEMBER bfloat16(float value) {
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    const bool nan = value != value;
    wide += 0x7FFFu + ((wide >> 16) & 1u);
    bits = nan ? 0x7FC0u : static_cast<uint16_t>(wide >> 16);
  }

  DEQCERT_SHARED_MEMBER operator float() const {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
  }
};

// What coefficients and values on their way are held in.
template <typename T>
struct RealType {
  typedef T type;
};
template <>
struct RealType<bfloat16> {
  typedef float type;
};
template <typename T>
using Real = typename RealType<T>::type;

}  // namespace deqcert
