// Vectors of one processor register under one name for every number type: how many lanes, load, store, multiply-add.
// Three versions, chosen when compiling: AVX-512 (with native bfloat16 products where the processor has them), AVX2 with
// FMA, and plain arrays that any compiler takes; amx.h is a fourth for bfloat16. bfloat16 without native products is widened
// to float32 when packed.
#pragma once
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace block_sparse {

using c10::BFloat16;

#if defined(__AVX512F__)

struct F32 {
  using In = float;   // what panels hold
  using Acc = float;  // what sums are kept in
  using V = __m512;
  static constexpr int lanes = 16, steps = 1;  // numbers along the summed axis that one multiply-add takes
  static constexpr int tall = 12, tall1 = 24, square = 8, square1 = 16;  // rows of a tile two registers and one register wide
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const Acc* p) { return _mm512_loadu_ps(p); }
  static V both(const In* p) { return _mm512_set1_ps(*p); }
  static V row(const In* p) { return _mm512_loadu_ps(p); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V multiply_add_both(const In* a, V b, V c) { return multiply_add(both(a), b, c); }
  static void store(Acc* p, V v) { _mm512_storeu_ps(p, v); }
};

struct F64 {
  using In = double;
  using Acc = double;
  using V = __m512d;
  static constexpr int lanes = 8, steps = 1, tall = 12, tall1 = 24, square = 8, square1 = 16;
  static V zero() { return _mm512_setzero_pd(); }
  static V load(const Acc* p) { return _mm512_loadu_pd(p); }
  static V both(const In* p) { return _mm512_set1_pd(*p); }
  static V row(const In* p) { return _mm512_loadu_pd(p); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static V multiply_add_both(const In* a, V b, V c) { return multiply_add(both(a), b, c); }
  static void store(Acc* p, V v) { _mm512_storeu_pd(p, v); }
};

#elif defined(__AVX2__) && defined(__FMA__)

struct F32 {
  using In = float;
  using Acc = float;
  using V = __m256;
  static constexpr int lanes = 8, steps = 1, tall = 6, tall1 = 12, square = 6, square1 = 8;
  static V zero() { return _mm256_setzero_ps(); }
  static V load(const Acc* p) { return _mm256_loadu_ps(p); }
  static V both(const In* p) { return _mm256_set1_ps(*p); }
  static V row(const In* p) { return _mm256_loadu_ps(p); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V multiply_add_both(const In* a, V b, V c) { return multiply_add(both(a), b, c); }
  static void store(Acc* p, V v) { _mm256_storeu_ps(p, v); }
};

struct F64 {
  using In = double;
  using Acc = double;
  using V = __m256d;
  static constexpr int lanes = 4, steps = 1, tall = 6, tall1 = 12, square = 6, square1 = 8;
  static V zero() { return _mm256_setzero_pd(); }
  static V load(const Acc* p) { return _mm256_loadu_pd(p); }
  static V both(const In* p) { return _mm256_set1_pd(*p); }
  static V row(const In* p) { return _mm256_loadu_pd(p); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static V multiply_add_both(const In* a, V b, V c) { return multiply_add(both(a), b, c); }
  static void store(Acc* p, V v) { _mm256_storeu_pd(p, v); }
};

#else

template <class S, int L>
struct Plain {
  using In = S;
  using Acc = S;
  struct V {
    S at[L];
  };
  static constexpr int lanes = L, steps = 1, tall = 4, tall1 = 4, square = 4, square1 = 4;
  static V zero() { return V{}; }
  static V load(const Acc* p) {
    V v;
    std::memcpy(v.at, p, sizeof v.at);
    return v;
  }
  static V both(const In* p) {
    V v;
    for (int i = 0; i < L; ++i) v.at[i] = *p;
    return v;
  }
  static V row(const In* p) { return load(p); }
  static V multiply_add(V a, V b, V c) {
    for (int i = 0; i < L; ++i) c.at[i] += a.at[i] * b.at[i];
    return c;
  }
  static V multiply_add_both(const In* a, V b, V c) { return multiply_add(both(a), b, c); }
  static void store(Acc* p, V v) { std::memcpy(p, v.at, sizeof v.at); }
};
using F32 = Plain<float, 4>;
using F64 = Plain<double, 2>;

#endif

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

// One instruction multiplies pairs: both factors hold two neighbours of the summed axis side by side in 32 bits.
struct BF16 {
  using In = BFloat16;
  using Acc = float;
  using V = __m512;
  static constexpr int lanes = 16, steps = 2, tall = 12, tall1 = 24, square = 8, square1 = 16;
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const Acc* p) { return _mm512_loadu_ps(p); }
  static __m512i both(const In* p) {
    int32_t pair;
    std::memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
  }
  static __m512i row(const In* p) { return _mm512_loadu_si512(p); }
  // as assembly: GCC 12 spills sums to the stack around the intrinsic, which costs a third of the speed
  static V multiply_add(__m512i a, __m512i b, V c) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
  }
  static V multiply_add_both(const In* a, __m512i b, V c) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*reinterpret_cast<const int32_t (*)[1]>(a)));
    return c;
  }
  static void store(Acc* p, V v) { _mm512_storeu_ps(p, v); }
};

inline void round_to(BFloat16* to, __m512 v) {
  const __m256bh r = _mm512_cvtneps_pbh(v);
  std::memcpy(to, &r, 32);
}

#else

using BF16 = F32;

#endif

// The first `count` lanes of a vector of sums, to tensors of any type.
template <class L, class Out>
inline void put(Out* to, typename L::V v, int count) {
  if constexpr (std::is_same_v<Out, typename L::Acc>) {
    if (count >= L::lanes) return L::store(to, v);
  }
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  if constexpr (std::is_same_v<Out, BFloat16> && L::lanes == 16) {
    if (count >= 16) return round_to(to, v);
  }
#endif
  typename L::Acc all[L::lanes];
  L::store(all, v);
  for (int i = 0; i < std::min(count, L::lanes); ++i) to[i] = static_cast<Out>(all[i]);
}

}  // namespace block_sparse
