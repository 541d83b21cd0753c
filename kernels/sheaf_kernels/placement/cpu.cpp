// Placement search on the CPU: registers evaluate, local search, evolutionary search, random search and exhaustive search
// as operators sheaf::placement_*. The mathematics is in evaluate.h and search.h; tensors stop here.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "search.h"

namespace {

using at::Tensor;
using placement::Problem;

Problem problem(const Tensor& pp, const Tensor& dp, const Tensor* cut, int64_t groups) {
  return Problem(pp.size(0), groups, pp.const_data_ptr<double>(), dp.const_data_ptr<double>(),
                 cut ? cut->const_data_ptr<double>() : nullptr);
}

std::vector<int> row(const Tensor& t, int64_t i) {
  const int64_t n = t.size(1);
  const int64_t* from = t.const_data_ptr<int64_t>() + i * n;
  return std::vector<int>(from, from + n);
}

// [B, N] partitions -> [B, 4]: data-parallel cost, pipeline cost, and both with means in the place of maxima.
Tensor evaluate(const Tensor& pp, const Tensor& dp, const Tensor& partitions, int64_t groups) {
  const Problem p = problem(pp, dp, nullptr, groups);
  Tensor out = at::empty({partitions.size(0), 4}, pp.options());
  double* to = out.mutable_data_ptr<double>();
  at::parallel_for(0, partitions.size(0), 16, [&](int64_t begin, int64_t end) {
    placement::Evaluator evaluator(p);
    for (int64_t i = begin; i < end; ++i) {
      const placement::Cost cost = evaluator(row(partitions, i).data(), true);
      to[i * 4] = cost.dp, to[i * 4 + 1] = cost.pp, to[i * 4 + 2] = cost.dp_mean, to[i * 4 + 3] = cost.pp_mean;
    }
  });
  return out;
}

std::tuple<Tensor, Tensor> search(const Tensor& pp, const Tensor& dp, const Tensor& cut, const Tensor& seeds,
                                  const Tensor& start, int64_t groups, int64_t evaluations, int64_t population,
                                  int64_t rule, int64_t quirks) {
  const Problem p = problem(pp, dp, &cut, groups);
  Tensor best = at::empty({seeds.size(0), p.n}, seeds.options());
  Tensor history = at::empty({seeds.size(0), evaluations}, pp.options());
  const int64_t* seed = seeds.const_data_ptr<int64_t>();
  int64_t* best_to = best.mutable_data_ptr<int64_t>();
  double* history_to = history.mutable_data_ptr<double>();
  at::parallel_for(0, seeds.size(0), 1, [&](int64_t begin, int64_t end) {
    placement::Search one(p, static_cast<placement::Rule>(rule), quirks);
    for (int64_t i = begin; i < end; ++i)
      one.run(seed[i], evaluations, population, start.const_data_ptr<int64_t>(), start.size(0), best_to + i * p.n,
              history_to + i * evaluations);
  });
  return {best, history};
}

}  // namespace

TORCH_LIBRARY(sheafx, m) {
  m.def("placement_evaluate(Tensor pp, Tensor dp, Tensor partitions, int groups) -> Tensor");
  m.def("placement_search(Tensor pp, Tensor dp, Tensor cut, Tensor seeds, Tensor start, int groups, int evaluations, int population, int rule, int quirks) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(sheafx, CPU, m) {
  m.impl("placement_evaluate", evaluate);
  m.impl("placement_search", search);
}
