// What a partition of devices costs: data-parallel part, bottleneck matchings between groups, shortest open route.
//
// Every weight is a multiple of one quantum and small enough for sums of N of them to be exact in double precision (the
// caller rounds them, see snap() in __init__.py). Results therefore do not depend on the order of summation, and this
// file and reference.py agree to the last bit although they use different algorithms:
//   matching  reference: binary search over the weights, each step a bipartite matching.
//             here: one pass of augmenting paths whose threshold rises only when no path is left (weights replaced by
//             their ranks, adjacency kept as bit sets: one word for up to 64 devices per group).
//   route     both: Held-Karp up to 16 groups; above that nearest neighbour from every start, then 2-opt and Or-opt.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace placement {

constexpr int kExactRoute = 16;  // groups up to which the route is exact; above it the heuristic is used
constexpr double kInf = std::numeric_limits<double>::infinity();

// splitmix64 (Steele, Lea, Flood 2014): one word of state, the same few lines in reference.py.
struct Rng {
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>((static_cast<unsigned __int128>(next()) * static_cast<unsigned>(n)) >> 64); }
};

struct Problem {
  int n, groups, size;            // devices, groups, devices per group
  std::vector<double> pp, dp, cut;  // [n, n]: pipeline, data-parallel (factor 2 included), classical gain
  std::vector<uint32_t> rank;     // [n, n]: position of pp in values
  std::vector<double> values;     // the distinct pp weights, ascending

