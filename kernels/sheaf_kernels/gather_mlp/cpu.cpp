// gather_mlp on the CPU: sheaf::gather_mlp, whose schema is in __init__.py. rows.h has the inner loops.
// One pass: four chosen rows of W1 give four activations, which at once weigh the four rows of the transposed W2. Every thread
// takes a run of the index and sums in float32 (float64) of its own, which are added in the threads' order: equal calls with
// equal thread counts give equal bits.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "rows.h"

namespace {

using at::Tensor;
using namespace rows;

enum Activation { kRelu, kGelu, kIdentity };

template <class T>
T activate(T z, int64_t activation) {
  if (activation == kRelu) return z > 0 ? z : (z == z ? T(0) : z);  // NaN stays
  if (activation == kGelu) return T(0.5) * z * (T(1) + std::erf(z * T(0.70710678118654752440)));
  return z;
}

template <class W>
void run(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2t, const Tensor& b2, const std::vector<int64_t>& index,
         int64_t activation, double threshold, Tensor& y) {
  using In = DotLane<W, W>;
  using Out = Lane<W>;
  using Sum = typename Out::Sum;
  const int64_t batch = x.size(0), d = x.size(1), k = index.size();
  const int64_t in_width = round_up(d, In::width), out_width = round_up(d, Out::width);
  const W *first = w1.const_data_ptr<W>(), *second = w2t.const_data_ptr<W>(), *bias = b1.const_data_ptr<W>();
  static thread_local Scratch<typename In::Value> inputs;
  static thread_local Scratch<Sum> totals;
  typename In::Value* xs = inputs.get(batch * in_width);
  arrange<In>(x.const_data_ptr<W>(), batch, d, d, xs);
  const int64_t groups = (k + kRows - 1) / kRows;
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), groups / 4));
  Sum* sums = totals.get(threads * batch * out_width);
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    static thread_local Scratch<Sum> scratch;
    for (int64_t t = begin; t < end; ++t) {
      Sum* mine = sums + t * batch * out_width;
      std::fill(mine, mine + batch * out_width, Sum(0));
      Sum* hidden = scratch.get(kRows * batch);
      const int64_t until = std::min(k, groups * (t + 1) / threads * kRows);
      for (int64_t i = groups * t / threads * kRows; i < until; i += kRows) {
        const W *from[kRows], *to[kRows];
        int count = static_cast<int>(std::min<int64_t>(kRows, until - i));
        for (int r = 0; r < count; ++r) {
          from[r] = first + index[i + r] * d;
          to[r] = second + index[i + r] * d;
          soon(to[r]);
        }
        dots<In>(from, count, d, xs, batch, hidden);
        int kept = 0;
        for (int r = 0; r < count; ++r) {
          bool needed = threshold < 0;
          for (int64_t b = 0; b < batch; ++b) {
            const Sum a = activate(hidden[r * batch + b] + static_cast<Sum>(bias[index[i + r]]), activation);
            needed |= !(std::abs(a) <= threshold);
            hidden[kept * batch + b] = a;
          }
          if (needed) to[kept++] = to[r];
        }
        for (int64_t next = i + kRows; next < std::min(i + 2 * kRows, until); ++next) soon(first + index[next] * d);
        add_rows<Out>(to, kept, d, hidden, batch, mine);
      }
    }
  });
  const W* shift = b2.const_data_ptr<W>();
  W* result = y.mutable_data_ptr<W>();
  for (int64_t b = 0; b < batch; ++b) {
    Sum* total = sums + b * out_width;
    for (int64_t t = 1; t < threads; ++t) {
      const Sum* other = sums + (t * batch + b) * out_width;
      for (int64_t c = 0; c < out_width; ++c) total[c] += other[c];
    }
    static thread_local Scratch<Sum> plain;
    Sum* in_order = plain.get(d);
    restore<Out>(total, d, in_order);
    for (int64_t c = 0; c < d; ++c) result[b * d + c] = static_cast<W>(in_order[c] + static_cast<Sum>(shift[c]));
  }
}

Tensor gather_mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2t, const Tensor& b2, const Tensor& index,
                  int64_t activation, double threshold) {
  Tensor y = at::empty(x.sizes(), x.options());
  const int64_t f = w1.size(0);
  static thread_local std::vector<int64_t> chosen;
  chosen.clear();
  const int64_t* entries = index.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i) {
    TORCH_CHECK_INDEX(entries[i] < f, "index ", entries[i], " is out of range for ", f, " neurons");
    if (entries[i] >= 0) chosen.push_back(entries[i]);
  }
  switch (x.scalar_type()) {
    case at::kFloat: run<float>(x, w1, b1, w2t, b2, chosen, activation, threshold, y); break;
    case at::kDouble: run<double>(x, w1, b1, w2t, b2, chosen, activation, threshold, y); break;
    case at::kBFloat16: run<BFloat16>(x, w1, b1, w2t, b2, chosen, activation, threshold, y); break;
    default: TORCH_CHECK_VALUE(false, "gather_mlp takes float32, float64 or bfloat16; got ", x.scalar_type());
  }
  return y;
}

TORCH_LIBRARY_IMPL(sheaf, CPU, m) { m.impl("gather_mlp", gather_mlp); }

}  // namespace
