#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/dga/group_plan.h"

namespace quire::testing {

// Dynamic Group Attention as published (arXiv 2505.22107; dga.md section 1), causal and
// streaming, with plain loops in double: the reference of core/attention. Every token
// knows what became of it, and every row asks every token. Shares with the code under
// test only SampledRows, which is a choice and not a result.
//
// q [N, H, D], k, v [N, G, D] of all tokens that will ever be seen.
struct FaithfulProblem {
  int64_t heads = 0, kv_heads = 0, head_dim = 0, element_bytes = 4;
  double scale = 1;
  FaithfulOptions options;
  std::vector<double> q, k, v;
  int64_t share() const { return heads / kv_heads; }
};

class FaithfulOracle {
 public:
  struct Group {
    std::vector<int64_t> members;
    std::vector<double> key, value;
    double bias = 0;
  };
  struct Head {
    std::vector<bool> focal;
    std::vector<int64_t> group;  // of a token; -1: none
    std::vector<Group> groups;
  };

  explicit FaithfulOracle(const FaithfulProblem& problem)
      : p_(problem), m_(problem.options.group_tokens), heads_(problem.kv_heads) {}

  // Tokens [seen so far, + rows) -> [rows, H, D].
  std::vector<double> Step(int64_t rows) {
    const int64_t begin = end_;
    end_ += rows;
    for (Head& head : heads_) {
      head.focal.resize(end_);
      head.group.resize(end_, -1);
    }
    const bool split = end_ - grouped_end_ >= (m_ * 11) / 10;
    const bool first = p_.options.whole_prompt && rows > 1;
    if (split && first) Split(begin);
    std::vector<double> out(rows * p_.heads * p_.head_dim);
    for (int64_t h = 0; h < p_.heads; ++h) {
      for (int64_t i = 0; i < rows; ++i) {
        Row(begin + i, h, &out[(i * p_.heads + h) * p_.head_dim]);
      }
    }
    CountBytes(begin);
    if (split && !first) Split(begin);
    return out;
  }

  const std::vector<Head>& heads() const { return heads_; }
  int64_t grouped_end() const { return grouped_end_; }
  const AttentionWork& work() const { return work_; }  // all parts but dense and audit
  double coverage() const { return coverage_; }
  int64_t sparse_rows() const { return sparse_rows_; }

 private:
  double Dot(const double* a, const double* b) const {
    return std::inner_product(a, a + p_.head_dim, b, 0.0);
  }
  const double* Q(int64_t token, int64_t h) const {
    return &p_.q[(token * p_.heads + h) * p_.head_dim];
  }
  const double* K(int64_t token, int64_t g) const {
    return &p_.k[(token * p_.kv_heads + g) * p_.head_dim];
  }
  const double* V(int64_t token, int64_t g) const {
    return &p_.v[(token * p_.kv_heads + g) * p_.head_dim];
  }

  static std::vector<double> Softmax(std::vector<double> scores) {
    const double max = *std::max_element(scores.begin(), scores.end());
    for (double& s : scores) s = std::exp(s - max);
    const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& s : scores) s /= total;
    return scores;
  }

  bool Complete(const Head& head, int64_t token, int64_t row) const {
    const int64_t group = head.group[token];
    return group >= 0 && head.groups[group].members.back() <= row;
  }

  void Row(int64_t row, int64_t h, double* out) {
    const int64_t g = h / p_.share();
    const Head& head = heads_[g];
    std::vector<double> scores;
    std::vector<const double*> values;
    std::vector<bool> exact;
    for (int64_t i = 0; i <= row; ++i) {
      if (!Complete(head, i, row)) {
        scores.push_back(Dot(Q(row, h), K(i, g)) * p_.scale);
        values.push_back(V(i, g));
        exact.push_back(true);
      } else if (const Group& group = head.groups[head.group[i]]; i == group.members[0]) {
        scores.push_back(Dot(Q(row, h), group.key.data()) * p_.scale + group.bias);
        values.push_back(group.value.data());
        exact.push_back(false);
      }
    }
    const std::vector<double> weights = Softmax(scores);
    double covered = 0;
    for (size_t c = 0; c < weights.size(); ++c) {
      covered += exact[c] ? weights[c] : 0;
      for (int64_t x = 0; x < p_.head_dim; ++x) out[x] += weights[c] * values[c][x];
    }
    const auto columns = static_cast<int64_t>(weights.size());
    work_.columns += columns;
    work_.attention_macs += columns * 2 * p_.head_dim;
    if (std::find(exact.begin(), exact.end(), false) == exact.end()) return;
    coverage_ += covered;
    ++sparse_rows_;
    // Focal tokens: those before grouped_end that are in no group.
    for (int64_t i = 0; i <= std::min(row, grouped_end_ - 1); ++i) {
      work_.expanded_columns += head.group[i] < 0;
    }
  }

  // A task fetches once what any of its rows reads.
  void CountBytes(int64_t begin) {
    const int64_t task = std::max<int64_t>(1, 384 / p_.share());
    for (const Head& head : heads_) {
      for (int64_t first = begin; first < end_; first += task) {
        std::set<int64_t> tokens, groups;
        for (int64_t row = first; row < std::min(end_, first + task); ++row) {
          for (int64_t i = 0; i <= row; ++i) {
            if (Complete(head, i, row)) {
              groups.insert(head.group[i]);
            } else {
              tokens.insert(i);
            }
          }
        }
        work_.attention_bytes +=
            static_cast<int64_t>(tokens.size()) * 2 * p_.head_dim * p_.element_bytes +
            static_cast<int64_t>(groups.size()) * (2 * p_.head_dim + 1) * 4;
      }
    }
  }