  Problem(int n_, int groups_, const double* pp_, const double* dp_, const double* cut_)
      : n(n_), groups(groups_), size(n_ / groups_), pp(pp_, pp_ + n_ * n_), dp(dp_, dp_ + n_ * n_) {
    if (cut_) cut.assign(cut_, cut_ + n_ * n_);
    values = pp;
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    rank.resize(pp.size());
    for (size_t i = 0; i < pp.size(); ++i)
      rank[i] = std::lower_bound(values.begin(), values.end(), pp[i]) - values.begin();
  }
};

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
    return g <= kExactRoute ? held_karp(w, g) : heuristic(w, g);
  }

 private:
  std::vector<double> best_;
  std::vector<int> path_;

  double held_karp(const double* w, int g) {
    const int full = (1 << g) - 1;
    best_.resize(static_cast<size_t>(full + 1) * g);
    double* best = best_.data();
    double row[kExactRoute];
    // best[set][j]: shortest route that visits `set` and ends in j.
    for (int set = 1; set <= full; ++set) {
      double* out = best + static_cast<size_t>(set) * g;
      std::fill(out, out + g, kInf);
      if ((set & (set - 1)) == 0) {
        out[__builtin_ctz(set)] = 0;
        continue;
      }
      for (int rest = set; rest; rest &= rest - 1) {
        const int j = __builtin_ctz(rest);
        const double* from = best + static_cast<size_t>(set & ~(1 << j)) * g;
        const double* edge = w + j * g;
        for (int k = 0; k < g; ++k) row[k] = from[k] + edge[k];
        double least = row[0];
        for (int k = 1; k < g; ++k) least = row[k] < least ? row[k] : least;
        out[j] = least;
      }
    }
    return *std::min_element(best + static_cast<size_t>(full) * g, best + static_cast<size_t>(full + 1) * g);
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

// Perfect matchings between two groups of m devices; a and b list their members.
class Matcher {
 public:
  explicit Matcher(const Problem& p) : p_(p), m_(p.size), words_((p.size + 63) / 64) {
    sub_.resize(m_ * m_);
    adjacent_.resize(m_ * words_);
    free_.resize(words_);
    unseen_.resize(words_);
    row_of_.resize(m_);
    column_of_.resize(m_);
    came_from_.resize(m_);
    queue_.resize(m_);
    column_min_.resize(m_);
    u_.resize(m_ + 1);
    v_.resize(m_ + 1);
    slack_.resize(m_ + 1);
    match_.resize(m_ + 1);
    way_.resize(m_ + 1);
    used_.resize(m_ + 1);
  }

  // The smallest possible largest weight.
  double bottleneck(const int* a, const int* b) {
    const int m = m_;
    uint32_t threshold = 0;
    std::fill(column_min_.begin(), column_min_.end(), UINT32_MAX);
    for (int i = 0; i < m; ++i) {
      const uint32_t* from = p_.rank.data() + static_cast<size_t>(a[i]) * p_.n;
      uint32_t* row = sub_.data() + i * m;
      uint32_t least = UINT32_MAX;
      for (int j = 0; j < m; ++j) {
        const uint32_t r = from[b[j]];
        row[j] = r;
        least = std::min(least, r);
        column_min_[j] = std::min(column_min_[j], r);
      }
      threshold = std::max(threshold, least);  // every row and every column needs an edge
    }
    for (int j = 0; j < m; ++j) threshold = std::max(threshold, column_min_[j]);
    threshold = words_ == 1 ? augment_one(threshold) : augment_many(threshold);
    return p_.values[threshold];
  }

  // The smallest possible sum of weights (Hungarian method with potentials; exact because the weights are).
  double least_sum(const int* a, const int* b) {
    const int m = m_;
    std::fill(u_.begin(), u_.end(), 0.0);
    std::fill(v_.begin(), v_.end(), 0.0);
    std::fill(match_.begin(), match_.end(), 0);
    for (int i = 1; i <= m; ++i) {
      match_[0] = i;
      int j0 = 0;
      std::fill(slack_.begin(), slack_.end(), kInf);
      std::fill(used_.begin(), used_.end(), 0);
      do {
        used_[j0] = 1;
        const int i0 = match_[j0];
        const double* row = p_.pp.data() + static_cast<size_t>(a[i0 - 1]) * p_.n;
        double delta = kInf;
        int j1 = 0;
        for (int j = 1; j <= m; ++j) {
          if (used_[j]) continue;
          const double reduced = row[b[j - 1]] - u_[i0] - v_[j];
          if (reduced < slack_[j]) slack_[j] = reduced, way_[j] = j0;
          if (slack_[j] < delta) delta = slack_[j], j1 = j;
        }
        for (int j = 0; j <= m; ++j)
          if (used_[j])
            u_[match_[j]] += delta, v_[j] -= delta;
          else
            slack_[j] -= delta;
        j0 = j1;
      } while (match_[j0] != 0);
      for (; j0; j0 = way_[j0]) match_[j0] = match_[way_[j0]];
    }
    return -v_[0];
  }

 private:
  const Problem& p_;
  int m_, words_;
  std::vector<uint32_t> sub_, column_min_;
  std::vector<uint64_t> adjacent_, free_, unseen_;
  std::vector<int> row_of_, column_of_, came_from_, queue_;
  std::vector<double> u_, v_, slack_;
  std::vector<int> match_, way_;
  std::vector<char> used_;

  void connect(uint32_t threshold) {
    for (int i = 0; i < m_; ++i) {
      const uint32_t* row = sub_.data() + i * m_;
      for (int w = 0; w < words_; ++w) {
        uint64_t bits = 0;
        const int end = std::min(64, m_ - w * 64);
        for (int j = 0; j < end; ++j) bits |= static_cast<uint64_t>(row[w * 64 + j] <= threshold) << j;
        adjacent_[i * words_ + w] = bits;
      }
    }
  }

  // The next threshold: the least edge from a row of the search tree to a column outside it.
  template <class Unseen>
  uint32_t raise(int rows, Unseen unseen) const {
    uint32_t least = UINT32_MAX;
    for (int k = 0; k < rows; ++k)
      for (int j = 0; j < m_; ++j)
        if (unseen(j)) least = std::min(least, sub_[queue_[k] * m_ + j]);
    return least;
  }

  uint32_t augment_one(uint32_t threshold) {
    const int m = m_;
    const uint64_t all = m == 64 ? ~0ull : (1ull << m) - 1;
    uint64_t free = all;
    connect(threshold);
    for (int root = 0; root < m; ++root) {
      if (const uint64_t direct = adjacent_[root] & free) {
        const int j = __builtin_ctzll(direct);
        row_of_[j] = root, column_of_[root] = j;
        free &= ~(1ull << j);
        continue;
      }
      uint64_t unseen = all;
      int head = 0, tail = 0, end = -1;
      queue_[tail++] = root;
      while (end < 0) {
        if (head == tail) {
          threshold = raise(tail, [&](int j) { return unseen >> j & 1; });
          connect(threshold);
          head = 0;
        }
        const int row = queue_[head++];
        const uint64_t reach = adjacent_[row] & unseen;
        if (const uint64_t open = reach & free) {
          end = __builtin_ctzll(open);
          came_from_[end] = row;
          break;
        }
        for (uint64_t rest = reach; rest; rest &= rest - 1) {
          const int j = __builtin_ctzll(rest);
          came_from_[j] = row;
          queue_[tail++] = row_of_[j];
        }
        unseen &= ~reach;
      }
      free &= ~(1ull << end);
      settle(end, root);
    }
    return threshold;
  }

  uint32_t augment_many(uint32_t threshold) {
    const int m = m_;
    std::fill(free_.begin(), free_.end(), ~0ull);
    if (m % 64) free_[words_ - 1] = (1ull << (m % 64)) - 1;
    const std::vector<uint64_t> all = free_;
    connect(threshold);
    for (int root = 0; root < m; ++root) {
      unseen_ = all;
      int head = 0, tail = 0, end = -1;
      queue_[tail++] = root;
      while (end < 0) {
        if (head == tail) {
          threshold = raise(tail, [&](int j) { return unseen_[j / 64] >> (j % 64) & 1; });
          connect(threshold);
          head = 0;
        }
        const int row = queue_[head++];
        const uint64_t* adjacent = adjacent_.data() + static_cast<size_t>(row) * words_;
        for (int w = 0; w < words_ && end < 0; ++w)
          if (const uint64_t open = adjacent[w] & unseen_[w] & free_[w]) end = w * 64 + __builtin_ctzll(open);
        if (end >= 0) {
          came_from_[end] = row;
          break;
        }
        for (int w = 0; w < words_; ++w) {
          const uint64_t reach = adjacent[w] & unseen_[w];
          for (uint64_t rest = reach; rest; rest &= rest - 1) {
            const int j = w * 64 + __builtin_ctzll(rest);
            came_from_[j] = row;
            queue_[tail++] = row_of_[j];
          }
          unseen_[w] &= ~reach;
        }
      }
      free_[end / 64] &= ~(1ull << (end % 64));
      settle(end, root);
    }
    return threshold;
  }

  // Hand columns on along the path that ends in a free column and began at `root`.
  void settle(int column, int root) {
    for (int row = -1; row != root;) {
      row = came_from_[column];
      const int old = column_of_[row];
      row_of_[column] = row;
      column_of_[row] = column;
      column = old;
    }
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

  Matcher& matcher() { return matcher_; }
  Route& router() { return router_; }

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
