// The evolutionary search: one pass of cyclic moves between groups (two gains), and the loop around it.
// Step by step the same as reference.py, including every draw of the generator; read that file for the definitions.
#pragma once

#include "evaluate.h"

namespace placement {

enum Gain { kPaper = 0, kClassical = 1 };
enum Rule { kSearchPaper = 0, kSearchClassical = 1, kSearchFair = 2, kSearchImproved = 3 };

// One pass of cyclic moves, in place. `compat` keeps the published code's off-by-ones.
class CyclicPass {
 public:
  explicit CyclicPass(const Problem& p)
      : p_(p), sum_(static_cast<size_t>(p.groups) * p.n), mate_(p.n), locked_(p.n), member_(p.groups), visited_(p.groups) {}

  void operator()(int* group_of, Gain gain, int quirks) {
    of_ = group_of;
    gain_ = gain;
    const std::vector<double>& w = gain == kPaper ? p_.pp : p_.cut;
    w_ = w.data();
    start();
    const bool skip_last = quirks & 2, skip_first = quirks & 4, skip_last_cycle = quirks & 8, no_zero = quirks & 16;
    std::fill(visited_.begin(), visited_.end(), 0);
    journal_.clear();
    double total = 0, best = no_zero ? -kInf : 0;
    size_t keep = 0, previous = 0;
    double previous_total = 0;
    int cycles = 0, seen = 0;
    while (cycles < p_.groups && seen < p_.groups) {
      int home = -1;
      Pick first{-1, -1, -kInf};
      for (int g = 0; g < p_.groups; ++g) {
        const Pick pick = choose(g);
        if (pick.device >= 0 && pick.gain > first.gain) first = pick, home = g;
      }
      if (home < 0) break;
      moves_.clear();
      int here = home;
      for (int step = 0; step < p_.n; ++step) {
        const Pick pick = step == 0 ? first : choose(here);
        if (pick.device < 0) break;
        moves_.push_back({pick.device, here, pick.target, pick.gain, toward(pick.device, here, home)});
        if (!visited_[here]) visited_[here] = 1, ++seen;
        locked_[pick.device] = 1;
        move(pick.device, here, pick.target);
        here = pick.target;
        if (here == home) break;
      }
      // keep the first k moves, the last of them redirected to where the cycle began
      const int length = moves_.size();
      const int from = skip_first ? 2 : 1, to = skip_last ? length - 1 : length;
      int kept = 0;
      double sum = 0, most = -kInf;
      for (int k = 1; k <= to; ++k) {
        const double value = sum + moves_[k - 1].back;
        if (k >= from && value > most) most = value, kept = k;
        sum += moves_[k - 1].gain;
      }
      for (int k = length; k > kept; --k) move(moves_[k - 1].device, of_[moves_[k - 1].device], moves_[k - 1].from);
      if (kept > 0) {
        Move& last = moves_[kept - 1];
        if (of_[last.device] != home) move(last.device, of_[last.device], home);
        last.to = home;
        total += most;
        for (int k = 0; k < kept; ++k) journal_.push_back(moves_[k]);
      }
      ++cycles;
      if (skip_last_cycle) {
        if (cycles > 1 && previous_total > best) best = previous_total, keep = previous;
        previous = journal_.size(), previous_total = total;
      } else if (total > best) {
        best = total, keep = journal_.size();
      }
    }
    for (size_t k = journal_.size(); k > keep; --k) of_[journal_[k - 1].device] = journal_[k - 1].from;
  }

 private:
  struct Pick {
    int device, target;
    double gain;
  };
  struct Move {
    int device, from, to;
    double gain, back;
  };
  const Problem& p_;
  int* of_ = nullptr;
  Gain gain_ = kPaper;
  const double* w_ = nullptr;
  std::vector<double> sum_;   // [groups, n]: weight from a device to all members of a group
  std::vector<double> mate_;  // [n]: least pp weight to another member of the own group
  std::vector<char> locked_;
  std::vector<std::vector<int>> member_;
  std::vector<char> visited_;
  std::vector<Move> moves_, journal_;

  void start() {
    const int n = p_.n;
    std::fill(sum_.begin(), sum_.end(), 0.0);
    std::fill(locked_.begin(), locked_.end(), 0);
    for (auto& m : member_) m.clear();
    for (int v = 0; v < n; ++v) {
      member_[of_[v]].push_back(v);
      add(v, of_[v], 1.0);
    }
    if (gain_ == kPaper)
      for (int g = 0; g < p_.groups; ++g) nearest(g);
  }

  void add(int v, int g, double sign) {
    double* to = sum_.data() + static_cast<size_t>(g) * p_.n;
    const double* row = w_ + static_cast<size_t>(v) * p_.n;
    for (int t = 0; t < p_.n; ++t) to[t] += sign * row[t];
  }

  void nearest(int g) {
    const auto& members = member_[g];
    for (int v : members) {
      const double* row = p_.pp.data() + static_cast<size_t>(v) * p_.n;
      double least = kInf;
      for (int t : members)
        if (t != v && row[t] < least) least = row[t];
      mate_[v] = least == kInf ? 0 : least;
    }
  }

  void move(int v, int from, int to) {
    auto& left = member_[from];
    left.erase(std::find(left.begin(), left.end(), v));
    member_[to].push_back(v);
    of_[v] = to;
    add(v, from, -1.0);
    add(v, to, 1.0);
    if (gain_ == kPaper) nearest(from), nearest(to);
  }

