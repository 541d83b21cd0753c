// Placement search on the CPU: the operators sheaf::placement_*, whose schemas are in __init__.py. Tensors stop here; the
// mathematics is in matching.h (bottleneck matching), evaluate.h (cost), cyclic.h (local search) and search.h (searches).
// Several partitions or seeds at once run on torch's own threads.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "search.h"

namespace {

using at::Tensor;
using placement::Problem;

// Inputs come contiguous and checked from __init__.py.
Problem problem(const Tensor& pp, const Tensor& dp, const Tensor* cut, int64_t groups) {
  return Problem(static_cast<int>(pp.size(0)), static_cast<int>(groups), pp.const_data_ptr<double>(),
                 dp.const_data_ptr<double>(), cut ? cut->const_data_ptr<double>() : nullptr);
}

std::vector<int> row(const Tensor& t, int64_t i) {
  const int64_t n = t.size(1);
  const int64_t* from = t.const_data_ptr<int64_t>() + i * n;
  return std::vector<int>(from, from + n);
}

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

std::tuple<Tensor, Tensor> cyclic(const Tensor& pp, const Tensor& cut, const Tensor& partitions, int64_t groups,
                                  int64_t gain, bool compat) {
  const Problem p = problem(pp, pp, &cut, groups);
  Tensor out = at::empty(partitions.sizes(), partitions.options());
  Tensor gains = at::empty({partitions.size(0)}, pp.options());
  int64_t* to = out.mutable_data_ptr<int64_t>();
  double* gained = gains.mutable_data_ptr<double>();
  at::parallel_for(0, partitions.size(0), 16, [&](int64_t begin, int64_t end) {
    placement::CyclicPass pass(p);
    for (int64_t i = begin; i < end; ++i) {
      std::vector<int> group_of = row(partitions, i);
      gained[i] = pass(group_of.data(), static_cast<placement::Gain>(gain), compat);
      std::copy(group_of.begin(), group_of.end(), to + i * p.n);
    }
  });
  return {out, gains};
}

std::tuple<Tensor, Tensor> evolutionary_search(const Tensor& pp, const Tensor& dp, const Tensor& cut, const Tensor& seeds,
                                  const Tensor& start, int64_t groups, int64_t evaluations, int64_t population,
                                  int64_t rule, bool compat) {
  const Problem p = problem(pp, dp, &cut, groups);
  Tensor best = at::empty({seeds.size(0), p.n}, seeds.options());
  Tensor history = at::empty({seeds.size(0), evaluations}, pp.options());
  const int64_t* seed = seeds.const_data_ptr<int64_t>();
  int64_t* best_to = best.mutable_data_ptr<int64_t>();
  double* history_to = history.mutable_data_ptr<double>();
  at::parallel_for(0, seeds.size(0), 1, [&](int64_t begin, int64_t end) {
    placement::Search one(p, static_cast<placement::Rule>(rule), compat);
    for (int64_t i = begin; i < end; ++i)
      one.run(static_cast<uint64_t>(seed[i]), static_cast<int>(evaluations), static_cast<int>(population),
              start.const_data_ptr<int64_t>(), static_cast<int>(start.size(0)), best_to + i * p.n,
              history_to + i * evaluations);
  });
  return {best, history};
}

std::tuple<Tensor, Tensor> random_search(const Tensor& pp, const Tensor& dp, const Tensor& seeds, int64_t groups,
                                  int64_t evaluations) {
  const Problem p = problem(pp, dp, nullptr, groups);
  Tensor best = at::empty({seeds.size(0), p.n}, seeds.options());
  Tensor history = at::empty({seeds.size(0), evaluations}, pp.options());
  const int64_t* seed = seeds.const_data_ptr<int64_t>();
  int64_t* best_to = best.mutable_data_ptr<int64_t>();
  double* history_to = history.mutable_data_ptr<double>();
  at::parallel_for(0, seeds.size(0), 1, [&](int64_t begin, int64_t end) {
    placement::Evaluator evaluator(p);
    std::vector<int> slots(p.n);
    for (int64_t i = begin; i < end; ++i) {
      placement::Rng rng{static_cast<uint64_t>(seed[i])};
      double least = placement::kInf;
      for (int64_t t = 0; t < evaluations; ++t) {
        for (int v = 0; v < p.n; ++v) slots[v] = v;
        rng.shuffle(slots);
        const double cost = evaluator.arranged(slots.data()).total();
        if (cost < least || t == 0) {
          least = cost;
          std::copy(slots.begin(), slots.end(), best_to + i * p.n);
        }
        history_to[i * evaluations + t] = least;
      }
    }
  });
  return {best, history};
}

std::tuple<Tensor, Tensor> exhaustive_search(const Tensor& pp, const Tensor& dp, int64_t groups) {
  const Problem p = problem(pp, dp, nullptr, groups);
  Tensor best = at::empty({p.n}, pp.options().dtype(at::kLong));
  Tensor result = at::empty({2}, pp.options());  // cost, partitions evaluated
  double* to = result.mutable_data_ptr<double>();
  to[1] = static_cast<double>(placement::Exhaustive(p).run(best.mutable_data_ptr<int64_t>(), to));
  return {best, result};
}

}  // namespace

TORCH_LIBRARY_IMPL(sheaf, CPU, m) {
  m.impl("placement_evaluate", evaluate);
  m.impl("placement_cyclic", cyclic);
  m.impl("placement_search", evolutionary_search);
  m.impl("placement_random", random_search);
  m.impl("placement_exhaustive", exhaustive_search);
}
