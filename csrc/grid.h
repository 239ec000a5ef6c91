// Gaussian noise drawn exactly on a grid, without a float: a draw of 60 bits is held against
// integer thresholds. Its upper 32 bits are a word of the Philox block that normals are made of;
// the lower 28 are drawn, from a block that nothing else uses, only where the upper 32 are those of
// a threshold, which is for one element in a million or so.
#pragma once

#include "philox.h"

namespace deqcert {

// Where the thresholds of a bucket begin: how many lie below it, and the next one.
struct GridBucket {
  int32_t below, upper;
};

// The law of the noise as tables, made by deqcert/kernels/grid.py. Thresholds ascend; the number of
// those that a draw is not below is the noise, counted from the lowest value that it can have.
struct GridTable {
  int32_t count;              // of thresholds
  const int32_t* upper;       // (count + 1): threshold >> 28, less 2^31; the last is a stopper
  const int32_t* lower;       // (count): threshold & (2^28 - 1)
  const GridBucket* buckets;  // (64 << mantissa)
  int32_t mantissa;           // bits of a draw's distance from the end that tell buckets apart
  int32_t steps;              // thresholds that a draw has to be held against
  int32_t low, high;          // of the grid points, in steps of the grid
  const float* values;        // (high - low + 1): what the grid points are as floats
};

// Draws that lie together: by the exponent and the first bits of their distance from the nearer end
// of all draws, because that is how the thresholds of a Gaussian lie. The draw is less 2^31.
DEQCERT_SHARED int32_t grid_bucket(int32_t draw, int32_t mantissa) {
  const int32_t side = draw >> 31;                 // -1 for the lower half
  const int32_t end = (draw ^ side) ^ 0x7FFFFFFF;  // 0 for the outermost draw
  const int32_t exact = end & ~(end >> 24);        // so that no rounding carries it upwards
  const float whole = static_cast<float>(exact);
  const float distance = whole > 0.5f ? whole : 0.5f;
  int32_t bits;
  memcpy(&bits, &distance, sizeof bits);
  return (bits >> (23 - mantissa)) - (126 << mantissa) + (~side & (32 << mantissa));
}

// Thresholds that the 60 bits of a draw are not below, where its upper bits are those of one.
DEQCERT_SHARED int32_t grid_tie(const GridTable& table, int32_t draw, int32_t found,
                                int64_t element, uint32_t sample, uint32_t index, uint32_t stage,
                                PhiloxKey key) {
  uint32_t c[4] = {static_cast<uint32_t>(element / 4) | 0x80000000u, sample, index, stage};
  philox4x32(c, key);
  const int32_t rest = static_cast<int32_t>(c[element % 4] >> 4);
  while (found < table.count && table.upper[found] == draw && table.lower[found] <= rest) ++found;
  return found;
}

// The grid point of an element whose noise is `found` steps above the lowest.
DEQCERT_SHARED float grid_value(const GridTable& table, int32_t shifted, int32_t found) {
  const int32_t point = shifted + found;
  const int32_t above = point > table.low ? point : table.low;
  return table.values[(above < table.high ? above : table.high) - table.low];
}

}  // namespace deqcert