  double own(int v, int g) const {
    return gain_ == kPaper ? mate_[v] : sum_[static_cast<size_t>(g) * p_.n + v];
  }

  double other(int v, int g) const {
    const double sum = sum_[static_cast<size_t>(g) * p_.n + v];
    if (gain_ == kClassical) return sum;
    return member_[g].empty() ? 0 : sum / static_cast<double>(member_[g].size());
  }

  double toward(int v, int from, int to) const { return from == to ? 0 : other(v, to) - own(v, from); }

  // The device that leaves group g, its target and the gain; ties go to the lowest index.
  Pick choose(int g) const {
    Pick best{-1, -1, -kInf};
    if (gain_ == kPaper) {
      int v = -1;
      for (int t : member_[g])
        if (!locked_[t] && (v < 0 || mate_[t] < mate_[v] || (mate_[t] == mate_[v] && t < v))) v = t;
      if (v < 0) return best;
      best.device = v;
      for (int q = 0; q < p_.groups; ++q)
        if (q != g) {
          const double gain = toward(v, g, q);
          if (gain > best.gain) best.gain = gain, best.target = q;
        }
      return best;
    }
    for (int v : member_[g]) {
      if (locked_[v]) continue;
      for (int q = 0; q < p_.groups; ++q)
        if (q != g) {
          const double gain = toward(v, g, q);
          if (gain > best.gain || (gain == best.gain && (v < best.device))) best = {v, q, gain};
        }
    }
    return best;
  }
};

struct Individual {
  std::vector<int> group_of;
  double cost, mean;
};

class Search {
 public:
  Search(const Problem& p, Rule rule, int quirks) : p_(p), evaluate_(p), pass_(p), rule_(rule), quirks_(quirks) {}

  // history[t]: the best cost after t + 1 evaluations. start holds `starts` partitions that replace the first random ones.
  void run(uint64_t seed, int evaluations, int population, const int64_t* start, int starts, int64_t* best, double* history) {
    Rng rng{seed};
    const int n = p_.n;
    Individual record{{}, kInf, kInf};
    int done = 0;
    auto judge = [&](Individual& one) {
      const Cost cost = evaluate_(one.group_of.data(), rule_ == kSearchImproved);
      one.cost = cost.total();
      one.mean = cost.mean();
      if (one.cost < record.cost || (rule_ == kSearchImproved && one.cost == record.cost && one.mean < record.mean)) record = one;
      history[done++] = record.cost;
    };
    std::vector<int> shuffled(n);
    auto random_partition = [&](Individual& one) {
      for (int i = 0; i < n; ++i) shuffled[i] = i;
      for (int i = n - 1; i > 0; --i) std::swap(shuffled[i], shuffled[rng.below(i + 1)]);
      one.group_of.resize(n);
      for (int i = 0; i < n; ++i) one.group_of[shuffled[i]] = i / p_.size;
    };
    const int first = rule_ == kSearchFair ? evaluations : std::min(population, evaluations);
    std::vector<Individual> pool(rule_ == kSearchFair ? 1 : first);
    for (int i = 0; i < first; ++i) {
      Individual& one = pool[rule_ == kSearchFair ? 0 : i];
      random_partition(one);
      if (i < starts)
        for (int v = 0; v < n; ++v) one.group_of[v] = start[static_cast<size_t>(i) * n + v];
      judge(one);
    }
    std::vector<int> load(p_.groups);
    Individual child;
    while (done < evaluations) {
      const int a = rng.below(first), b = rng.below(first);
      child.group_of = pool[b].group_of;
      if (rule_ == kSearchImproved && rng.below(2)) {
        swap_two(child.group_of, rng);
        judge(child);
        if (!worse(child, pool[b])) std::swap(pool[b], child);
        continue;
      }
      for (int k = 0; k < 5; ++k) {
        const int v = rng.below(n);
        child.group_of[v] = pool[a].group_of[v];
      }
      repair(child.group_of, load);
      pass_(child.group_of.data(), rule_ == kSearchClassical ? kClassical : kPaper, quirks_);
      judge(child);
      const int loser = worse(pool[a], pool[b]) ? a : b;
      bool refuse;
      if (quirks_ & 1)
        refuse = child.cost > std::max(pool[a].cost, child.cost > pool[b].cost ? 1.0 : 0.0);
      else
        refuse = worse(child, pool[loser]);
      if (!refuse) std::swap(pool[loser], child);
    }
    for (int v = 0; v < n; ++v) best[v] = record.group_of[v];
  }

 private:
  const Problem& p_;
  Evaluator evaluate_;
  CyclicPass pass_;
  Rule rule_;
  int quirks_;

  bool worse(const Individual& x, const Individual& y) const {
    if (x.cost != y.cost) return x.cost > y.cost;
    return rule_ == kSearchImproved && x.mean > y.mean;
  }

  void swap_two(std::vector<int>& group_of, Rng& rng) const {
    const int v = rng.below(p_.n);
    int t = rng.below(p_.n);
    while (group_of[t] == group_of[v]) t = t + 1 == p_.n ? 0 : t + 1;
    std::swap(group_of[v], group_of[t]);
  }

  // From left to right, a device of an over-full group goes to the first group with room.
  void repair(std::vector<int>& group_of, std::vector<int>& load) const {
    std::fill(load.begin(), load.end(), 0);
    for (int g : group_of) ++load[g];
    for (int& g : group_of) {
      if (load[g] <= p_.size) continue;
      int to = 0;
      while (load[to] >= p_.size) ++to;
      --load[g];
      ++load[to];
      g = to;
    }
  }
};

}  // namespace placement
