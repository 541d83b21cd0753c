// Recurrences in modal form on the CPU: sheaf::modal_step_, modal_mixer_step_ and modal_prefill_, whose schemas are in __init__.py.
//   lanes.h  one processor register    step.h  a tile of 16 channels
// Layout of parameters and state: modes.py. Threads take runs of tiles; the sequences of a batch a few at a time.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "step.h"

namespace {

using at::Tensor;
using std::optional;
using namespace modal_ssm;

struct Layout {
  int64_t tiles, batch, modes, channels, shared;  // shared: tiles that use the same parameters
  const float *packed, *h0;
  float* state;
  Layout(const Tensor& state_, const Tensor& packed_, const Tensor& h0_)
      : tiles(state_.size(1)), batch(state_.size(0)), modes(state_.size(2)), channels(h0_.size(0)),
        shared(tiles / std::max<int64_t>(1, packed_.size(0))), packed(packed_.const_data_ptr<float>()),
        h0(h0_.const_data_ptr<float>()), state(state_.mutable_data_ptr<float>()) {}
  const float* parameters(int64_t tile) const { return packed + tile / shared * modes * 4 * kTile; }
  float* at(int64_t tile, int64_t sequence) const { return state + (sequence * tiles + tile) * modes * 2 * kTile; }
  int64_t width(int64_t tile) const { return std::min<int64_t>(kTile, channels - tile * kTile); }
  void direct(int64_t tile, float* to) const {
    std::fill(to, to + kTile, 0.f);
    std::copy_n(h0 + tile * kTile, width(tile), to);
  }
  // tiles for one thread: not worth waking another one below about 30 000 numbers of state
  int64_t grain() const { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, batch * modes * 2 * kTile)); }
};

constexpr int64_t kCached = 4 << 20;      // floats; a larger state will not be found in the cache at the next token
constexpr int64_t kParameters = 32 << 10;  // floats of parameters that stay in the second-level cache for the whole batch

// One step of N sequences, tiles [first, last): states, inputs and outputs are runs of memory.
template <int N, bool Fetch, class Fill, class Take>
void sequences(const Layout& l, int64_t first, int64_t last, int64_t b, Fill fill, Take take) {
  alignas(64) float z[N * kTile] = {}, y[N * kTile], h0[kTile];
  for (int64_t tile = first; tile < last; ++tile) {
    l.direct(tile, h0);
    if (l.width(tile) < kTile) std::fill(z, z + N * kTile, 0.f);
    for (int64_t k = 0; k < N; ++k) fill(tile, b + k, z + k * kTile);
    step_tile<N, Fetch>(l.parameters(tile), h0, l.at(tile, b), l.at(0, 1) - l.at(0, 0), l.modes, z, y);
    for (int64_t k = 0; k < N; ++k) take(tile, b + k, y + k * kTile);
  }
}

// One step of every sequence. fill(tile, sequence, z[16]) gives inputs, take(tile, sequence, y[16]) gets outputs; lanes past the last
// channel are zero. A thread takes a run of tiles, of it as many at a time as have parameters that stay at hand.
template <class Fill, class Take>
void steps(const Layout& l, Fill fill, Take take) {
  const bool cached = l.tiles * l.batch * l.modes * 2 * kTile <= kCached;
  const int64_t together = std::max<int64_t>(1, kParameters / (l.modes * 4 * kTile));
  at::parallel_for(0, l.tiles, l.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += together) {
      const int64_t last = std::min(end, first + together);
      int64_t b = 0;
      for (; b + kAbreast <= l.batch; b += kAbreast) {
        if (cached)
          sequences<kAbreast, false>(l, first, last, b, fill, take);
        else
          sequences<kAbreast, true>(l, first, last, b, fill, take);
      }
      for (; b < l.batch; ++b) sequences<1, false>(l, first, last, b, fill, take);
    }
  });
}

Tensor step(const Tensor& state, const Tensor& z, const Tensor& packed, const Tensor& h0) {
  const Layout l(state, packed, h0);
  Tensor y = at::empty(z.sizes(), z.options());
  const float* from = z.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  steps(
      l, [&](int64_t t, int64_t b, float* v) { std::copy_n(from + b * l.channels + t * kTile, l.width(t), v); },
      [&](int64_t t, int64_t b, const float* v) { std::copy_n(v, l.width(t), to + b * l.channels + t * kTile); });
  return y;
}

// The short convolution: channels [first, first + count) of one sequence; the history moves on by one token.
void fir(const float* u, float* history, const float* taps, const float* bias, int64_t memory, int64_t width, int64_t first,
         int64_t count, float* to) {
  const float* last = taps + memory * width;
  for (int64_t i = 0; i < count; ++i) to[i] = last[first + i] * u[first + i] + (bias ? bias[first + i] : 0.f);
  for (int64_t k = 0; k < memory; ++k) {
    float* h = history + k * width + first;
    const float* tap = taps + k * width + first;
    const float* next = k + 1 < memory ? h + width : u + first;
    for (int64_t i = 0; i < count; ++i) {
      to[i] += tap[i] * h[i];
      h[i] = next[i];
    }
  }
}

