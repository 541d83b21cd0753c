// predict_topk on the CPU: sheaf::predict_topk, whose schema is in __init__.py. ../gather_mlp/rows.h has the inner loops.
// Rows of a give the hidden numbers, rows of b the scores, both spread over threads; then the k-th largest score is found by two
// histograms over the bits of the scores (top half, then the rest within one bin), and one scan writes the indices in order.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "../gather_mlp/rows.h"

namespace {

using at::Tensor;
using namespace rows;

// Bits of a score, ordered as unsigned numbers like the scores themselves; NaN below everything.
inline uint32_t ordered(float s) {
  if (s != s) return 0;
  s += 0.0f;  // -0 is 0
  uint32_t bits;
  std::memcpy(&bits, &s, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
inline uint64_t ordered(double s) {
  if (s != s) return 0;
  s += 0.0;
  uint64_t bits;
  std::memcpy(&bits, &s, 8);
  return bits & (1ull << 63) ? ~bits : bits | (1ull << 63);
}

// The k largest in ascending order of index, of equal ones the first; returns how many lie above the threshold.
template <class Sum>
int64_t select(const Sum* scores, int64_t n, int64_t k, double threshold, int64_t* out) {
  using Bits = decltype(ordered(Sum{}));
  constexpr int kStep = 11;
  static thread_local std::vector<Bits> bits;
  bits.resize(n);
  for (int64_t i = 0; i < n; ++i) bits[i] = ordered(scores[i]);
  Bits prefix = 0, mask = 0;  // the leading bits of the k-th largest
  int64_t missing = k;        // how many to take among those that share the prefix
  for (int left = 8 * sizeof(Bits); left > 0;) {
    const int step = std::min(kStep, left);
    int64_t counts[1 << kStep] = {};
    for (int64_t i = 0; i < n; ++i)
      if ((bits[i] & mask) == prefix) ++counts[bits[i] >> (left - step) & ((Bits(1) << step) - 1)];
    int bin = (1 << step) - 1;
    while (bin > 0 && counts[bin] < missing) missing -= counts[bin--];
    left -= step;
    prefix |= static_cast<Bits>(bin) << left;
    mask |= ((Bits(1) << step) - 1) << left;
    if (counts[bin] == missing) break;  // all of the bin
  }
  int64_t taken = 0;
  for (int64_t i = 0; i < n && taken < k; ++i) {
    const Bits head = bits[i] & mask;
    if (head > prefix || (head == prefix && missing-- > 0))
      if (scores[i] > threshold || threshold == -INFINITY) out[taken++] = i;
  }
  return taken;
}

template <class W, class X>
void run(const Tensor& x, const Tensor& a, const Tensor& b, int64_t k, double threshold, bool relu, bool most, int64_t* out) {
  using First = DotLane<W, X>;
  using Second = Lane<W>;
  using Sum = typename Second::Sum;
  const int64_t batch = x.size(0), d = x.size(1), r = a.size(0), units = b.size(0);
  const int64_t padded = round_up(d, First::width), low = round_up(r, Second::width);
  static thread_local Scratch<typename First::Value> inputs;
  static thread_local Scratch<Sum> scratch;
  typename First::Value* xs = inputs.get(batch * padded);
  arrange<First>(x.const_data_ptr<X>(), batch, d, d, xs);
  // the sum over the batch commutes with b: one hidden vector is enough
  const int64_t seconds = most ? batch : 1;
  Sum *hidden = scratch.get(seconds * (r + low) + units), *arranged = hidden + seconds * r, *scores = arranged + seconds * low;
  const W *wa = a.const_data_ptr<W>(), *wb = b.const_data_ptr<W>();
  const auto over_rows = [&](const W* w, int64_t n, int64_t columns, auto work) {
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), n * columns / 16384));
    const int64_t groups = (n + kRows - 1) / kRows;
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t g = groups * t / threads; g < groups * (t + 1) / threads; ++g) {
          const W* at[kRows];
          const int count = static_cast<int>(std::min<int64_t>(kRows, n - g * kRows));
          for (int q = 0; q < count; ++q) at[q] = w + (g * kRows + q) * columns;
          work(at, count, g * kRows);
        }
    });
  };
  over_rows(wa, r, d, [&](const W* const* at, int count, int64_t first) {
    static thread_local Scratch<Sum> part_;
    Sum* part = part_.get(kRows * batch);
    dots<First>(at, count, d, xs, batch, part);
    for (int q = 0; q < count; ++q) {
      Sum total = 0;
      for (int64_t i = 0; i < batch; ++i) {
        Sum& h = part[q * batch + i];
        if (relu && h < 0) h = 0;
        total += h;
        if (most) hidden[i * r + first + q] = h;
      }
      if (!most) hidden[first + q] = total;
    }
  });
  arrange<Second>(hidden, seconds, r, r, arranged);
  over_rows(wb, units, r, [&](const W* const* at, int count, int64_t first) {
    if (seconds == 1) {
      for (int q = 0; q < count; ++q) scores[first + q] = dot_next<Second>(at[q], r, arranged);
      return;
    }
    static thread_local Scratch<Sum> part_;
    Sum* part = part_.get(kRows * seconds);
    dots<Second>(at, count, r, arranged, seconds, part);
    for (int q = 0; q < count; ++q) scores[first + q] = *std::max_element(part + q * seconds, part + (q + 1) * seconds);
  });
  const int64_t taken = k ? select(scores, units, k, threshold, out) : 0;
  std::fill(out + taken, out + k, int64_t(-1));
}

template <class W>
void by_input(const Tensor& x, const Tensor& a, const Tensor& b, int64_t k, double threshold, bool relu, bool most, int64_t* out) {
  if constexpr (std::is_same_v<W, double>) {
    run<double, double>(x.to(at::kDouble), a, b, k, threshold, relu, most, out);
  } else if (std::is_same_v<W, BFloat16> && x.scalar_type() == at::kBFloat16) {
    run<W, BFloat16>(x, a, b, k, threshold, relu, most, out);
  } else {
    run<W, float>(x.to(at::kFloat), a, b, k, threshold, relu, most, out);
  }
}

Tensor predict_topk(const Tensor& x, const Tensor& a, const Tensor& b, int64_t k, double threshold, bool relu, bool most) {
  Tensor index = at::empty({k}, x.options().dtype(at::kLong));
  int64_t* out = index.mutable_data_ptr<int64_t>();
  switch (a.scalar_type()) {
    case at::kFloat: by_input<float>(x, a, b, k, threshold, relu, most, out); break;
    case at::kDouble: by_input<double>(x, a, b, k, threshold, relu, most, out); break;
    case at::kBFloat16: by_input<BFloat16>(x, a, b, k, threshold, relu, most, out); break;
    default: TORCH_CHECK_VALUE(false, "predict_topk takes float32, float64 or bfloat16; got ", a.scalar_type());
  }
  return index;
}

TORCH_LIBRARY_IMPL(sheaf, CPU, m) { m.impl("predict_topk", predict_topk); }

}  // namespace
