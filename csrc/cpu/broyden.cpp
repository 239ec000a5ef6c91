// Broyden's step: the factors of H are applied one after the other, each direction read once. The
// pass that adds one direction also takes the inner product that the next factor needs.
#include "../broyden.h"

#include "parallel.h"
#include "simd.h"
#include "watched.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

// One row: n directions are held, and slot n is where w = -H g grows into the next one.
template <typename T>
struct Row {
  const BroydenStep<T>& a;
  int64_t b;
  const T *z, *fz;
  double *squares, *lengths;
  double* partial;  // (chunks, 3)
  int64_t chunks;
  int n;

  static int64_t doubles(int64_t size) { return 3 * chunks_of(size); }

  Row(const BroydenStep<T>& step, int64_t row)
      : a(step),
        b(row),
        z(a.z + b * a.size),
        fz(a.fz + b * a.size),
        squares(a.squares + b * a.window),
        lengths(a.lengths + b * a.window),
        partial(a.workspace + b * doubles(a.size)),
        chunks(chunks_of(a.size)),
        n(broyden_count(a.count[b], a.window)) {}

  T* d(int slot) const { return a.directions + (b * a.window + slot) * a.size; }

  double total(int column) const {
    double sum = 0.0;
    for (int64_t c = 0; c < chunks; ++c) sum += partial[3 * c + column];
    return sum;
  }

  // Norms of the evaluation; g goes to slot n, with <d_0, g>, where H may be applied to it.
  void begin(int64_t chunk) const {
    const int64_t low = chunk * CHUNK, count = length_of(chunk, a.size);
    double* sums = partial + 3 * chunk;
    norms(z + low, fz + low, count, sums);
    sums[2] = 0.0;
    if (n == 0 || n == a.window) return;
    T* w = d(n) + low;
    const T *from = z + low, *to = fz + low;
    sums[2] = grow(d(0) + low, count, w,
                   [&](auto load, int64_t i) { return load(to + i) - load(from + i); });
  }

  // w += factor (d_{j+1} - (1 - length_j) d_j), with <d_{j+1}, w>.
  void apply(int j, double factor, int64_t chunk) const {
    const int64_t low = chunk * CHUNK, count = length_of(chunk, a.size);
    const T *next = d(j + 1) + low, *present = d(j) + low;
    T* w = d(n) + low;
    const double back = factor * (1.0 - lengths[j]);
    const Real<T> f = static_cast<Real<T>>(factor), g = static_cast<Real<T>>(back);
    double* sum = partial + 3 * chunk + 2;
    if (back == 0.0) {
      *sum = grow(next, count, w,
                  [&](auto load, int64_t i) { return load(w + i) + f * load(next + i); });
    } else {
      *sum = grow(next, count, w, [&](auto load, int64_t i) {
        return load(w + i) + f * load(next + i) - g * load(present + i);
      });
    }
  }

  // The update of the last step, the new direction and, on the way, its squared norm.
  void end(double keep, double turn, T* out, int64_t chunk) const {
    const int64_t low = chunk * CHUNK, count = length_of(chunk, a.size);
    const T *last = d(n - 1) + low, *from = z + low;
    T* w = d(n) + low;
    const Real<T> k = static_cast<Real<T>>(keep), t = static_cast<Real<T>>(turn);
    out += low;
    Doubles square[REGISTERS] = {};
    int64_t i = 0;
    for (; i + SUM_LANES <= count; i += SUM_LANES) {
      for (int r = 0; r < REGISTERS; ++r) {
        const int64_t at = i + r * WIDTH;
        Own<T> value = k * load_own(w + at);
        if (turn != 0.0) value -= t * load_own(last + at);
        value = rounded<T>(value);
        store_own(w + at, value);
        store_own(out + at, load_own(from + at) + value);
        const Doubles wide = __builtin_convertvector(value, Doubles);
        square[r] += wide * wide;
      }
    }
    double lanes[SUM_LANES];
    for (int r = 0; r < REGISTERS; ++r) store(lanes + r * WIDTH, square[r]);
    for (int l = 0; i < count; ++i, ++l) {
      Real<T> whole = k * w[i];
      if (turn != 0.0) whole -= t * last[i];
      const T value = whole;
      w[i] = value;
      out[i] = from[i] + value;
      lanes[l] += static_cast<double>(value) * static_cast<double>(value);
    }
    partial[3 * chunk] = combine(lanes);
  }

