// One residual block of an MDEQ for every row: two 3x3 convolutions and three group normalisations.
#pragma once

#include <cstdint>

namespace deqcert {

// Maps lie in memory as [channels / 8][height + 2][width + 2][8] while a row is worked on, with a
// border of zeros. Weights come packed (deqcert/kernels/block.py): output channels in panels of up
// to three times 16, each panel as [input channels / 8][3][3][8][panel], and where eight output
// channels are left, these as [input channels / 8][3][3][4][8][2], two input channels side by side.
struct ResidualBlock {
  int64_t rows, channels, inner, height, width;  // channels and inner: multiples of 8
  int64_t stride;                                // from a row of x to the next
  const float* x;                                // (rows, channels, height, width)
  const float* injection;                        // the same, packed, or nullptr
  const float *first, *second;                   // packed weights
  const float *scale[3], *shift[3];  // of the normalisations: (inner), (channels), (channels)
  int64_t groups;
  double eps[3];
  float* out;        // (rows, channels, height, width)
  int64_t together;  // rows that are worked on together
  int64_t tasks;     // workspaces
  float* workspace;  // (tasks, block_workspace), aligned to 64 bytes
};

constexpr int64_t BLOCK = 8;  // channels of a pixel that lie side by side

inline int64_t block_map(int64_t channels, int64_t height, int64_t width) {
  return channels * (height + 2) * (width + 2);
}

// Floats of workspace for so many rows together.
inline int64_t block_workspace(int64_t channels, int64_t inner, int64_t height, int64_t width,
                               int64_t together) {
  const int64_t maps = 2 * block_map(channels, height, width) + block_map(inner, height, width);
  const int64_t widest = channels > inner ? channels : inner;
  return (together * (maps + 2 * widest) + 15) / 16 * 16;
}

// Of the next panel where so many times 16 output channels are left.
inline int64_t panel_of(int64_t left) { return left == 4 ? 2 : left > 3 ? 3 : left; }

// Floats of a panel's packed weights; 0 stands for the last eight output channels.
inline int64_t panel_weights(int64_t entering, int64_t panel) {
  return entering * 9 * (panel ? 16 * panel : 8);
}

}  // namespace deqcert
