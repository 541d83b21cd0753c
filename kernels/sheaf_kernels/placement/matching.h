// Perfect matchings between two groups of devices: the smallest possible largest weight, and the smallest possible sum.
//
// reference.py finds the bottleneck by binary search over the weights with one bipartite matching per step. Here it is one
// pass of augmenting paths over the ranks of the weights; the threshold starts at a lower bound and rises only when no
// path is left, so that every edge is looked at a few times. Adjacency is a bit set. Groups of up to 64 devices, the usual
// case, keep their ranks in 16 bits, eight to a vector, and a row of adjacency is one word made by vector comparison.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

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

// Eight ranks of 16 bits.
#ifdef __SSE2__
struct Eight {
  __m128i v;
  static Eight all(int16_t x) { return {_mm_set1_epi16(x)}; }
  static Eight gather(const int16_t* from, const int* at, int count) {
    if (count >= 8)
      return {_mm_setr_epi16(from[at[0]], from[at[1]], from[at[2]], from[at[3]], from[at[4]], from[at[5]], from[at[6]],
                             from[at[7]])};
    auto one = [&](int k) { return k < count ? from[at[k]] : int16_t{INT16_MAX}; };
    return {_mm_setr_epi16(one(0), one(1), one(2), one(3), one(4), one(5), one(6), one(7))};
  }
  Eight min(Eight o) const { return {_mm_min_epi16(v, o.v)}; }
  int least() const {
    __m128i x = _mm_min_epi16(v, _mm_srli_si128(v, 8));
    x = _mm_min_epi16(x, _mm_srli_si128(x, 4));
    x = _mm_min_epi16(x, _mm_srli_si128(x, 2));
    return _mm_extract_epi16(x, 0);
  }
  int up_to(int limit) const {  // bit k: whether number k is at most limit
    const __m128i above = _mm_cmpgt_epi16(v, _mm_set1_epi16(static_cast<int16_t>(limit)));
    return ~_mm_movemask_epi8(_mm_packs_epi16(above, _mm_set1_epi16(-1))) & 0xFF;
  }
  int16_t operator[](int k) const {
    int16_t all[8];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(all), v);
    return all[k];
  }
#else
struct Eight {
  int16_t v[8];
  static Eight all(int16_t x) { return {{x, x, x, x, x, x, x, x}}; }
  static Eight gather(const int16_t* from, const int* at, int count) {
    Eight e = all(INT16_MAX);
    for (int k = 0; k < 8 && k < count; ++k) e.v[k] = from[at[k]];
    return e;
  }
  Eight min(Eight o) const {
    for (int k = 0; k < 8; ++k) o.v[k] = std::min(o.v[k], v[k]);
    return o;
  }
  int least() const { return *std::min_element(v, v + 8); }
  int up_to(int limit) const {
    int bits = 0;
    for (int k = 0; k < 8; ++k) bits |= (v[k] <= limit) << k;
    return bits;
  }
  int16_t operator[](int k) const { return v[k]; }
#endif
  int most(int count) const {  // the largest of the first `count`
    int found = 0;
    for (int k = 0; k < 8 && k < count; ++k) found = std::max<int>(found, (*this)[k]);
    return found;
  }
};

// Perfect matchings between two groups of m devices; a and b list their members.
class Matcher {
 public:
  explicit Matcher(const Problem& p) : p_(p), m_(p.size), words_((p.size + 63) / 64) {
    narrow_ = m_ <= 64 && p.values.size() < INT16_MAX;
    if (narrow_) {
      rank16_.assign(p.rank.begin(), p.rank.end());
      sub16_.resize(m_ * ((m_ + 7) / 8));
    }
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
    if (narrow_) return p_.values[bottleneck_narrow(a, b)];
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
    return p_.values[augment_many(threshold)];
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
  bool narrow_ = false;
  std::vector<int16_t> rank16_;
  std::vector<Eight> sub16_;
  std::vector<uint32_t> sub_, column_min_;
  std::vector<uint64_t> adjacent_, free_, unseen_;
  std::vector<int> row_of_, column_of_, came_from_, queue_;
  std::vector<double> u_, v_, slack_;
  std::vector<int> match_, way_;
  std::vector<char> used_;

  // Up to 64 devices per group and 2^15 - 2 distinct weights: ranks of 16 bits, eight to a vector, rows padded with the
  // largest. Vectors are filled in registers: storing eight numbers one by one and loading them as a vector would stall.
  uint32_t bottleneck_narrow(const int* a, const int* b) {
    const int m = m_, chunks = (m + 7) / 8;
    Eight column[8];
    for (int c = 0; c < chunks; ++c) column[c] = Eight::all(INT16_MAX);
    int threshold = 0;
    for (int i = 0; i < m; ++i) {
      const int16_t* from = rank16_.data() + static_cast<size_t>(a[i]) * p_.n;
      Eight least = Eight::all(INT16_MAX);
      for (int c = 0; c < chunks; ++c) {
        const Eight ranks = Eight::gather(from, b + 8 * c, m - 8 * c);
        sub16_[i * chunks + c] = ranks;
        least = least.min(ranks);
        column[c] = column[c].min(ranks);
      }
      threshold = std::max(threshold, least.least());  // every row and every column needs an edge
    }
    for (int c = 0; c < chunks; ++c) threshold = std::max(threshold, column[c].most(m - 8 * c));
    return augment_one(threshold);
  }

  void connect_narrow(int threshold) {
    const int chunks = (m_ + 7) / 8;
    for (int i = 0; i < m_; ++i) {
      uint64_t bits = 0;
      for (int c = 0; c < chunks; ++c) bits |= static_cast<uint64_t>(sub16_[i * chunks + c].up_to(threshold)) << (8 * c);
      adjacent_[i] = bits;
    }
  }

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
  uint32_t raise(int rows) const {
    uint32_t least = UINT32_MAX;
    for (int k = 0; k < rows; ++k)
      for (int j = 0; j < m_; ++j)
        if (unseen_[j / 64] >> (j % 64) & 1) least = std::min(least, sub_[queue_[k] * m_ + j]);
    return least;
  }

  uint32_t raise_narrow(int rows, uint64_t unseen) const {
    int least = INT16_MAX;
    for (int k = 0; k < rows; ++k)
      for (uint64_t rest = unseen; rest; rest &= rest - 1) {
        const int j = __builtin_ctzll(rest);
        least = std::min<int>(least, sub16_[queue_[k] * ((m_ + 7) / 8) + j / 8][j % 8]);
      }
    return least;
  }

  uint32_t augment_one(uint32_t threshold) {
    const int m = m_;
    const uint64_t all = m == 64 ? ~0ull : (1ull << m) - 1;
    uint64_t free = all;
    connect_narrow(threshold);
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
          threshold = raise_narrow(tail, unseen);
          connect_narrow(threshold);
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
          threshold = raise(tail);
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
