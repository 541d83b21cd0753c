// Searches over partitions: the evolutionary loop, both random baselines, and the exhaustive search of tiny instances.
// Step by step the same as reference.py, including every draw of the generator; read that for the definitions.
#pragma once

#include "cyclic.h"
#include "evaluate.h"

namespace placement {

enum Rule { kRulePaper = 0, kRuleClassical = 1, kRuleFair = 2, kRuleImproved = 3 };
constexpr int kCrossover = 5;   // positions taken from the first parent
constexpr int kImprovedPool = 10;

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
  void shuffle(std::vector<int>& items) {
    for (int i = static_cast<int>(items.size()) - 1; i > 0; --i) std::swap(items[i], items[below(i + 1)]);
  }
};

struct Individual {
  std::vector<int> group_of;
  double cost = kInf, mean = kInf;
};

class Search {
 public:
  Search(const Problem& p, Rule rule, bool compat) : p_(p), evaluate_(p), pass_(p), rule_(rule), compat_(compat) {}

  // start: [starts, n] partitions that take the place of the first random ones.
  // history[t]: the best cost after t + 1 evaluations; best: [n] the partition that has it.
  void run(uint64_t seed, int evaluations, int population, const int64_t* start, int starts, int64_t* best, double* history) {
    Rng rng{seed};
    history_ = history;
    done_ = 0;
    record_ = Individual();
    const int first = std::min(evaluations, rule_ == kRuleFair ? evaluations : population);
    std::vector<Individual> pool(rule_ == kRuleFair ? 1 : first);
    for (int i = 0; i < first; ++i) {
      Individual& one = pool[rule_ == kRuleFair ? 0 : i];
      random_partition(one.group_of, rng);
      if (i < starts) std::copy(start + static_cast<size_t>(i) * p_.n, start + static_cast<size_t>(i + 1) * p_.n, one.group_of.begin());
      judge(one);
    }
    if (rule_ == kRuleImproved) {
      std::stable_sort(pool.begin(), pool.end(), [&](const Individual& x, const Individual& y) { return worse(y, x); });
      pool.resize(std::min(first, kImprovedPool));
    }
    const int parents = static_cast<int>(pool.size());
    Individual child;
    while (done_ < evaluations) {
      const int a = rng.below(parents), b = rng.below(parents);
      child.group_of = pool[b].group_of;
      const int kind = rule_ == kRuleImproved ? rng.below(10) : 10;
      if (kind < 7) {
        kind < 4 ? shuffle_groups(child.group_of, rng) : swap_two(child.group_of, rng);
        judge(child);
        if (!worse(child, pool[b])) std::swap(pool[b], child);
        continue;
      }
      for (int k = 0; k < kCrossover; ++k) {
        const int v = rng.below(p_.n);
        child.group_of[v] = pool[a].group_of[v];
      }
      repair(child.group_of);
      pass_(child.group_of.data(), rule_ == kRuleClassical ? kClassical : kPaper, compat_);
      judge(child);
      Individual& loser = worse(pool[a], pool[b]) ? pool[a] : pool[b];
      // compat: a bracket in the published code compares the child with the first parent (and with 1), not with the worse
      const bool refuse = compat_ ? child.cost > std::max(pool[a].cost, child.cost > pool[b].cost ? 1.0 : 0.0) : worse(child, loser);
      if (!refuse) std::swap(loser, child);
    }
    std::copy(record_.group_of.begin(), record_.group_of.end(), best);
  }

 private:
  const Problem& p_;
  Evaluator evaluate_;
  CyclicPass pass_;
  Rule rule_;
  bool compat_;
  int done_ = 0;
  double* history_ = nullptr;
  Individual record_;
  std::vector<int> order_, load_, chosen_;

  bool worse(const Individual& x, const Individual& y) const {
    return x.cost != y.cost ? x.cost > y.cost : rule_ == kRuleImproved && x.mean > y.mean;
  }

  void judge(Individual& one) {
    const Cost cost = evaluate_(one.group_of.data(), rule_ == kRuleImproved);
    one.cost = cost.total();
    one.mean = cost.mean();
    if (record_.group_of.empty() || worse(record_, one)) record_ = one;
    history_[done_++] = record_.cost;
  }

