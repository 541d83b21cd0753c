// One tile of 16 channels: a step for several sequences at once, and many steps of one sequence.
#pragma once
#include "lanes.h"

namespace modal_ssm {

constexpr int kParts = kTile / Lanes::count;  // registers of a tile
// Sequences at a time while the state stays in the cache: four sums hide the latency of an addition.
constexpr int kAbreast = kParts >= 4 ? 1 : 4 / kParts;
constexpr int kAhead = 8 * 2 * kTile;  // floats: a kilobyte, about what arrives while so much is computed

// y = Re(R x) + h0 z, then x <- lambda x + z, for N sequences whose states lie `apart` floats from one another.
//   p [m, 4, 16] parameters    h0 [16]    x [m, 2, 16]    z, y [N, 16]
// Parameters are loaded once for N sequences; the state goes through registers once. `Fetch` asks for the state ahead of its
// use, for states larger than the cache.
template <int N, bool Fetch>
inline void step_tile(const float* p, const float* h0, float* x, int64_t apart, int64_t modes, const float* z, float* y) {
  using V = Lanes::V;
  V zs[N][kParts], sums[N][kParts];
  for (int b = 0; b < N; ++b)
    for (int k = 0; k < kParts; ++k) {
      zs[b][k] = Lanes::load(z + b * kTile + k * Lanes::count);
      sums[b][k] = Lanes::multiply(zs[b][k], Lanes::load(h0 + k * Lanes::count));
    }
  for (int64_t n = 0; n < modes; ++n, p += 4 * kTile, x += 2 * kTile) {
    if constexpr (Fetch)
      for (int b = 0; b < N; ++b) {
        __builtin_prefetch(x + b * apart + kAhead, 1);
        __builtin_prefetch(x + b * apart + kAhead + kTile, 1);
      }
    for (int k = 0; k < kParts; ++k) {
      const float* q = p + k * Lanes::count;
      const V lr = Lanes::load(q), li = Lanes::load(q + kTile), rr = Lanes::load(q + 2 * kTile), ri = Lanes::load(q + 3 * kTile);
      for (int b = 0; b < N; ++b) {
        float* to = x + b * apart + k * Lanes::count;
        const V xr = Lanes::load(to), xi = Lanes::load(to + kTile);
        sums[b][k] = Lanes::multiply_subtract(ri, xi, Lanes::multiply_add(rr, xr, sums[b][k]));
        const V real = Lanes::multiply_subtract(li, xi, Lanes::multiply_add(lr, xr, zs[b][k]));
        const V imaginary = Lanes::multiply_add(li, xr, Lanes::multiply(lr, xi));
        Lanes::store(to, real);
        Lanes::store(to + kTile, imaginary);
      }
    }
  }
  for (int b = 0; b < N; ++b)
    for (int k = 0; k < kParts; ++k) Lanes::store(y + b * kTile + k * Lanes::count, sums[b][k]);
}

// `steps` tokens of one sequence: z and y are [steps, 16]; y is not written when it is null. Modes are taken one by one, each with its
// state in registers for all steps: that is one load, one store of y, and no traffic of states and parameters.
inline void run_tile(const float* p, const float* h0, float* x, int64_t modes, int64_t steps, const float* z, float* y) {
  using V = Lanes::V;
  if (y)
    for (int at = 0; at < kTile; at += Lanes::count) {
      const V direct = Lanes::load(h0 + at);
      for (int64_t t = 0; t < steps; ++t) Lanes::store(y + t * kTile + at, Lanes::multiply(direct, Lanes::load(z + t * kTile + at)));
    }
  for (int64_t n = 0; n < modes; ++n, p += 4 * kTile, x += 2 * kTile) {
    V lr[kParts], li[kParts], xr[kParts], xi[kParts];
    for (int k = 0; k < kParts; ++k) {
      lr[k] = Lanes::load(p + k * Lanes::count);
      li[k] = Lanes::load(p + kTile + k * Lanes::count);
      xr[k] = Lanes::load(x + k * Lanes::count);
      xi[k] = Lanes::load(x + kTile + k * Lanes::count);
    }
    const float *rr = p + 2 * kTile, *ri = p + 3 * kTile;
    for (int64_t t = 0; t < steps; ++t)
      for (int k = 0; k < kParts; ++k) {
        const int64_t at = t * kTile + k * Lanes::count;
        if (y) {
          const V sum = Lanes::multiply_add(Lanes::load(rr + k * Lanes::count), xr[k], Lanes::load(y + at));
          Lanes::store(y + at, Lanes::multiply_subtract(Lanes::load(ri + k * Lanes::count), xi[k], sum));
        }
        const V real = Lanes::multiply_subtract(li[k], xi[k], Lanes::multiply_add(lr[k], xr[k], Lanes::load(z + at)));
        xi[k] = Lanes::multiply_add(li[k], xr[k], Lanes::multiply(lr[k], xi[k]));
        xr[k] = real;
      }
    for (int k = 0; k < kParts; ++k) {
      Lanes::store(x + k * Lanes::count, xr[k]);
      Lanes::store(x + kTile + k * Lanes::count, xi[k]);
    }
  }
}

}  // namespace modal_ssm
