// Vector types and sums for one instruction set. Every file under cpu/ is compiled once for each
// set, with DEQCERT_ISA naming its namespace and DEQCERT_WIDTH the doubles in a register. All sums
// run over SUM_LANES interleaved lanes that are combined in one order and no product is fused into
// a sum, so every instruction set gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef DEQCERT_X86
#include <immintrin.h>
#endif

#include "../kernels.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

constexpr int SUM_LANES = 16;
constexpr int WIDTH = DEQCERT_WIDTH;
constexpr int REGISTERS = SUM_LANES / WIDTH;

// States are worked on in chunks of this many elements: short enough that the residual of a chunk
// stays in the first-level cache as float64, and fixed, so that sums do not depend on threads.
constexpr int64_t CHUNK = 2048;

typedef double Doubles __attribute__((vector_size(8 * DEQCERT_WIDTH)));
typedef float Floats __attribute__((vector_size(4 * DEQCERT_WIDTH)));

// A register's worth of states in their own type.
template <typename T>
struct OwnType;
template <>
struct OwnType<double> {
  typedef Doubles type;
};
template <>
struct OwnType<float> {
  typedef Floats type;
};
template <>
struct OwnType<bfloat16> {
  typedef Floats type;
};
template <typename T>
using Own = typename OwnType<T>::type;

typedef uint16_t Halves __attribute__((vector_size(2 * DEQCERT_WIDTH)));
typedef uint16_t WideHalves __attribute__((vector_size(4 * DEQCERT_WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * DEQCERT_WIDTH)));
typedef uint32_t WideWords __attribute__((vector_size(8 * DEQCERT_WIDTH)));
typedef float WideFloats __attribute__((vector_size(8 * DEQCERT_WIDTH)));

// Registers of bfloat16 as float32, and back: what bfloat16 does to one value. Where GCC 12 makes
// many instructions of such conversions and the processor has one, it is named.
inline Floats load_halves(const bfloat16* p, Floats) {
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  const __m128i narrow = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Floats>(_mm_slli_epi32(_mm_cvtepu16_epi32(narrow), 16));
#else
  Halves narrow;
  memcpy(&narrow, p, sizeof narrow);
  return reinterpret_cast<Floats>(__builtin_convertvector(narrow, Words) << 16);
#endif
}

inline WideFloats load_halves(const bfloat16* p, WideFloats) {
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<WideFloats>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
#else
  WideHalves narrow;
  memcpy(&narrow, p, sizeof narrow);
  return reinterpret_cast<WideFloats>(__builtin_convertvector(narrow, WideWords) << 16);
#endif
}

// Rounded to bfloat16, in the upper halves of the elements.
template <typename Integers, typename Reals>
inline Integers round_halves(Reals v) {
  const Integers bits = reinterpret_cast<Integers>(v);
  const Integers nearest = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const Integers nan = reinterpret_cast<Integers>(v != v);
  return (nearest & ~nan & 0xFFFF0000u) | (nan & 0x7FC00000u);
}

inline Halves pack_halves(Words upper) {
  const Words bits = upper >> 16;
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  const __m128i both = _mm_packus_epi32(reinterpret_cast<__m128i>(bits), _mm_setzero_si128());
  Halves narrow;
  memcpy(&narrow, &both, sizeof narrow);
  return narrow;
#else
  return __builtin_convertvector(bits, Halves);
#endif
}

inline WideHalves pack_halves(WideWords upper) {
  const WideWords bits = upper >> 16;
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  const __m256i v = reinterpret_cast<__m256i>(bits);
  const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0xD8);
  return reinterpret_cast<WideHalves>(_mm256_castsi256_si128(both));
#else
  return __builtin_convertvector(bits, WideHalves);
#endif
}

inline Doubles load(const double* p) {
  Doubles v;
  memcpy(&v, p, sizeof v);
  return v;
}

inline Doubles load(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Doubles);
}

inline Doubles load(const bfloat16* p) {
  return __builtin_convertvector(load_halves(p, Floats()), Doubles);
}

