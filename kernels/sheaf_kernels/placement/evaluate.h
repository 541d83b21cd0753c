// What a partition of devices costs: data-parallel part, bottleneck matchings between groups, shortest open route.
//
// Every weight is a multiple of one quantum and small enough for sums of N of them to be exact in double precision (the
// caller rounds them, see snap() in __init__.py). Results therefore do not depend on the order of summation, and this
// code and reference.py agree to the last bit although they use different algorithms.
//   route: Held-Karp up to 16 groups; above that nearest neighbour from every start, then 2-opt and single moves.
#pragma once

#include "matching.h"

namespace placement {

constexpr int kExactRoute = 16;  // groups up to which the route is exact; above it the heuristic is used

struct Cost {
  double dp, pp, dp_mean, pp_mean;
  double total() const { return dp + pp; }
  double mean() const { return dp_mean + pp_mean; }
};

// Shortest open route through all groups, w is [g, g] symmetric.
class Route {
 public:
  double length(const double* w, int g) {
    if (g == 1) return 0;
    if (g > kExactRoute) return heuristic(w, g);
    return g <= 4 ? held_karp<4>(w, g) : g <= 8 ? held_karp<8>(w, g) : held_karp<16>(w, g);
  }

 private:
  std::vector<double> best_, edge_;
  std::vector<int> path_;

  // Held-Karp over sets of at most half the groups; two routes that share no group and cover all are then joined. Rows are
  // padded with infinity to a fixed width, so that the minimum is a short tree of vector operations.
  template <int kWidth>
  double held_karp(const double* w, int g) {
    const int full = (1 << g) - 1, half = (g + 1) / 2;
    best_.resize(static_cast<size_t>(full + 1) * kWidth);
    edge_.assign(kWidth * kWidth, kInf);
    for (int i = 0; i < g; ++i) std::copy(w + i * g, w + i * g + g, edge_.data() + i * kWidth);
    double* best = best_.data();  // best[set][j]: shortest route that visits `set` and ends in j
    const double* edge = edge_.data();
    double least = kInf;
    for (int set = 1; set <= full; ++set) {
      const int count = __builtin_popcount(set);
      if (count > half) continue;
      double* out = best + static_cast<size_t>(set) * kWidth;
      std::fill(out, out + kWidth, kInf);
      if (count == 1) {
        out[__builtin_ctz(set)] = 0;
        continue;
      }
      for (int rest = set; rest; rest &= rest - 1) {
        const int j = __builtin_ctz(rest);
        out[j] = join<kWidth>(best + static_cast<size_t>(set & ~(1 << j)) * kWidth, edge + j * kWidth);
      }
    }
    for (int set = 1; set <= full; ++set) {
      if (__builtin_popcount(set) != half || (2 * half == g && !(set & 1))) continue;
      const double* ends = best + static_cast<size_t>(set) * kWidth;
      const double* others = best + static_cast<size_t>(full & ~set) * kWidth;
      for (int rest = set; rest; rest &= rest - 1) {
        const int j = __builtin_ctz(rest);
        least = std::min(least, ends[j] + join<kWidth>(others, edge + j * kWidth));
      }
    }
    return least;
  }

  template <int kWidth>
  static double join(const double* route, const double* edge) {
    double row[kWidth];
    for (int k = 0; k < kWidth; ++k) row[k] = route[k] + edge[k];
    for (int width = kWidth / 2; width > 0; width /= 2)
      for (int k = 0; k < width; ++k) row[k] = row[k] < row[k + width] ? row[k] : row[k + width];
    return row[0];
  }

  static double total(const std::vector<int>& p, const double* w, int g) {
    double sum = 0;
    for (int i = 0; i + 1 < g; ++i) sum += w[p[i] * g + p[i + 1]];
    return sum;
  }

