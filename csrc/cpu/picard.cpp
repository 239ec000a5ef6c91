// The Picard step: norms in one read of both arrays, then the next state while they are cached.
#include "parallel.h"
#include "simd.h"
#include "watched.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

template <typename T>
struct Row {
  const PicardStep<T>& a;
  int64_t b;
  const T *z, *fz;
  double* target;   // a Target
  double* partial;  // (chunks, 2)
  bool stream;

  static int64_t doubles(int64_t size) { return 1 + 2 * chunks_of(size); }

  Row(const PicardStep<T>& step, int64_t row, bool past_cache)
      : a(step), b(row), z(a.z + b * a.size), fz(a.fz + b * a.size), stream(past_cache) {
    target = a.workspace + b * doubles(a.size);
    partial = target + 1;
  }

  void take(int64_t chunk) const {
    if (!a.watch.progress || has_ended(a.watch, b)) return;
    const int64_t low = chunk * CHUNK;
    norms(z + low, fz + low, length_of(chunk, a.size), partial + 2 * chunk);
  }

  void decide() const {
    *target = NOWHERE;
    if (has_ended(a.watch, b)) return;
    double square = 0.0, fz_square = 0.0;
    if (a.watch.progress) {
      for (int64_t chunk = 0; chunk < chunks_of(a.size); ++chunk) {
        square += partial[2 * chunk];
        fz_square += partial[2 * chunk + 1];
      }
    }
    *target = settle(a.watch, b, a.size, z, a.out + b * a.size, square, fz_square);
  }

  void move(int64_t chunk) const {
    if (*target == NOWHERE) return;
    const int64_t low = chunk * CHUNK, n = length_of(chunk, a.size);
    T* out = (*target == BEST ? a.watch.best + b * a.size : a.out + b * a.size);
    out += low;
    if (a.constants.damping == 1.0) {
      if (out != fz + low) copy(fz + low, n, out, stream);
      if (stream) finish_past_cache();
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      const double from = z[low + i];
      out[i] =
          static_cast<T>(from + a.constants.damping * (static_cast<double>(fz[low + i]) - from));
    }
  }
};

template <typename T>
const char* compute(const PicardStep<T>& a, const Launch& launch) {
  const bool stream = past_cache(3 * a.rows * a.size * static_cast<int64_t>(sizeof(T)));
  by_rows_or_chunks(
      a.rows, chunks_of(a.size), useful_threads(launch.threads, a.rows * a.size),
      [&](int64_t b) { return Row<T>(a, b, stream); },
      [](const Row<T>& row, int64_t c) { row.take(c); }, [](const Row<T>& row) { row.decide(); },
      [](const Row<T>& row, int64_t c) { row.move(c); });
  return nullptr;
}

}  // namespace

int64_t picard_workspace(int, int64_t size) { return Row<double>::doubles(size); }

DEQCERT_DEFINE(PicardStep)

}  // namespace DEQCERT_ISA
}  // namespace deqcert