inline void store(double* p, Doubles v) { memcpy(p, &v, sizeof v); }

inline void store(float* p, Doubles v) {
  const Floats narrow = __builtin_convertvector(v, Floats);
  memcpy(p, &narrow, sizeof narrow);
}

inline void store(bfloat16* p, Doubles v) {
  const Floats single = __builtin_convertvector(v, Floats);
  const Halves narrow = pack_halves(round_halves<Words>(single));
  memcpy(p, &narrow, sizeof narrow);
}

template <typename T>
Own<T> load_own(const T* p) {
  Own<T> v;
  memcpy(&v, p, sizeof v);
  return v;
}

inline Floats load_own(const bfloat16* p) { return load_halves(p, Floats()); }

template <typename T>
void store_own(T* p, Own<T> v) {
  memcpy(p, &v, sizeof v);
}

template <>
inline void store_own(bfloat16* p, Floats v) {
  const Halves narrow = pack_halves(round_halves<Words>(v));
  memcpy(p, &narrow, sizeof narrow);
}

// A register as it will be read again once it was stored.
template <typename T>
Own<T> rounded(Own<T> v) {
  return v;
}

template <>
inline Floats rounded<bfloat16>(Floats v) {
  return reinterpret_cast<Floats>(round_halves<Words>(v));
}

// Stores a register of states, past the cache where asked; p is then a multiple of its size.
template <bool Stream>
inline void put(double* p, Doubles v) {
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 8
  if (Stream) return _mm512_stream_pd(p, reinterpret_cast<__m512d>(v));
#elif defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  if (Stream) return _mm256_stream_pd(p, reinterpret_cast<__m256d>(v));
#endif
  memcpy(p, &v, sizeof v);
}

template <bool Stream>
inline void put(float* p, Floats v) {
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 8
  if (Stream) return _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
#elif defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  if (Stream) return _mm_stream_ps(p, reinterpret_cast<__m128>(v));
#endif
  memcpy(p, &v, sizeof v);
}

template <bool Stream>
inline void put(bfloat16* p, Floats v) {
  const Halves narrow = pack_halves(round_halves<Words>(v));
#if defined(DEQCERT_X86) && DEQCERT_WIDTH == 8
  if (Stream) return _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)narrow);
#elif defined(DEQCERT_X86) && DEQCERT_WIDTH == 4
  long long bits;
  memcpy(&bits, &narrow, sizeof bits);
  if (Stream) return _mm_stream_si64(reinterpret_cast<long long*>(p), bits);
#endif
  memcpy(p, &narrow, sizeof narrow);
}

// Whether so many bytes are more than caches hold, so that writing past them is faster.
inline bool past_cache(int64_t bytes) { return bytes > (int64_t{24} << 20); }

// Puts such stores before whatever other threads do next.
inline void finish_past_cache() {
#ifdef DEQCERT_X86
  _mm_sfence();
#endif
}

template <typename T>
inline bool streamable(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(T) * WIDTH) == 0;
}

// Copies n elements, past the cache where asked.
template <typename T>
void copy(const T* from, int64_t n, T* to, bool stream) {
  int64_t i = 0;
#if defined(DEQCERT_X86) && DEQCERT_WIDTH >= 4
  if (stream && reinterpret_cast<uintptr_t>(to) % 32 == 0) {
    constexpr int64_t STEP = 32 / sizeof(T);
    for (; i + STEP <= n; i += STEP) {
      __m256i v;
      memcpy(&v, from + i, sizeof v);
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), v);
    }
  }
#else
  (void)stream;
#endif
  memcpy(to + i, from + i, (n - i) * sizeof(T));
}

