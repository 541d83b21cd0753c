// gather_heads on the CPU: sheaf::gather_heads, whose schema is in __init__.py. ../gather_mlp/rows.h has the inner loops.
// Threads take runs of the chosen heads. A head's weights are read once: K and V of this token and of every token that the head
// skipped come from the same pass over its rows, then q, the attention over its cache, and its share of the output, which every
// thread sums by itself; the threads' sums are added in their order.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "../gather_mlp/rows.h"

namespace {

using at::Tensor;
using std::optional;
using namespace rows;

template <class W>
struct Step {
  using In = DotLane<W, W>;   // weights against inputs
  using Near = Lane<W>;       // cache and outputs against numbers in full precision
  using Sum = typename Near::Sum;
  const W *x, *wq, *bq, *wk, *bk, *wv, *bv, *wot, *bo, *inputs;
  W *keys, *values;
  int64_t *filled;
  int64_t batch, d, heads, width, capacity, length;  // width: of a head

  int64_t first(int64_t h) const { return filled ? std::min(filled[h], length) : length; }

  // K or V of positions [from, length] of one head: `width` rows against the inputs of those positions, all in one pass.
  void project(const W* w, const W* b, int64_t h, int64_t from, const typename In::Value* seen, Sum* out, W* cache) const {
    const int64_t n = length + 1 - from, vectors = n * batch;
    for (int64_t j = 0; j < width; j += kRows) {
      const W* at[kRows];
      const int count = static_cast<int>(std::min<int64_t>(kRows, width - j));
      for (int r = 0; r < count; ++r) at[r] = w + (h * width + j + r) * d;
      dots<In>(at, count, d, seen, vectors, out);
      for (int r = 0; r < count; ++r)
        for (int64_t i = 0; i < batch; ++i)
          for (int64_t t = 0; t < n; ++t)
            cache[((i * heads + h) * capacity + from + t) * width + j + r] =
                static_cast<W>(out[r * vectors + i * n + t] + static_cast<Sum>(b[h * width + j + r]));
    }
  }

  // Attention of one query over positions [0, length] of one head and one member of the batch: output [width].
  void attend(const Sum* query, int64_t i, int64_t h, Sum* scores, Sum* arranged, Sum* out) const {
    const int64_t start = (i * heads + h) * capacity * width, padded = round_up(width, Near::width);
    arrange<Near>(query, 1, width, width, arranged);
    Sum most = -INFINITY;
    const auto rows_at = [&](const W* cache, int64_t t, int count, const W** at) {
      for (int r = 0; r < count; ++r) at[r] = cache + start + (t + r) * width;
    };
    const W* at[kRows];
    for (int64_t t = 0; t <= length; t += kRows) {
      const int count = static_cast<int>(std::min<int64_t>(kRows, length + 1 - t));
      rows_at(keys, t, count, at);
      dots<Near>(at, count, width, arranged, 1, scores + t);
    }
    for (int64_t t = 0; t <= length; ++t) most = std::max(most, scores[t]);
    Sum total = 0;
    for (int64_t t = 0; t <= length; ++t) total += scores[t] = std::exp(scores[t] - most);
    std::fill(arranged, arranged + padded, Sum(0));
    for (int64_t t = 0; t <= length; t += kRows) {
      const int count = static_cast<int>(std::min<int64_t>(kRows, length + 1 - t));
      rows_at(values, t, count, at);
      add_rows<Near>(at, count, width, scores + t, 1, arranged);
    }
    restore<Near>(arranged, width, out);
    for (int64_t j = 0; j < width; ++j) out[j] /= total;
  }

