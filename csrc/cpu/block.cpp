// The residual block: a register-blocked direct convolution, normalised while it is in the cache.
#include "../block.h"

#include <cmath>

#include "parallel.h"
#include "simd.h"

#if defined(__GNUC__) && !defined(__clang__)
// Vectors of more than a register are passed between functions of this file alone.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

typedef WideFloats V;  // a register
constexpr int LANES = 2 * WIDTH;
constexpr int N = 16 / LANES;  // registers for 16 output channels
// Pixels of a tile by the panel's width; what fits into the registers.
template <int K>
constexpr int PIXELS = WIDTH == 8   ? (K == 1 ? 16 : 8)
                       : WIDTH == 4 ? (K == 1 ? 4 : 2)
                                    : (K == 1 ? 2 : 1);

typedef float Eight __attribute__((vector_size(32)));
typedef int EightInts __attribute__((vector_size(32)));

template <typename T>
inline T get(const float* p) {
  T v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <typename T>
inline void set(float* p, const T& v) {
  memcpy(p, &v, sizeof v);
}

inline V fused(V a, V b, V c) {
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 8
  return reinterpret_cast<V>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  return reinterpret_cast<V>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

inline V spread(const float* p) {
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 8
  return reinterpret_cast<V>(_mm512_set1_ps(*p));
#elif defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  return reinterpret_cast<V>(_mm256_broadcast_ss(p));
#else
  return V{*p, *p, *p, *p};
#endif
}

// Two numbers over and over.
inline V spread_pair(const float* p) {
  double both;
  memcpy(&both, p, sizeof both);
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 8
  return reinterpret_cast<V>(_mm512_set1_pd(both));
#elif defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  return reinterpret_cast<V>(_mm256_set1_pd(both));
#else
  V v;
  for (int i = 0; i < LANES; i += 2) memcpy(reinterpret_cast<float*>(&v) + i, p, sizeof both);
  return v;
#endif
}

struct Map {
  float* data;  // of the first pixel that is not border, first channels
  int64_t channels, height, width;
  int64_t line() const { return (width + 2) * BLOCK; }
  int64_t plane() const { return (height + 2) * line(); }
  float* at(int64_t block, int64_t y) const { return data + block * plane() + y * line(); }
};

struct Sums {
  float *sum, *square;  // of each channel
};

// One tile of R lines of Q pixels: 16 K output channels, or eight by pairs of input channels.
template <int K, int R, int Q, bool PAIRS>
inline void tile(const Map& in, const float* w, int64_t y, int64_t x, const Map& out, int64_t block,
                 bool add, const Sums& sums) {
  constexpr int P = R * Q, M = K * N;
  V acc[P][M] = {};
  const int64_t line = in.line();
  for (int64_t b = 0; b < in.channels / BLOCK; ++b) {
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) {
        const float* from = in.at(b, y + i - 1) + (x + j - 1) * BLOCK;
        constexpr int STEP = PAIRS ? 2 : 1;
#pragma GCC unroll 1
        for (int c = 0; c < BLOCK; c += STEP) {
          V weight[M];
          for (int m = 0; m < M; ++m) weight[m] = get<V>(w + m * LANES);
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) {
            const float* pixel = from + p / Q * line + p % Q * BLOCK + c;
            const V value = PAIRS ? spread_pair(pixel) : spread(pixel);
#pragma GCC unroll 12
            for (int m = 0; m < M; ++m) acc[p][m] = fused(value, weight[m], acc[p][m]);
          }
          w += M * LANES;
        }
      }
    }
  }
  if constexpr (PAIRS) {
    Eight sum = {}, square = {};
    for (int p = 0; p < P; ++p) {
      float halves[16], eight[8];
      for (int m = 0; m < M; m += 1) set(halves + m * LANES, acc[p][m]);
      for (int c = 0; c < 8; ++c) eight[c] = halves[2 * c] + halves[2 * c + 1];
      float* to = out.at(block, y + p / Q) + (x + p % Q) * BLOCK;
      Eight value = get<Eight>(eight);
      if (add) value += get<Eight>(to);
      set(to, value);
      sum += value;
      square += value * value;
    }
    float *s = sums.sum + block * BLOCK, *q = sums.square + block * BLOCK;
    set(s, get<Eight>(s) + sum);
    set(q, get<Eight>(q) + square);
  } else {
    for (int k = 0; k < 2 * K; ++k) {
      Eight sum = {}, square = {};
      for (int p = 0; p < P; ++p) {
        float* to = out.at(block + k, y + p / Q) + (x + p % Q) * BLOCK;
        Eight value;
        if constexpr (N == 1) {
          memcpy(&value, reinterpret_cast<const float*>(&acc[p][k / 2]) + k % 2 * 8, sizeof value);
        } else {
          memcpy(&value, &acc[p][k * N / 2], sizeof value);
        }
        if (add) value += get<Eight>(to);
        set(to, value);
        sum += value;
        square += value * value;
      }
      float *s = sums.sum + (block + k) * BLOCK, *q = sums.square + (block + k) * BLOCK;
      set(s, get<Eight>(s) + sum);
      set(q, get<Eight>(q) + square);
    }
  }
}