inline int64_t chunks_of(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

inline int64_t length_of(int64_t chunk, int64_t size) {
  const int64_t rest = size - chunk * CHUNK;
  return rest < CHUNK ? rest : CHUNK;
}

// A full register of states, for arithmetic in their own precision.
template <typename T>
struct WideType {
  typedef Real<T> type __attribute__((vector_size(8 * DEQCERT_WIDTH)));
};
template <typename T>
using Wide = typename WideType<T>::type;
template <typename T>
constexpr int WIDE = 8 * DEQCERT_WIDTH / sizeof(Real<T>);
template <typename T>
constexpr int WIDES = SUM_LANES / WIDE<T>;

// Terms of a lane that are summed in the state's own precision before they go to float64. Few
// enough that their rounding stays below that of the states themselves.
constexpr int64_t OWN_TERMS = 8;

template <typename T>
Wide<T> load_wide(const T* p) {
  Wide<T> v;
  memcpy(&v, p, sizeof v);
  return v;
}

inline WideFloats load_wide(const bfloat16* p) { return load_halves(p, WideFloats()); }

// Stores a full register and returns what was stored.
template <typename T>
Wide<T> store_wide(T* p, Wide<T> v) {
  memcpy(p, &v, sizeof v);
  return v;
}

template <>
inline WideFloats store_wide(bfloat16* p, WideFloats v) {
  const WideWords stored = round_halves<WideWords>(v);
  const WideHalves narrow = pack_halves(stored);
  memcpy(p, &narrow, sizeof narrow);
  return reinterpret_cast<WideFloats>(stored);
}

// Adds the lanes of WIDES registers to SUM_LANES sums in float64.
template <typename T>
void spill(const Wide<T>* sum, double* lanes) {
  for (int r = 0; r < WIDES<T>; ++r) {
    Real<T> own[WIDE<T>];
    memcpy(own, sum + r, sizeof own);
    for (int l = 0; l < WIDE<T>; ++l) lanes[r * WIDE<T> + l] += static_cast<double>(own[l]);
  }
}

inline double combine(double* lanes) {
  for (int half = SUM_LANES / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// sum_i x_i y_i; float32 products are exact in float64.
template <typename X, typename Y>
double dot(const X* x, const Y* y, int64_t n) {
  Doubles sum[REGISTERS] = {};
  int64_t i = 0;
  for (; i + SUM_LANES <= n; i += SUM_LANES) {
    for (int r = 0; r < REGISTERS; ++r) {
      sum[r] += load(x + i + r * WIDTH) * load(y + i + r * WIDTH);
    }
  }
  double lanes[SUM_LANES];
  for (int r = 0; r < REGISTERS; ++r) store(lanes + r * WIDTH, sum[r]);
  for (int l = 0; i + l < n; ++l) {
    lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(y[i + l]);
  }
  return combine(lanes);
}

// sums[0] = sum_i (fz_i - z_i)^2 and sums[1] = sum_i fz_i^2 in one read; the difference is taken in
// the state's own precision, because it is the residual that a solver uses.
template <typename T>
void norms(const T* z, const T* fz, int64_t n, double* sums) {
  Doubles square[REGISTERS] = {}, fz_square[REGISTERS] = {};
  int64_t i = 0;
  for (; i + SUM_LANES <= n; i += SUM_LANES) {
    for (int r = 0; r < REGISTERS; ++r) {
      const Own<T> value = load_own(fz + i + r * WIDTH);
      const Own<T> difference = rounded<T>(value - load_own(z + i + r * WIDTH));
      const Doubles g = __builtin_convertvector(difference, Doubles);
      const Doubles f = __builtin_convertvector(value, Doubles);
      square[r] += g * g;
      fz_square[r] += f * f;
    }
  }
  double lanes[2][SUM_LANES];
  for (int r = 0; r < REGISTERS; ++r) {
    store(lanes[0] + r * WIDTH, square[r]);
    store(lanes[1] + r * WIDTH, fz_square[r]);
  }
  for (int l = 0; i + l < n; ++l) {
    const T difference = fz[i + l] - z[i + l];
    lanes[0][l] += static_cast<double>(difference) * static_cast<double>(difference);
    lanes[1][l] += static_cast<double>(fz[i + l]) * static_cast<double>(fz[i + l]);
  }
  sums[0] = combine(lanes[0]);
  sums[1] = combine(lanes[1]);
}

}  // namespace
}  // namespace DEQCERT_ISA
}  // namespace deqcert
