// Perfect matchings between two groups of devices: the smallest possible largest weight, and the smallest possible sum.
//
// reference.py finds the bottleneck by binary search over the weights with one bipartite matching per step. Here it is one
// pass of augmenting paths over the ranks of the weights; the threshold starts at a lower bound and rises only when no
// path is left, so that every edge is looked at a few times. Adjacency is a bit set: one word for up to 64 devices.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace placement {

constexpr double kInf = std::numeric_limits<double>::infinity();

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

}  // namespace placement
