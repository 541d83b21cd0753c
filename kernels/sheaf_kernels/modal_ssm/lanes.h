// One register of float32 under one name: AVX-512, AVX2 with FMA, or a plain array that any compiler takes.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace modal_ssm {

constexpr int kTile = 16;  // channels side by side, see modes.py

#if defined(__AVX512F__)

struct Lanes {
  static constexpr int count = 16;
  using V = __m512;
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static V zero() { return _mm512_setzero_ps(); }
  static V multiply(V a, V b) { return _mm512_mul_ps(a, b); }
  static V multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }        // a b + c
  static V multiply_subtract(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
};

#elif defined(__AVX2__) && defined(__FMA__)

struct Lanes {
  static constexpr int count = 8;
  using V = __m256;
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static V zero() { return _mm256_setzero_ps(); }
  static V multiply(V a, V b) { return _mm256_mul_ps(a, b); }
  static V multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V multiply_subtract(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
};

#else

struct Lanes {
  static constexpr int count = 4;
  struct V {
    float at[count];
  };
  static V load(const float* p) {
    V v;
    std::memcpy(v.at, p, sizeof v.at);
    return v;
  }
  static void store(float* p, V v) { std::memcpy(p, v.at, sizeof v.at); }
  static V zero() { return V{}; }
  static V multiply(V a, V b) {
    for (int i = 0; i < count; ++i) a.at[i] *= b.at[i];
    return a;
  }
  static V multiply_add(V a, V b, V c) {
    for (int i = 0; i < count; ++i) c.at[i] += a.at[i] * b.at[i];
    return c;
  }
  static V multiply_subtract(V a, V b, V c) {
    for (int i = 0; i < count; ++i) c.at[i] -= a.at[i] * b.at[i];
    return c;
  }
};

#endif

}  // namespace modal_ssm
