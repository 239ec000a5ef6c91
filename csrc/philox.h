// Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and a Box-Muller transform (1958) that gives the
// same float32 bits everywhere: only +, -, *, / and sqrt in float64, each correctly rounded, in a
// written order. Compile without contraction to fused multiply-adds (-ffp-contract=off,
// -fmad=false). The constants mirror deqcert/kernels/philox.py. Free of branches, so that a
// loop over it vectorises.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "portable.h"

namespace deqcert {

struct PhiloxKey {
  uint32_t k0, k1;
};

DEQCERT_SHARED void philox4x32(uint32_t c[4], PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(c[0]) * 0xD2511F53u;
    const uint64_t p1 = static_cast<uint64_t>(c[2]) * 0xCD9E8D57u;
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key.k0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key.k1;
    c[3] = static_cast<uint32_t>(p0);
    key.k0 += 0x9E3779B9u;
    key.k1 += 0xBB67AE85u;
  }
}

DEQCERT_SHARED double double_of_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

DEQCERT_SHARED uint64_t bits_of_double(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Exact for integers below 2^52: they are put into the mantissa of 2^52.
DEQCERT_SHARED double double_of_integer(uint64_t value) {
  return double_of_bits(value | 0x4330000000000000u) - 4503599627370496.0;
}

// ln(v / 2^33) for an integer 1 <= v < 2^33: v = 2^e m, ln m = 2 atanh((m - 1) / (m + 1)).
DEQCERT_SHARED double log_unit(uint64_t v) {
  const uint64_t bits = bits_of_double(double_of_integer(v));
  const double half = double_of_bits((bits & 0x000FFFFFFFFFFFFFu) | 0x3FE0000000000000u);
  const bool low = half < 0.7071067811865476;
  const double m = low ? half + half : half;
  const double power = double_of_integer(bits >> 52) - (low ? 1056.0 : 1055.0);
  const double s = (m - 1.0) / (m + 1.0);
  const double q = s * s;
  double p = 2.0 / 17;
  p = p * q + 2.0 / 15;
  p = p * q + 2.0 / 13;
  p = p * q + 2.0 / 11;
  p = p * q + 2.0 / 9;
  p = p * q + 2.0 / 7;
  p = p * q + 2.0 / 5;
  p = p * q + 2.0 / 3;
  p = p * q + 2.0;
  return power * 0.6931471805599453 + s * p;
}

DEQCERT_SHARED void normal_pair(uint32_t u0, uint32_t u1, float* first, float* second) {
  // The middle of each of 2^32 cells, (u0 + 1/2) / 2^32: an end of them would bias the radius.
  const double radius = sqrt(-2.0 * log_unit(2 * static_cast<uint64_t>(u0) + 1));

  // The angle is (u1 + 1/2) / 2^32 of a turn: a quadrant, and an offset of up to an eighth of it.
  const uint32_t turned = u1 + 0x20000000u;
  const double offset = double_of_integer(turned & 0x3FFFFFFFu) - 536870912.0;
  const double angle = (offset + 0.5) * 1.4629180792671596e-09;  // 2 pi / 2^32
  const double q = angle * angle;
  double p = -1.0 / 1307674368000.0;
  p = p * q + 1.0 / 6227020800.0;
  p = p * q + -1.0 / 39916800.0;
  p = p * q + 1.0 / 362880.0;
  p = p * q + -1.0 / 5040.0;
  p = p * q + 1.0 / 120.0;
  p = p * q + -1.0 / 6.0;
  p = p * q + 1.0;
  const double sine = angle * p;
  p = 1.0 / 20922789888000.0;
  p = p * q + -1.0 / 87178291200.0;
  p = p * q + 1.0 / 479001600.0;
  p = p * q + -1.0 / 3628800.0;
  p = p * q + 1.0 / 40320.0;
  p = p * q + -1.0 / 720.0;
  p = p * q + 1.0 / 24.0;
  p = p * q + -1.0 / 2.0;
  p = p * q + 1.0;

  const uint64_t quadrant = turned >> 30;
  const bool odd = (quadrant & 1) != 0;
  const uint64_t a = bits_of_double(odd ? sine : p);
  const uint64_t b = bits_of_double(odd ? p : sine);
  // Signs over the quadrants: + - - + for the first, + + - - for the second.
  const uint64_t sign_a = ((quadrant ^ (quadrant >> 1)) & 1) << 63;
  const uint64_t sign_b = (quadrant >> 1) << 63;
  *first = static_cast<float>(radius * double_of_bits(a ^ sign_a));
  *second = static_cast<float>(radius * double_of_bits(b ^ sign_b));
}

// The four normals of one block: elements 4 block .. 4 block + 3 of a row.
DEQCERT_SHARED void normal_block(uint32_t block, uint32_t sample, uint32_t index, uint32_t stage,
                                 PhiloxKey key, float out[4]) {
  uint32_t c[4] = {block, sample, index, stage};
  philox4x32(c, key);
  normal_pair(c[0], c[1], out, out + 1);
  normal_pair(c[2], c[3], out + 2, out + 3);
}

}  // namespace deqcert
