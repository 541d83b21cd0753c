// One pass of cyclic moves between groups: the local search of the paper, under its own gain and the classical one.
// Step by step the same as cyclic_pass() in reference.py; read that for the definitions.
#pragma once

#include "matching.h"

namespace placement {

enum Gain { kPaper = 0, kClassical = 1 };

class CyclicPass {
 public:
  explicit CyclicPass(const Problem& p)
      : p_(p), sum_(static_cast<size_t>(p.groups) * p.n), mate_(p.n), locked_(p.n), member_(p.groups), visited_(p.groups) {}

  // Changes group_of in place; returns the accumulated gain of the state kept.
  double operator()(int* group_of, Gain gain, bool compat) {
    of_ = group_of;
    gain_ = gain;
    w_ = gain == kPaper ? p_.pp.data() : p_.cut.data();
    start();
    done_.clear();
    double total = 0, best = 0, total_before = 0;
    size_t keep = 0, done_before = 0;
    int seen = 0;
    for (int cycles = 1; cycles <= p_.groups && seen < p_.groups; ++cycles) {
      int home = -1;
      Pick first{-1, -1, -kInf};
      for (int g = 0; g < p_.groups; ++g) {
        const Pick pick = choose(g);
        if (pick.device >= 0 && pick.gain > first.gain) first = pick, home = g;
      }
      if (home < 0) break;
      chain_.clear();
      int here = home;
      for (int step = 0; step < p_.n; ++step) {
        const Pick pick = step == 0 ? first : choose(here);
        if (pick.device < 0) break;
        chain_.push_back({pick.device, here, pick.gain, toward(pick.device, here, home)});
        seen += !visited_[here];
        visited_[here] = 1;
        locked_[pick.device] = 1;
        move(pick.device, here, pick.target);
        here = pick.target;
        if (here == home) break;
      }
      total += close(home, compat ? 2 : 1);
      if (!compat) {
        if (total > best) best = total, keep = done_.size();
      } else {  // the state after the last cycle is never a candidate
        if (cycles > 1 && total_before > best) best = total_before, keep = done_before;
        total_before = total, done_before = done_.size();
      }
    }
    for (size_t k = done_.size(); k > keep; --k) of_[done_[k - 1].device] = done_[k - 1].from;
    return best;
  }

 private:
  struct Pick {
    int device, target;
    double gain;
  };
  struct Move {
    int device, from;
    double gain, home;  // gain toward the target, and toward the group where the cycle began
  };
  const Problem& p_;
  int* of_ = nullptr;
  Gain gain_ = kPaper;
  const double* w_ = nullptr;
  std::vector<double> sum_;   // [groups, n]: weight from a device to all members of a group, kept up to date move by move
  std::vector<double> mate_;  // [n]: least pp weight to another member of the own group
  std::vector<char> locked_;
  std::vector<std::vector<int>> member_;
  std::vector<char> visited_;
  std::vector<Move> chain_, done_;

  void start() {
    std::fill(sum_.begin(), sum_.end(), 0.0);
    std::fill(locked_.begin(), locked_.end(), 0);
    std::fill(visited_.begin(), visited_.end(), 0);
    for (auto& m : member_) m.clear();
    for (int v = 0; v < p_.n; ++v) {
      member_[of_[v]].push_back(v);
      add(v, of_[v], 1.0);
    }
    if (gain_ == kPaper)
      for (int v = 0; v < p_.n; ++v) nearest(v, member_[of_[v]]);
  }

  // Keep the prefix of the chain with the largest gain, at least `shortest` moves, its last device sent home; undo the rest.
  double close(int home, int shortest) {
    const int length = static_cast<int>(chain_.size());
    int kept = 0;
    double sum = 0, most = -kInf;
    for (int k = 1; k <= length; ++k) {
      const double value = sum + chain_[k - 1].home;
      if (k >= shortest && value > most) most = value, kept = k;
      sum += chain_[k - 1].gain;
    }
    for (int k = length; k > kept; --k) move(chain_[k - 1].device, of_[chain_[k - 1].device], chain_[k - 1].from);
    if (kept == 0) return 0;
    const int last = chain_[kept - 1].device;
    if (of_[last] != home) move(last, of_[last], home);
    done_.insert(done_.end(), chain_.begin(), chain_.begin() + kept);
    return most;
  }

  void add(int v, int g, double sign) {
    double* to = sum_.data() + static_cast<size_t>(g) * p_.n;
    const double* from = w_ + static_cast<size_t>(v) * p_.n;
    for (int t = 0; t < p_.n; ++t) to[t] += sign * from[t];
  }

  // mate_ of v among the members of its group; only devices that can still move need it.
  void nearest(int v, const std::vector<int>& members) {
    const double* near = p_.pp.data() + static_cast<size_t>(v) * p_.n;
    double least = kInf;
    for (int t : members) {
      const double w = t == v ? kInf : near[t];
      least = w < least ? w : least;
    }
    mate_[v] = least == kInf ? 0 : least;
  }

  void move(int v, int from, int to) {
    auto& left = member_[from];
    left.erase(std::find(left.begin(), left.end(), v));
    auto& joined = member_[to];
    if (gain_ == kPaper) {
      const double* near = p_.pp.data() + static_cast<size_t>(v) * p_.n;
      for (int u : left)
        if (!locked_[u] && near[u] == mate_[u]) nearest(u, left);
      for (int u : joined)
        if (!locked_[u] && (near[u] < mate_[u] || joined.size() == 1)) mate_[u] = near[u];
    }
    joined.push_back(v);
    of_[v] = to;
    add(v, from, -1.0);
    add(v, to, 1.0);
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

  // The device that leaves group g, its target and the gain. Ties: the device of highest index, the target of lowest.
  Pick choose(int g) const {
    Pick best{-1, -1, -kInf};
    if (gain_ == kPaper) {
      int v = -1;
      for (int t : member_[g])
        if (!locked_[t] && (v < 0 || mate_[t] < mate_[v] || (mate_[t] == mate_[v] && t > v))) v = t;
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
          if (gain > best.gain || (gain == best.gain && v > best.device)) best = {v, q, gain};
        }
    }
    return best;
  }
};

}  // namespace placement