  // Reversals of a stretch, then moves of one group, the first that shortens the route, until none does.
  void improve(std::vector<int>& p, const double* w, int g) {
    auto edge = [&](int a, int b) { return a < 0 || b >= g ? 0.0 : w[p[a] * g + p[b]]; };
    for (bool better = true; better;) {
      better = false;
      for (int i = 0; i < g && !better; ++i)
        for (int j = i + 1; j < g && !better; ++j) {
          const double before = edge(i - 1, i) + edge(j, j + 1);
          const double after = (i > 0 ? w[p[i - 1] * g + p[j]] : 0.0) + (j + 1 < g ? w[p[i] * g + p[j + 1]] : 0.0);
          if (after < before) {
            std::reverse(p.begin() + i, p.begin() + j + 1);
            better = true;
          }
        }
      const double now = total(p, w, g);
      for (int i = 0; i < g && !better; ++i)
        for (int j = 0; j < g && !better; ++j) {
          if (i == j) continue;
          std::vector<int> q = p;
          q.erase(q.begin() + i);
          q.insert(q.begin() + j, p[i]);
          if (total(q, w, g) < now) {
            p = q;
            better = true;
          }
        }
    }
  }

  double heuristic(const double* w, int g) {
    double least = kInf;
    for (int start = 0; start < g; ++start) {
      std::vector<char> seen(g, 0);
      path_.assign(1, start);
      seen[start] = 1;
      while (static_cast<int>(path_.size()) < g) {
        int next = -1;
        for (int k = 0; k < g; ++k)
          if (!seen[k] && (next < 0 || w[path_.back() * g + k] < w[path_.back() * g + next])) next = k;
        path_.push_back(next);
        seen[next] = 1;
      }
      improve(path_, w, g);
      least = std::min(least, total(path_, w, g));
    }
    return least;
  }
};

// The cost of whole partitions; group_of is [n].
class Evaluator {
 public:
  explicit Evaluator(const Problem& p) : p_(p), matcher_(p), members_(p.n), fill_(p.groups), w_(p.groups * p.groups) {}

  // `with_mean` also computes the secondary cost: means in the place of both maxima.
  Cost operator()(const int* group_of, bool with_mean) {
    gather(group_of);
    Cost cost{0, 0, 0, 0};
    const int m = p_.size;
    for (int g = 0; g < p_.groups; ++g) {
      const int* group = members_.data() + g * m;
      for (int i = 0; i < m; ++i) {
        const double* row = p_.dp.data() + static_cast<size_t>(group[i]) * p_.n;
        double sum = 0;
        for (int j = 0; j < m; ++j) sum += row[group[j]];
        cost.dp = std::max(cost.dp, sum);
        cost.dp_mean += sum;
      }
    }
    cost.dp_mean /= p_.n;
    cost.pp = route([&](const int* a, const int* b) { return matcher_.bottleneck(a, b); });
    if (with_mean) cost.pp_mean = route([&](const int* a, const int* b) { return matcher_.least_sum(a, b); }) / m;
    return cost;
  }

  // A fixed arrangement: slots[g * size + k] is the k-th device of group g, linked to the k-th of group g + 1.
  Cost arranged(const int* slots) {
    Cost cost{0, 0, 0, 0};
    const int m = p_.size;
    for (int g = 0; g < p_.groups; ++g)
      for (int i = 0; i < m; ++i) {
        const double* row = p_.dp.data() + static_cast<size_t>(slots[g * m + i]) * p_.n;
        double sum = 0;
        for (int j = 0; j < m; ++j) sum += row[slots[g * m + j]];
        cost.dp = std::max(cost.dp, sum);
      }
    for (int g = 0; g + 1 < p_.groups; ++g) {
      double worst = 0;
      for (int k = 0; k < m; ++k)
        worst = std::max(worst, p_.pp[static_cast<size_t>(slots[g * m + k]) * p_.n + slots[(g + 1) * m + k]]);
      cost.pp += 2 * worst;
    }
    return cost;
  }

 private:
  const Problem& p_;
  Matcher matcher_;
  Route router_;
  std::vector<int> members_, fill_;
  std::vector<double> w_;

  void gather(const int* group_of) {
    std::fill(fill_.begin(), fill_.end(), 0);
    for (int v = 0; v < p_.n; ++v) {
      const int g = group_of[v];
      members_[g * p_.size + fill_[g]++] = v;
    }
  }

  template <class Weight>
  double route(Weight weight) {
    const int g = p_.groups;
    for (int i = 0; i < g; ++i) {
      w_[i * g + i] = 0;
      for (int j = 0; j < i; ++j)
        w_[i * g + j] = w_[j * g + i] = weight(members_.data() + i * p_.size, members_.data() + j * p_.size);
    }
    return 2 * router_.length(w_.data(), g);
  }
};

}  // namespace placement