  // d_0 = g.
  void restart(T* out, int64_t chunk) const {
    const int64_t low = chunk * CHUNK, count = length_of(chunk, a.size);
    T* to = d(0) + low;
    for (int64_t i = 0; i < count; ++i) {
      to[i] = fz[low + i] - z[low + i];
      out[low + i] = fz[low + i];
    }
  }

  // out = z - length d, back along the last direction.
  void retreat(double length, T* out, int64_t chunk) const {
    const int64_t low = chunk * CHUNK, count = length_of(chunk, a.size);
    const T* last = d(n - 1) + low;
    const Real<T> shorter = static_cast<Real<T>>(length);
    for (int64_t i = 0; i < count; ++i) out[low + i] = z[low + i] - shorter * last[i];
  }

  // w_i = value(i), with the inner product of w and next.
  template <typename Value>
  static double grow(const T* next, int64_t count, T* w, const Value& value) {
    double lanes[SUM_LANES] = {};
    const int64_t whole = count / SUM_LANES * SUM_LANES;
    int64_t i = 0;
    while (i < whole) {
      const int64_t stop = i + OWN_TERMS * SUM_LANES < whole ? i + OWN_TERMS * SUM_LANES : whole;
      Wide<T> sum[WIDES<T>] = {};
      for (; i < stop; i += SUM_LANES) {
        for (int r = 0; r < WIDES<T>; ++r) {
          const int64_t at = i + r * WIDE<T>;
          const Wide<T> grown =
              store_wide(w + at, Wide<T>(value([](const T* p) { return load_wide(p); }, at)));
          sum[r] += grown * load_wide(next + at);
        }
      }
      spill<T>(sum, lanes);
    }
    for (int l = 0; i < count; ++i, ++l) {
      const T grown = value([](const T* p) { return *p; }, i);
      w[i] = grown;
      lanes[l] += static_cast<double>(grown * next[i]);
    }
    return combine(lanes);
  }

  // The whole step; over_chunks(pass) runs a pass over every chunk of the row.
  template <typename OverChunks>
  void step(const OverChunks& over_chunks) const {
    if (has_ended(a.watch, b)) return;
    over_chunks([&](int64_t c) { begin(c); });
    const double merit = total(0);
    T* out = a.out + b * a.size;
    const Target target = settle(a.watch, b, a.size, z, out, merit, total(1));
    if (target == NOWHERE) return;
    if (target == BEST) out = a.watch.best + b * a.size;

    const double length = n > 0 ? lengths[n - 1] : 0.0;
    BroydenMove move =
        broyden_move(n, a.window, a.constants.line_search, length, merit, a.merit[b]);
    if (move == SHORTEN || move == BACK) {
      const double less = move == BACK ? length : 0.5 * length;
      over_chunks([&](int64_t c) { retreat(less, out, c); });
      lengths[n - 1] = length - less;
      a.count[b] = move == BACK ? 0 : n;
      return;
    }
    a.merit[b] = merit;
    if (move == NEWTON) {
      double dot = total(2);
      for (int j = 0; j + 1 < n; ++j) {
        const double factor = dot / squares[j];
        over_chunks([&](int64_t c) { apply(j, factor, c); });
        dot = total(2);
      }
      double keep, turn;
      if (broyden_update(squares[n - 1], dot, length, &keep, &turn)) {
        over_chunks([&](int64_t c) { end(keep, turn, out, c); });
        squares[n] = total(0);
        lengths[n] = 1.0;
        a.count[b] = n + 1;
        return;
      }
    }
    over_chunks([&](int64_t c) { restart(out, c); });
    squares[0] = merit;
    lengths[0] = 1.0;
    a.count[b] = 1;
  }
};

template <typename T>
const char* compute(const BroydenStep<T>& a, const Launch& launch) {
  const int64_t chunks = chunks_of(a.size);
  const int threads = useful_threads(launch.threads, a.rows * a.size);
  if (a.rows >= threads) {
    parallel(a.rows, threads, [&](int64_t b) {
      Row<T>(a, b).step([&](const auto& pass) {
        for (int64_t c = 0; c < chunks; ++c) pass(c);
      });
    });
  } else {
    for (int64_t b = 0; b < a.rows; ++b) {
      Row<T>(a, b).step([&](const auto& pass) { parallel(chunks, threads, pass); });
    }
  }
  return nullptr;
}

}  // namespace

int64_t broyden_workspace(int, int64_t size) { return Row<double>::doubles(size); }

DEQCERT_DEFINE(BroydenStep)

}  // namespace DEQCERT_ISA
}  // namespace deqcert