Tensor mixer_step(const Tensor& state, const Tensor& history, const Tensor& qkv, const Tensor& taps,
                  const optional<Tensor>& bias, const Tensor& packed, const Tensor& h0, int64_t size) {
  const Layout l(state, packed, h0);
  const int64_t batch = qkv.size(0), all = qkv.size(1), width = all / 3, memory = history.size(1);
  Tensor y = at::empty({batch, width}, qkv.options());
  const float *u = qkv.const_data_ptr<float>(), *tap = taps.const_data_ptr<float>();
  const float* add = bias ? bias->const_data_ptr<float>() : nullptr;
  float *past = history.mutable_data_ptr<float>(), *out = y.mutable_data_ptr<float>();
  const auto conv = [&](int64_t b, int64_t first, int64_t count, float* to) {
    fir(u + b * all, past + b * memory * all, tap, add, memory, all, first, count, to);
  };
  if (size == 1) {  // every channel by itself: convolution, gates and recurrence in one pass over tiles
    steps(
        l,
        [&](int64_t t, int64_t b, float* z) {
          float q[kTile], k[kTile], v[kTile];
          const int64_t first = t * kTile, count = l.width(t);
          conv(b, first, count, q);
          conv(b, width + first, count, k);
          conv(b, 2 * width + first, count, v);
          for (int64_t i = 0; i < count; ++i) z[i] = k[i] * v[i];
          std::copy_n(q, count, out + b * width + first);
        },
        [&](int64_t t, int64_t b, const float* s) {
          float* to = out + b * width + t * kTile;
          for (int64_t i = 0; i < l.width(t); ++i) to[i] *= s[i];
        });
    return y;
  }
  std::vector<float> projected(batch * all), memories(batch * l.channels);
  at::parallel_for(0, batch, std::max<int64_t>(1, 8192 / all), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) conv(b, 0, all, projected.data() + b * all);
  });
  const int64_t square = size * size;
  steps(
      l,
      [&](int64_t t, int64_t b, float* z) {
        const float *k = projected.data() + b * all + width, *v = k + width;
        for (int64_t i = 0, c = t * kTile; i < l.width(t); ++i, ++c) {
          const int64_t head = c / square * size, in = c % square;
          z[i] = k[head + in / size] * v[head + in % size];
        }
      },
      [&](int64_t t, int64_t b, const float* s) { std::copy_n(s, l.width(t), memories.data() + b * l.channels + t * kTile); });
  at::parallel_for(0, batch, std::max<int64_t>(1, 8192 / l.channels), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t head = 0; head < width / size; ++head) {
        const float *q = projected.data() + b * all + head * size, *s = memories.data() + b * l.channels + head * square;
        float* to = out + b * width + head * size;
        std::fill(to, to + size, 0.f);
        for (int64_t i = 0; i < size; ++i)
          for (int64_t j = 0; j < size; ++j) to[j] += q[i] * s[i * size + j];
      }
  });
  return y;
}

constexpr int64_t kSteps = 128;  // tokens at a time: z and y of a tile take 16 KB of the first-level cache

Tensor prefill(const Tensor& state, const Tensor& z, const Tensor& packed, const Tensor& h0, bool outputs) {
  const Layout l(state, packed, h0);
  const int64_t length = z.size(2);
  Tensor y = outputs ? at::empty(z.sizes(), z.options()) : at::empty({0}, z.options());
  const float* from = z.const_data_ptr<float>();
  float* to = outputs ? y.mutable_data_ptr<float>() : nullptr;
  at::parallel_for(0, l.tiles * l.batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> zs(kSteps * kTile), ys(kSteps * kTile);
    alignas(64) float h0s[kTile];
    for (int64_t at = begin; at < end; ++at) {
      const int64_t tile = at / l.batch, b = at % l.batch, width = l.width(tile), start = (b * l.channels + tile * kTile) * length;
      l.direct(tile, h0s);
      if (width < kTile) std::fill(zs.begin(), zs.end(), 0.f);
      for (int64_t t = 0; t < length; t += kSteps) {
        const int64_t count = std::min(kSteps, length - t);
        for (int64_t i = 0; i < width; ++i)
          for (int64_t j = 0; j < count; ++j) zs[j * kTile + i] = from[start + i * length + t + j];
        run_tile(l.parameters(tile), h0s, l.at(tile, b), l.modes, count, zs.data(), outputs ? ys.data() : nullptr);
        if (outputs)
          for (int64_t i = 0; i < width; ++i)
            for (int64_t j = 0; j < count; ++j) to[start + i * length + t + j] = ys[j * kTile + i];
      }
    }
  });
  return y;
}

TORCH_LIBRARY_IMPL(sheaf, CPU, m) {
  m.impl("modal_step_", step);
  m.impl("modal_mixer_step_", mixer_step);
  m.impl("modal_prefill_", prefill);
}

}  // namespace