  void random_partition(std::vector<int>& group_of, Rng& rng) {
    order_.resize(p_.n);
    for (int i = 0; i < p_.n; ++i) order_[i] = i;
    rng.shuffle(order_);
    group_of.resize(p_.n);
    for (int i = 0; i < p_.n; ++i) group_of[order_[i]] = i / p_.size;
  }

  // Exchange a random device with the next one, from a random place on, that is in another group.
  void swap_two(std::vector<int>& group_of, Rng& rng) const {
    if (p_.groups == 1) return;
    const int v = rng.below(p_.n);
    int t = rng.below(p_.n);
    while (group_of[t] == group_of[v]) t = t + 1 == p_.n ? 0 : t + 1;
    std::swap(group_of[v], group_of[t]);
  }

  // Deal the devices of two or three random groups (drawn with replacement) among them afresh.
  void shuffle_groups(std::vector<int>& group_of, Rng& rng) {
    const int count = 2 + rng.below(2);
    chosen_.assign(p_.groups, 0);
    for (int k = 0; k < count; ++k) chosen_[rng.below(p_.groups)] = 1;
    order_.clear();
    for (int v = 0; v < p_.n; ++v)
      if (chosen_[group_of[v]]) order_.push_back(v);
    for (int i = static_cast<int>(order_.size()) - 1; i > 0; --i)
      std::swap(group_of[order_[i]], group_of[order_[rng.below(i + 1)]]);
  }

  // From left to right, a device of an over-full group goes to the first group with room.
  void repair(std::vector<int>& group_of) {
    load_.assign(p_.groups, 0);
    for (int g : group_of) ++load_[g];
    for (int& g : group_of) {
      if (load_[g] <= p_.size) continue;
      int to = 0;
      while (load_[to] >= p_.size) ++to;
      --load_[g];
      ++load_[to];
      g = to;
    }
  }
};

// Every partition into equal groups once, groups numbered by their lowest device. A branch is left as soon as the
// data-parallel cost of its complete groups, plus the cheapest conceivable route, cannot beat the best found.
class Exhaustive {
 public:
  explicit Exhaustive(const Problem& p) : p_(p), evaluate_(p), group_of_(p.n, -1) {
    double least = kInf;
    for (int i = 0; i < p.n; ++i)
      for (int j = 0; j < p.n; ++j)
        if (i != j) least = std::min(least, p.pp[static_cast<size_t>(i) * p.n + j]);
    route_bound_ = p.groups > 1 ? 2 * (p.groups - 1) * least : 0;
  }

  int64_t run(int64_t* best, double* cost) {
    best_ = kInf;
    visited_ = 0;
    group(0, 0.0);
    std::copy(record_.begin(), record_.end(), best);
    *cost = best_;
    return visited_;
  }

 private:
  const Problem& p_;
  Evaluator evaluate_;
  std::vector<int> group_of_, record_;
  double best_ = kInf, route_bound_ = 0;
  int64_t visited_ = 0;

  void group(int g, double dp) {
    if (dp + route_bound_ >= best_) return;
    if (g == p_.groups) {
      ++visited_;
      const double cost = evaluate_(group_of_.data(), false).total();
      if (cost < best_) best_ = cost, record_ = group_of_;
      return;
    }
    int lowest = 0;
    while (group_of_[lowest] >= 0) ++lowest;
    std::vector<int> members{lowest};
    group_of_[lowest] = g;
    extend(g, dp, members);
    group_of_[lowest] = -1;
  }

  void extend(int g, double dp, std::vector<int>& members) {
    if (static_cast<int>(members.size()) == p_.size) {
      double worst = dp;
      for (int v : members) {
        double sum = 0;
        for (int t : members) sum += p_.dp[static_cast<size_t>(v) * p_.n + t];
        worst = std::max(worst, sum);
      }
      group(g + 1, worst);
      return;
    }
    for (int v = members.back() + 1; v < p_.n; ++v) {
      if (group_of_[v] >= 0) continue;
      group_of_[v] = g;
      members.push_back(v);
      extend(g, dp, members);
      members.pop_back();
      group_of_[v] = -1;
    }
  }
};

}  // namespace placement