// All pixels of one panel of output channels.
template <int K, bool PAIRS>
void panel(const Map& in, const float* w, const Map& out, int64_t block, bool add,
           const Sums& sums) {
  constexpr int P = PIXELS<K>, HALF = P > 1 ? P / 2 : 1;
  const int64_t height = in.height, width = in.width;
  int64_t y = 0;
  if (width % P && width % HALF == 0 && P > 1) {
    for (; y + 2 <= height; y += 2) {
      for (int64_t x = 0; x < width; x += HALF) {
        tile<K, 2, HALF, PAIRS>(in, w, y, x, out, block, add, sums);
      }
    }
  }
  for (; y < height; ++y) {
    int64_t x = 0;
    for (; x + P <= width; x += P) tile<K, 1, P, PAIRS>(in, w, y, x, out, block, add, sums);
    for (; x < width; ++x) tile<K, 1, 1, PAIRS>(in, w, y, x, out, block, add, sums);
  }
}

// Rows that are worked on together, so that weights are read once for all of them.
struct Rows {
  Map in, out;
  int64_t from, to, sums;  // distances between rows
  float* sum;
};

void convolve(const Rows& rows, int64_t count, const float* w, bool add) {
  const int64_t blocks = rows.out.channels / 16;
  for (int64_t b = 0; b < count; ++b) {
    memset(rows.sum + b * rows.sums, 0, sizeof(float) * 2 * rows.out.channels);
  }
  int64_t done = 0;
  while (done < blocks || done * 16 < rows.out.channels) {
    const int64_t wide = done < blocks ? panel_of(blocks - done) : 0;
    for (int64_t b = 0; b < count; ++b) {
      Map in = rows.in, out = rows.out;
      in.data += b * rows.from, out.data += b * rows.to;
      float* sum = rows.sum + b * rows.sums;
      const Sums sums = {sum, sum + out.channels};
      if (wide == 3) {
        panel<3, false>(in, w, out, 2 * done, add, sums);
      } else if (wide == 2) {
        panel<2, false>(in, w, out, 2 * done, add, sums);
      } else if (wide == 1) {
        panel<1, false>(in, w, out, 2 * done, add, sums);
      } else {
        panel<1, true>(in, w, out, 2 * done, add, sums);
      }
    }
    w += panel_weights(rows.in.channels, wide);
    if (!wide) break;
    done += wide;
  }
}

// What a normalisation multiplies each channel by and adds, instead of its sums.
void factors(float* sum, float* square, const Map& map, int64_t groups, double eps,
             const float* scale, const float* shift) {
  const int64_t each = map.channels / groups;
  const double count = static_cast<double>(each * map.height * map.width);
  for (int64_t g = 0; g < groups; ++g) {
    double total = 0.0, squares = 0.0;
    for (int64_t c = g * each; c < (g + 1) * each; ++c) total += sum[c], squares += square[c];
    const double mean = total / count;
    const double variance = squares / count - mean * mean;
    const double inverse = 1.0 / std::sqrt((variance < 0.0 ? 0.0 : variance) + eps);
    for (int64_t c = g * each; c < (g + 1) * each; ++c) {
      const double factor = inverse * static_cast<double>(scale[c]);
      sum[c] = static_cast<float>(factor);
      square[c] = static_cast<float>(static_cast<double>(shift[c]) - mean * factor);
    }
  }
}

inline Eight positive(Eight v) {
  // Not a number stays what it is, as in torch.
  return reinterpret_cast<Eight>(reinterpret_cast<EightInts>(v) & ~(v < Eight{}));
}

