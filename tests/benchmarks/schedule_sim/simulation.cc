#include "tests/benchmarks/schedule_sim/simulation.h"

#include <algorithm>
#include <memory>
#include <queue>
#include <tuple>

namespace quire::sim {
namespace {

class Simulation {
 public:
  Simulation(const SimulationOptions& options, const std::vector<Arrival>& arrivals)
      : options_(options), arrivals_(arrivals) {
    for (int32_t i = 0; i < options.replicas; ++i) {
      replicas_.push_back(std::make_unique<Replica>(options.replica));
    }
    result_.outcomes.resize(arrivals.size());
  }

  SimulationResult Run() {
    size_t next = 0;
    while (next < arrivals_.size() || !ends_.empty()) {
      const bool arrival = next < arrivals_.size() &&
                           (ends_.empty() || arrivals_[next].at_ns < ends_.top().at_ns);
      if (arrival) {
        now_ = arrivals_[next].at_ns;
        Arrive(next++);
        continue;
      }
      const StepEnd end = ends_.top();
      ends_.pop();
      now_ = end.at_ns;
      replicas_[end.replica]->End(now_);
      Begin(end.replica);
    }
    result_.end_ns = now_;
    int64_t busy = 0;
    for (const auto& replica : replicas_) busy += replica->busy_ns();
    result_.busy_share = static_cast<double>(busy) / static_cast<double>(now_) /
                         static_cast<double>(replicas_.size());
    return std::move(result_);
  }

 private:
  struct StepEnd {
    int64_t at_ns = 0;
    size_t replica = 0;
    bool operator<(const StepEnd& other) const {
      return std::tie(at_ns, replica) > std::tie(other.at_ns, other.replica);
    }
  };

  void Arrive(size_t index) {
    const Arrival& arrival = arrivals_[index];
    const size_t replica = Route(arrival);
    if (!replicas_[replica]->Accept(arrival, result_.outcomes[index], now_)) return;
    if (!replicas_[replica]->stepping()) Begin(replica);
  }

  void Begin(size_t replica) {
    const std::optional<int64_t> end = replicas_[replica]->Begin(now_);
    if (!end.has_value()) return;
    ++result_.steps;
    ends_.push({*end, replica});
  }

  // As a router knows it: from replicas that are asked about their load.
  size_t Route(const Arrival& arrival) {
    std::vector<std::pair<int64_t, size_t>> loads;
    for (size_t i = 0; i < replicas_.size(); ++i) {
      loads.emplace_back(replicas_[i]->load_ns(now_), i);
    }
    const auto least = std::min_element(loads.begin(), loads.end());
    if (options_.routing == Routing::kLeastLoad || arrival.document < 0) {
      return least->second;
    }
    const size_t home = Home(arrival.document);
    size_t best = least->second;
    int64_t most = replicas_[best]->CachedTokens(arrival);
    if (loads[home].first <= least->first + options_.patience_ns) return home;
    const auto middle =
        loads.begin() + std::min<size_t>(loads.size(), options_.candidates);
    std::partial_sort(loads.begin(), middle, loads.end());
    for (auto it = loads.begin(); it != middle; ++it) {
      const int64_t cached = replicas_[it->second]->CachedTokens(arrival);
      if (cached > most) {
        most = cached;
        best = it->second;
      }
    }
    return best;
  }

  size_t Home(int64_t document) const {
    size_t best = 0;
    uint64_t highest = 0;
    for (size_t i = 0; i < replicas_.size(); ++i) {
      uint64_t x = (static_cast<uint64_t>(document) + 1) * 0x9e3779b97f4a7c15u ^
                   (i + 1) * 0xbf58476d1ce4e5b9u;
      x = (x ^ (x >> 30)) * 0x94d049bb133111ebu;
      x ^= x >> 31;
      if (x < highest) continue;
      highest = x;
      best = i;
    }
    return best;
  }

  const SimulationOptions& options_;
  const std::vector<Arrival>& arrivals_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::priority_queue<StepEnd> ends_;
  SimulationResult result_;
  int64_t now_ = 0;
};

}  // namespace

SimulationResult Simulate(const SimulationOptions& options,
                          const std::vector<Arrival>& arrivals) {
  return Simulation(options, arrivals).Run();
}

}  // namespace quire::sim