  void Split(int64_t begin) {
    const int64_t fresh = end_ - grouped_end_;
    const auto target = std::min<int64_t>(
        end_, std::max<int64_t>(
                  std::llround(static_cast<double>(p_.options.focal_share) * end_),
                  p_.options.min_focal_tokens));
    const bool decode = end_ - begin == 1 && fresh == (m_ * 11) / 10;
    for (int64_t g = 0; g < p_.kv_heads; ++g) {
      const auto focal = std::count(heads_[g].focal.begin(), heads_[g].focal.end(), true);
      int64_t wanted = std::clamp<int64_t>(target - focal, 0, fresh);
      wanted += (fresh - wanted) % m_;
      if (decode) wanted = target == end_ ? fresh : fresh - m_;
      SplitHead(g, begin, wanted, decode);
    }
    grouped_end_ = end_;
  }

  void SplitHead(int64_t g, int64_t begin, int64_t wanted, bool decode) {
    Head& head = heads_[g];
    const int64_t fresh = end_ - grouped_end_;
    if (wanted > 0 && wanted < fresh) {
      const std::vector<double> s = decode ? LastQuery(g) : Importance(g, begin);
      std::vector<int64_t> order(fresh);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return s[a] > s[b]; });
      for (int64_t i = 0; i < wanted; ++i) head.focal[grouped_end_ + order[i]] = true;
    } else if (wanted > 0) {
      std::fill(head.focal.begin() + grouped_end_, head.focal.end(), true);
    }
    Group group;
    for (int64_t i = grouped_end_; i < end_; ++i) {
      if (head.focal[i]) continue;
      group.members.push_back(i);
      if (static_cast<int64_t>(group.members.size()) < m_) continue;
      Pool(g, begin, group);
      for (const int64_t member : group.members) {
        head.group[member] = static_cast<int64_t>(head.groups.size());
      }
      head.groups.push_back(group);
      group = {};
    }
  }

  // Of tokens [grouped_end, end).
  std::vector<double> Importance(int64_t g, int64_t begin) {
    std::vector<double> sums(end_), seen(end_);
    for (const int64_t row : SampledRows(static_cast<Position>(begin), end_ - begin,
                                         p_.options.sampled_queries)) {
      const int64_t position = begin + row;
      for (int64_t h = g * p_.share(); h < (g + 1) * p_.share(); ++h) {
        std::vector<double> scores(position + 1);
        for (int64_t i = 0; i <= position; ++i) {
          scores[i] = Dot(Q(position, h), K(i, g)) * p_.scale;
          work_.selection_macs += p_.head_dim;
        }
        const std::vector<double> a = Softmax(scores);
        for (int64_t i = 0; i <= position; ++i) sums[i] += a[i];
      }
      for (int64_t i = 0; i <= position; ++i) ++seen[i];
    }
    work_.selection_bytes += end_ * p_.head_dim * p_.element_bytes;
    for (int64_t i = 0; i < end_; ++i) sums[i] /= seen[i];
    return {sums.begin() + grouped_end_, sums.end()};
  }

  double PoolingScale() const { return p_.options.scaled_pooling ? p_.scale : 1; }

  // Mean over the query heads of the softmax of a token's queries over some keys.
  std::vector<double> Among(int64_t g, int64_t query, const std::vector<int64_t>& keys) {
    std::vector<double> mean(keys.size());
    for (int64_t h = g * p_.share(); h < (g + 1) * p_.share(); ++h) {
      std::vector<double> scores;
      for (const int64_t key : keys) {
        scores.push_back(Dot(Q(query, h), K(key, g)) * PoolingScale());
      }
      const std::vector<double> weights = Softmax(scores);
      for (size_t i = 0; i < keys.size(); ++i) {
        mean[i] += weights[i] / static_cast<double>(p_.share());
      }
    }
    return mean;
  }

  std::vector<double> LastQuery(int64_t g) {
    std::vector<int64_t> raw(end_ - grouped_end_);
    std::iota(raw.begin(), raw.end(), grouped_end_);
    const auto n = static_cast<int64_t>(raw.size());
    work_.selection_macs += n * p_.share() * p_.head_dim;
    work_.selection_bytes += n * p_.head_dim * p_.element_bytes;
    return Among(g, end_ - 1, raw);
  }

  void Pool(int64_t g, int64_t begin, Group& group) {
    const int64_t d = p_.head_dim;
    const std::vector<double> weights =
        Among(g, std::max(begin, group.members.back()), group.members);
    group.key.assign(d, 0);
    group.value.assign(d, 0);
    for (size_t i = 0; i < weights.size(); ++i) {
      for (int64_t x = 0; x < d; ++x) {
        group.key[x] += weights[i] * K(group.members[i], g)[x];
        group.value[x] += weights[i] * V(group.members[i], g)[x];
      }
      if (p_.options.bias == GroupBias::kEntropy && weights[i] > 0) {
        group.bias -= weights[i] * std::log(weights[i]);
      }
    }
    if (p_.options.bias == GroupBias::kLogSize) {
      group.bias = std::log(static_cast<double>(m_));
    }
    work_.statistics_macs += m_ * d * (p_.share() + 2);
    work_.statistics_bytes += m_ * 2 * d * p_.element_bytes + (2 * d + 1) * 4;
  }

  const FaithfulProblem p_;
  const int64_t m_;
  std::vector<Head> heads_;
  int64_t end_ = 0, grouped_end_ = 0;
  AttentionWork work_;
  double coverage_ = 0;
  int64_t sparse_rows_ = 0;
};

}  // namespace quire::testing