// 8 pixels of 8 channels as 8 channels of 8 pixels, or back.
inline void turn(Eight* r) {
  Eight t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      r[i + j] = __builtin_shufflevector(t[i + j], t[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      r[i + j + 2] = __builtin_shufflevector(t[i + j], t[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const Eight a = r[i], b = r[i + 4];
    r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// From channels that lie one after the other.
void enter(const float* from, const Map& map) {
  const int64_t area = map.height * map.width;
  for (int64_t b = 0; b < map.channels / BLOCK; ++b) {
    for (int64_t y = 0; y < map.height; ++y) {
      const float* line = from + b * BLOCK * area + y * map.width;
      float* to = map.at(b, y);
      int64_t x = 0;
      for (; x + 8 <= map.width; x += 8) {
        Eight r[8];
        for (int c = 0; c < 8; ++c) r[c] = get<Eight>(line + c * area + x);
        turn(r);
        for (int p = 0; p < 8; ++p) set(to + (x + p) * BLOCK, r[p]);
      }
      for (; x < map.width; ++x) {
        for (int c = 0; c < 8; ++c) to[x * BLOCK + c] = line[c * area + x];
      }
    }
  }
}

// Normalised, to channels that lie one after the other.
void leave(const Map& map, const float* scale, const float* shift, float* out) {
  const int64_t area = map.height * map.width;
  for (int64_t b = 0; b < map.channels / BLOCK; ++b) {
    const Eight factor = get<Eight>(scale + b * BLOCK), more = get<Eight>(shift + b * BLOCK);
    for (int64_t y = 0; y < map.height; ++y) {
      const float* from = map.at(b, y);
      float* line = out + b * BLOCK * area + y * map.width;
      int64_t x = 0;
      for (; x + 8 <= map.width; x += 8) {
        Eight r[8];
        for (int p = 0; p < 8; ++p) r[p] = get<Eight>(from + (x + p) * BLOCK) * factor + more;
        turn(r);
        for (int c = 0; c < 8; ++c) set(line + c * area + x, r[c]);
      }
      for (; x < map.width; ++x) {
        const Eight pixel = get<Eight>(from + x * BLOCK) * factor + more;
        for (int c = 0; c < 8; ++c) line[c * area + x] = pixel[c];
      }
    }
  }
}

// map = max(scale * map + shift, 0).
void rectify(const Map& map, const float* scale, const float* shift) {
  for (int64_t b = 0; b < map.channels / BLOCK; ++b) {
    const Eight factor = get<Eight>(scale + b * BLOCK), more = get<Eight>(shift + b * BLOCK);
    for (int64_t y = 0; y < map.height; ++y) {
      float* p = map.at(b, y);
      for (int64_t x = 0; x < map.width * BLOCK; x += BLOCK) {
        set(p + x, positive(get<Eight>(p + x) * factor + more));
      }
    }
  }
}

// map = max(scale * map + shift + entry, 0), and its sums instead of scale and shift.
void join(const Map& map, const Map& entry, float* scale, float* shift) {
  for (int64_t b = 0; b < map.channels / BLOCK; ++b) {
    const Eight factor = get<Eight>(scale + b * BLOCK), more = get<Eight>(shift + b * BLOCK);
    Eight sum = {}, square = {};
    for (int64_t y = 0; y < map.height; ++y) {
      float* p = map.at(b, y);
      const float* q = entry.at(b, y);
      for (int64_t x = 0; x < map.width * BLOCK; x += BLOCK) {
        const Eight value = positive(get<Eight>(p + x) * factor + more + get<Eight>(q + x));
        set(p + x, value);
        sum += value;
        square += value * value;
      }
    }
    set(scale + b * BLOCK, sum);
    set(shift + b * BLOCK, square);
  }
}

void evaluate(const ResidualBlock& a, int64_t first, int64_t count, float* workspace) {
  const int64_t small = block_map(a.channels, a.height, a.width);
  const int64_t large = block_map(a.inner, a.height, a.width);
  const int64_t area = a.channels * a.height * a.width;
  const int64_t border = (a.width + 3) * BLOCK;
  const Map x = {workspace + border, a.channels, a.height, a.width};
  const Map u = {workspace + a.together * small + border, a.channels, a.height, a.width};
  const Map t = {workspace + 2 * a.together * small + border, a.inner, a.height, a.width};
  float* sums = workspace + a.together * (2 * small + large);
  const int64_t each = 2 * (a.channels > a.inner ? a.channels : a.inner);
  const auto row = [](Map map, int64_t b, int64_t size) {
    map.data += b * size;
    return map;
  };
  for (int64_t b = 0; b < count; ++b) {
    enter(a.x + (first + b) * a.stride, row(x, b, small));
    if (a.injection) enter(a.injection + (first + b) * area, row(u, b, small));
  }
  convolve({x, t, small, large, each, sums}, count, a.first, false);
  for (int64_t b = 0; b < count; ++b) {
    float *scale = sums + b * each, *shift = scale + a.inner;
    factors(scale, shift, t, a.groups, a.eps[0], a.scale[0], a.shift[0]);
    rectify(row(t, b, large), scale, shift);
  }
  convolve({t, u, large, small, each, sums}, count, a.second, a.injection != nullptr);
  for (int64_t b = 0; b < count; ++b) {
    float *scale = sums + b * each, *shift = scale + a.channels;
    factors(scale, shift, u, a.groups, a.eps[1], a.scale[1], a.shift[1]);
    join(row(u, b, small), row(x, b, small), scale, shift);
    factors(scale, shift, u, a.groups, a.eps[2], a.scale[2], a.shift[2]);
    leave(row(u, b, small), scale, shift, a.out + (first + b) * area);
  }
}

}  // namespace

const char* run(const ResidualBlock& a, const Launch& launch) {
  const int64_t each = block_workspace(a.channels, a.inner, a.height, a.width, a.together);
  const int64_t share = (a.rows + a.tasks - 1) / a.tasks;
  parallel(a.tasks, launch.threads, [&](int64_t task) {
    float* workspace = a.workspace + task * each;
    memset(workspace, 0, sizeof(float) * each);  // the borders
    const int64_t end = (task + 1) * share < a.rows ? (task + 1) * share : a.rows;
    for (int64_t first = task * share; first < end; first += a.together) {
      evaluate(a, first, end - first < a.together ? end - first : a.together, workspace);
    }
  });
  return nullptr;
}

}  // namespace DEQCERT_ISA
}  // namespace deqcert