  // One head: fills its cache, adds its output to sums [batch, round_up(d)].
  void head(int64_t h, Sum* sums) const {
    static thread_local Scratch<typename In::Value> seen_;
    static thread_local Scratch<Sum> scratch_;
    const int64_t from = first(h), n = length + 1 - from, padded = round_up(d, In::width);
    typename In::Value* seen = seen_.get(n * batch * padded);  // [batch, n, padded]
    for (int64_t i = 0; i < batch; ++i)
      arrange<In>(n == 1 ? x + i * d : inputs + (i * capacity + from) * d, n, d, d, seen + i * n * padded);
    Sum* out = scratch_.get(kRows * n * batch + 3 * width * batch + length + 1 + round_up(width, Near::width));
    Sum *query = out + kRows * n * batch, *each = query + width * batch, *by_row = each + width * batch;
    Sum *scores = by_row + width * batch, *arranged = scores + length + 1;
    project(wk, bk, h, from, seen, out, keys);
    project(wv, bv, h, from, seen, out, values);
    if (n > 1)
      for (int64_t i = 0; i < batch; ++i) arrange<In>(x + i * d, 1, d, d, seen + i * padded);
    const Sum scale = Sum(1) / std::sqrt(static_cast<Sum>(width));
    for (int64_t j = 0; j < width; j += kRows) {
      const W* at[kRows];
      const int count = static_cast<int>(std::min<int64_t>(kRows, width - j));
      for (int r = 0; r < count; ++r) at[r] = wq + (h * width + j + r) * d;
      dots<In>(at, count, d, seen, batch, out);
      for (int r = 0; r < count; ++r)
        for (int64_t i = 0; i < batch; ++i)
          query[i * width + j + r] = (out[r * batch + i] + static_cast<Sum>(bq[h * width + j + r])) * scale;
    }
    for (int64_t i = 0; i < batch; ++i) attend(query + i * width, i, h, scores, arranged, each + i * width);
    for (int64_t i = 0; i < batch; ++i)
      for (int64_t j = 0; j < width; ++j) by_row[j * batch + i] = each[i * width + j];
    for (int64_t j = 0; j < width; j += kRows) {
      const W* at[kRows];
      const int count = static_cast<int>(std::min<int64_t>(kRows, width - j));
      for (int r = 0; r < count; ++r) at[r] = wot + (h * width + j + r) * d;
      add_rows<Near>(at, count, d, by_row + j * batch, batch, sums);
    }
  }

  void run(const std::vector<int64_t>& chosen, W* y) const {
    const int64_t k = chosen.size(), padded = round_up(d, Near::width);
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), k));
    static thread_local Scratch<Sum> totals;
    Sum* sums = totals.get(threads * batch * padded + d);
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        Sum* mine = sums + t * batch * padded;
        std::fill(mine, mine + batch * padded, Sum(0));
        for (int64_t i = k * t / threads; i < k * (t + 1) / threads; ++i) head(chosen[i], mine);
      }
    });
    if (filled)
      for (int64_t h : chosen) filled[h] = length + 1;
    Sum* in_order = sums + threads * batch * padded;
    for (int64_t i = 0; i < batch; ++i) {
      Sum* total = sums + i * padded;
      for (int64_t t = 1; t < threads; ++t)
        for (int64_t c = 0; c < padded; ++c) total[c] += sums[(t * batch + i) * padded + c];
      restore<Near>(total, d, in_order);
      for (int64_t c = 0; c < d; ++c) y[i * d + c] = static_cast<W>(in_order[c] + static_cast<Sum>(bo[c]));
    }
  }
};

Tensor gather_heads(const Tensor& x, const Tensor& wq, const Tensor& bq, const Tensor& wk, const Tensor& bk, const Tensor& wv,
                    const Tensor& bv, const Tensor& wot, const Tensor& bo, Tensor keys, Tensor values, const Tensor& length,
                    const Tensor& heads, const optional<Tensor>& inputs, const optional<Tensor>& filled) {
  Tensor y = at::empty(x.sizes(), x.options());
  const int64_t batch = x.size(0), d = x.size(1), all = wq.size(0), capacity = keys.size(2), at = length.item<int64_t>();
  TORCH_CHECK_VALUE(0 <= at && at < capacity, "length is ", at, ", the cache has room for ", capacity, " tokens");
  std::vector<int64_t> chosen;
  const int64_t* entries = heads.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < heads.numel(); ++i) {
    TORCH_CHECK_INDEX(entries[i] < all, "head ", entries[i], " is out of range for ", all, " heads");
    if (entries[i] >= 0) chosen.push_back(entries[i]);
  }
  const auto go = [&](auto kind) {
    using W = decltype(kind);
    const auto p = [](const Tensor& t) { return t.const_data_ptr<W>(); };
    W* seen = inputs ? const_cast<Tensor&>(*inputs).mutable_data_ptr<W>() : nullptr;
    if (seen)
      for (int64_t i = 0; i < batch; ++i) std::memcpy(seen + (i * capacity + at) * d, p(x) + i * d, sizeof(W) * d);
    Step<W>{p(x), p(wq), p(bq), p(wk), p(bk), p(wv), p(bv), p(wot), p(bo), seen, keys.mutable_data_ptr<W>(),
            values.mutable_data_ptr<W>(), filled ? const_cast<Tensor&>(*filled).mutable_data_ptr<int64_t>() : nullptr, batch, d,
            all, wq.size(1), capacity, at}
        .run(chosen, y.mutable_data_ptr<W>());
  };
  switch (x.scalar_type()) {
    case at::kFloat: go(float{}); break;
    case at::kDouble: go(double{}); break;
    case at::kBFloat16: go(BFloat16{}); break;
    default: TORCH_CHECK_VALUE(false, "gather_heads takes float32, float64 or bfloat16; got ", x.scalar_type());
  }
  return y;
}

TORCH_LIBRARY_IMPL(sheaf, CPU, m) { m.impl("gather_heads", gather_heads); }

}  // namespace
