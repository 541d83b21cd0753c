// Rows of weights that lie apart in memory, read once each: products with a few vectors (`dots`) and weighted sums (`add_rows`).
// Shared by gather_mlp, gather_heads and predict_topk. One token at a time these are bound by memory, so what counts is that
// several rows are in flight, that the first lines of the next rows are asked for early, and that sums stay in registers.
//   float32, float64   one register of numbers at a time
//   bfloat16           a register holds pairs: shifted left they are the even numbers as float32, masked the odd ones; vectors
//                      that meet such rows are kept in the same order ("arranged"), so that nothing is shuffled per weight
//   bfloat16 x bfloat16 with AVX512-BF16: one instruction multiplies pairs and adds them up in float32
// Three versions, chosen when compiling: AVX-512, AVX2 with FMA, and plain arrays that any compiler takes.
#pragma once
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rows {

using c10::BFloat16;

constexpr int64_t kAhead = 512;  // bytes

// Whether to ask ahead within a row. Intel's processors do better alone: a hint not to keep a line goes to the sixteen buffers of
// the first-level cache and hides the stream from the second level's own prefetcher, which has three times as many.
inline bool asks() {
#if defined(__GNUC__) && defined(__x86_64__)
  __builtin_cpu_init();
  return !__builtin_cpu_is("intel");
#else
  return true;
#endif
}
inline const bool kAsks = asks();

// Asks for what will be read some bytes on; without a hint to keep it, because every row is read once.
inline void ahead(const void* p, int64_t bytes = kAhead) {
#if defined(__GNUC__)
  if (kAsks) __builtin_prefetch(static_cast<const char*>(p) + bytes, 0, 0);
#endif
}

// Asks for the first 512 bytes of a row that comes after the present ones, into the second-level cache.
inline void soon(const void* p) {
#if defined(__GNUC__)
  for (int i = 0; i < 512; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, 0, 2);
#endif
}

// ------------------------------------------------------------------------------------------------- registers of one number type
#if defined(__AVX512F__)
struct Float {
  using Number = float;
  using V = __m512;
  static constexpr int lanes = 16;
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V all(float s) { return _mm512_set1_ps(s); }
  static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(V v) { return _mm512_reduce_add_ps(v); }
};
struct Double {
  using Number = double;
  using V = __m512d;
  static constexpr int lanes = 8;
  static V zero() { return _mm512_setzero_pd(); }
  static V load(const double* p) { return _mm512_loadu_pd(p); }
  static V all(double s) { return _mm512_set1_pd(s); }
  static void store(double* p, V v) { _mm512_storeu_pd(p, v); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static double sum(V v) { return _mm512_reduce_add_pd(v); }
};
inline void widen(const BFloat16* p, Float::V& even, Float::V& odd) {
  const __m512i both = _mm512_loadu_si512(p);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
#elif defined(__AVX2__) && defined(__FMA__)
struct Float {
  using Number = float;
  using V = __m256;
  static constexpr int lanes = 8;
  static V zero() { return _mm256_setzero_ps(); }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static V all(float s) { return _mm256_set1_ps(s); }
  static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(V v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};
struct Double {
  using Number = double;
  using V = __m256d;
  static constexpr int lanes = 4;
  static V zero() { return _mm256_setzero_pd(); }
  static V load(const double* p) { return _mm256_loadu_pd(p); }
  static V all(double s) { return _mm256_set1_pd(s); }
  static void store(double* p, V v) { _mm256_storeu_pd(p, v); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static double sum(V v) {
    const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
  }
};
inline void widen(const BFloat16* p, Float::V& even, Float::V& odd) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}
#else
template <class S, int L>
struct Plain {
  using Number = S;
  struct V {
    S at[L];
  };
  static constexpr int lanes = L;
  static V zero() { return V{}; }
  static V load(const S* p) {
    V v;
    std::memcpy(v.at, p, sizeof v.at);
    return v;
  }
  static V all(S s) {
    V v;
    for (int i = 0; i < L; ++i) v.at[i] = s;
    return v;
  }
  static void store(S* p, V v) { std::memcpy(p, v.at, sizeof v.at); }
  static V fma(V a, V b, V c) {
    for (int i = 0; i < L; ++i) c.at[i] += a.at[i] * b.at[i];
    return c;
  }
  static S sum(V v) {
    S s = 0;
    for (int i = 0; i < L; ++i) s += v.at[i];
    return s;
  }
};
using Float = Plain<float, 8>;
using Double = Plain<double, 4>;
inline void widen(const BFloat16* p, Float::V& even, Float::V& odd) {
  for (int i = 0; i < Float::lanes; ++i) even.at[i] = p[2 * i], odd.at[i] = p[2 * i + 1];
}
#endif

// ------------------------------------------------------------------------------------- a chunk of a row against a chunk of a vector
// Weight: what rows hold; Value: what an arranged vector holds; Sum: what sums are kept in; width: numbers of a chunk.
template <class S>
struct Same {  // float32 and float64
  using R = std::conditional_t<std::is_same_v<S, double>, Double, Float>;
  using Weight = S;
  using Value = S;
  using Sum = S;
  using Row = typename R::V;
  using Vec = typename R::V;
  using Acc = typename R::V;
  static constexpr int width = R::lanes;
  static Row row(const Weight* p) { return R::load(p); }
  static Vec vec(const Value* p) { return R::load(p); }
  static Acc zero() { return R::zero(); }
  static Acc fma(Row w, Vec x, Acc c) { return R::fma(w, x, c); }
  static Acc add(Acc a, Acc b) { return R::fma(R::all(1), a, b); }
  static Sum sum(Acc c) { return R::sum(c); }
  static Vec scaled(Sum s, Row w, Vec y) { return R::fma(R::all(s), w, y); }
  static void store(Value* p, Vec v) { R::store(p, v); }
  static void arrange(const Value* from, Value* to) { std::memcpy(to, from, sizeof(Value) * width); }
  static void restore(const Value* from, Value* to) { std::memcpy(to, from, sizeof(Value) * width); }
};

struct Widened {  // bfloat16 rows against float32 vectors
  using Weight = BFloat16;
  using Value = float;
  using Sum = float;
  struct Row {
    Float::V even, odd;
  };
  using Vec = Row;
  using Acc = Float::V;
  static constexpr int width = 2 * Float::lanes;
  static Row row(const Weight* p) {
    Row r;
    widen(p, r.even, r.odd);
    return r;
  }
  static Vec vec(const Value* p) { return {Float::load(p), Float::load(p + Float::lanes)}; }
  static Acc zero() { return Float::zero(); }
  static Acc fma(Row w, Vec x, Acc c) { return Float::fma(w.odd, x.odd, Float::fma(w.even, x.even, c)); }
  static Acc add(Acc a, Acc b) { return Float::fma(Float::all(1), a, b); }
  static Sum sum(Acc c) { return Float::sum(c); }
  static Vec scaled(Sum s, Row w, Vec y) {
    const Float::V all = Float::all(s);
    return {Float::fma(all, w.even, y.even), Float::fma(all, w.odd, y.odd)};
  }
  static void store(Value* p, Vec v) {
    Float::store(p, v.even);
    Float::store(p + Float::lanes, v.odd);
  }
  static void arrange(const Value* from, Value* to) {
    for (int i = 0; i < Float::lanes; ++i) to[i] = from[2 * i], to[Float::lanes + i] = from[2 * i + 1];
  }
  static void restore(const Value* from, Value* to) {
    for (int i = 0; i < Float::lanes; ++i) to[2 * i] = from[i], to[2 * i + 1] = from[Float::lanes + i];
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
struct Pairs {  // bfloat16 rows against bfloat16 vectors; products only, weighted sums use Widened
  using Weight = BFloat16;
  using Value = BFloat16;
  using Sum = float;
  using Row = __m512i;
  using Vec = __m512i;
  using Acc = __m512;
  static constexpr int width = 32;
  static Row row(const Weight* p) { return _mm512_loadu_si512(p); }
  static Vec vec(const Value* p) { return _mm512_loadu_si512(p); }
  static Acc zero() { return _mm512_setzero_ps(); }
  // as assembly: GCC 12 spills sums to the stack around the intrinsic
  static Acc fma(Row w, Vec x, Acc c) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(x), "v"(w));
    return c;
  }
  static Acc add(Acc a, Acc b) { return _mm512_add_ps(a, b); }
  static Sum sum(Acc c) { return _mm512_reduce_add_ps(c); }
  static void arrange(const Value* from, Value* to) { std::memcpy(to, from, sizeof(Value) * width); }
};
#endif

template <class W>
struct LaneOf {
  using type = Same<W>;
};
template <>
struct LaneOf<BFloat16> {
  using type = Widened;
};
template <class W>
using Lane = typename LaneOf<W>::type;  // for weighted sums, and for products with vectors in float32 or float64

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
template <class W, class X>  // for products with vectors that came as X
using DotLane = std::conditional_t<std::is_same_v<W, BFloat16> && std::is_same_v<X, BFloat16>, Pairs, Lane<W>>;
#else
template <class W, class X>
using DotLane = Lane<W>;
#endif

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// `count` vectors of `d` numbers, `apart` numbers between them, arranged one after the other in round_up(d, width) numbers each.
template <class L, class X>
void arrange(const X* x, int64_t count, int64_t apart, int64_t d, typename L::Value* to) {
  using Value = typename L::Value;
  const int64_t padded = round_up(d, L::width);
  Value chunk[L::width];
  for (int64_t b = 0; b < count; ++b)
    for (int64_t c = 0; c < padded; c += L::width) {
      const int64_t here = std::min<int64_t>(L::width, d - c);
      for (int64_t i = 0; i < here; ++i) chunk[i] = static_cast<Value>(x[b * apart + c + i]);
      for (int64_t i = here; i < L::width; ++i) chunk[i] = Value(0);
      L::arrange(chunk, to + b * padded + c);
    }
}

// Back from arranged sums to `count` vectors of `d` numbers.
template <class L, class Y>
void restore(const typename L::Value* from, int64_t d, Y* to) {
  typename L::Value chunk[L::width];
  for (int64_t c = 0; c < d; c += L::width) {
    L::restore(from + c, chunk);
    const int64_t here = std::min<int64_t>(L::width, d - c);
    for (int64_t i = 0; i < here; ++i) to[c + i] = static_cast<Y>(chunk[i]);
  }
}

// The end of a row that fills no whole chunk, padded with zeros.
template <class L>
typename L::Row tail(const typename L::Weight* p, int64_t numbers) {
  typename L::Weight chunk[L::width] = {};
  std::memcpy(chunk, p, sizeof(typename L::Weight) * numbers);
  return L::row(chunk);
}

constexpr int kRows = 4;  // rows in flight

// out[r * B + b] = rows[r] . x[b], for B arranged vectors.
template <class L, int R, int B>
void dots_block(const typename L::Weight* const* rows, int64_t d, const typename L::Value* x, typename L::Sum* out) {
  const int64_t padded = round_up(d, L::width), whole = d / L::width * L::width;
  typename L::Acc acc[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) acc[r][b] = L::zero();
  for (int64_t c = 0; c < whole; c += L::width) {
    typename L::Vec xs[B];
    for (int b = 0; b < B; ++b) xs[b] = L::vec(x + b * padded + c);
    for (int r = 0; r < R; ++r) {
      ahead(rows[r] + c);
      const auto w = L::row(rows[r] + c);
      for (int b = 0; b < B; ++b) acc[r][b] = L::fma(w, xs[b], acc[r][b]);
    }
  }
  if (whole < d)
    for (int r = 0; r < R; ++r) {
      const auto w = tail<L>(rows[r] + whole, d - whole);
      for (int b = 0; b < B; ++b) acc[r][b] = L::fma(w, L::vec(x + b * padded + whole), acc[r][b]);
    }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) out[r * B + b] = L::sum(acc[r][b]);
}

template <class L, int R>
void dots_some(const typename L::Weight* const* rows, int64_t d, const typename L::Value* x, int64_t batch,
               typename L::Sum* out) {
  const int64_t padded = round_up(d, L::width);
  typename L::Sum part[R * 2];
  for (int64_t b = 0; b < batch; b += 2) {
    const bool two = b + 1 < batch;
    if (two) dots_block<L, R, 2>(rows, d, x + b * padded, part);
    else dots_block<L, R, 1>(rows, d, x + b * padded, part);
    for (int r = 0; r < R; ++r) {
      out[r * batch + b] = part[two ? 2 * r : r];
      if (two) out[r * batch + b + 1] = part[2 * r + 1];
    }
  }
}

// out[r * batch + b] = rows[r] . x[b] for r < count <= kRows; x is arranged, [batch, round_up(d, width)].
template <class L>
void dots(const typename L::Weight* const* rows, int count, int64_t d, const typename L::Value* x, int64_t batch,
          typename L::Sum* out) {
  if (count == kRows) return dots_some<L, kRows>(rows, d, x, batch, out);
  for (int r = 0; r < count; ++r) dots_some<L, 1>(rows + r, d, x, batch, out + r * batch);
}

// row . x for a short row that is followed by the next one in memory: four sums of its own, so that reading is one plain stream.
template <class L>
typename L::Sum dot_next(const typename L::Weight* row, int64_t d, const typename L::Value* x) {
  typename L::Acc acc[4] = {L::zero(), L::zero(), L::zero(), L::zero()};
  const int64_t whole = d / L::width * L::width, four = d / (4 * L::width) * 4 * L::width;
  for (int64_t c = 0; c < four; c += 4 * L::width)
    for (int i = 0; i < 4; ++i) {
      ahead(row + c + i * L::width, 4 * kAhead);
      acc[i] = L::fma(L::row(row + c + i * L::width), L::vec(x + c + i * L::width), acc[i]);
    }
  for (int64_t c = four; c < whole; c += L::width) {
    auto& sum = acc[c / L::width % 4];
    sum = L::fma(L::row(row + c), L::vec(x + c), sum);
  }
  if (whole < d) acc[3] = L::fma(tail<L>(row + whole, d - whole), L::vec(x + whole), acc[3]);
  return L::sum(L::add(L::add(acc[0], acc[1]), L::add(acc[2], acc[3])));
}

template <class L, int R>
void add_block(const typename L::Weight* const* rows, int64_t d, const typename L::Sum* factors, int64_t batch,
               typename L::Value* y) {
  const int64_t padded = round_up(d, L::width), whole = d / L::width * L::width;
  for (int64_t c = 0; c < d; c += L::width) {
    typename L::Row w[R];
    for (int r = 0; r < R; ++r) ahead(rows[r] + c);
    for (int r = 0; r < R; ++r) w[r] = c < whole ? L::row(rows[r] + c) : tail<L>(rows[r] + c, d - c);
    for (int64_t b = 0; b < batch; ++b) {
      auto sum = L::vec(y + b * padded + c);
      for (int r = 0; r < R; ++r) sum = L::scaled(factors[r * batch + b], w[r], sum);
      L::store(y + b * padded + c, sum);
    }
  }
}

// y[b] += sum over r < count <= kRows of factors[r * batch + b] * rows[r]; y is arranged, [batch, round_up(d, width)].
template <class L>
void add_rows(const typename L::Weight* const* rows, int count, int64_t d, const typename L::Sum* factors, int64_t batch,
              typename L::Value* y) {
  if (count == kRows) return add_block<L, kRows>(rows, d, factors, batch, y);
  for (int r = 0; r < count; ++r) add_block<L, 1>(rows + r, d, factors + r * batch, batch, y);
}

// Memory for one call, kept by its thread.
template <class V>
struct Scratch {
  std::vector<V> kept;
  V* get(int64_t n) {
    if (static_cast<int64_t>(kept.size()) < n) kept.resize(n);
    return kept.data();
  }
};

}  // namespace rows
