#include "core/dga/group_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/check.h"

namespace quire {
namespace {

int64_t CountUpTo(const std::vector<Position>& ascending, Position row) {
  return std::upper_bound(ascending.begin(), ascending.end(), row) - ascending.begin();
}

// SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), of the position.
uint64_t Hash(Position position) {
  uint64_t z = (static_cast<uint64_t>(position) + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The `count` indices below n that come first by `key`, of equals the lower; ascending.
template <typename Key>
std::vector<int64_t> Lowest(int64_t n, int64_t count, const Key& key) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::nth_element(
      order.begin(), order.begin() + count, order.end(),
      [&](int64_t a, int64_t b) { return key(a) != key(b) ? key(a) < key(b) : a < b; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

RowView ViewOf(const GroupPlan& plan, Position row) {
  const int64_t groups = CountUpTo(plan.last, row);
  return {CountUpTo(plan.focal, row), groups,
          groups == 0 ? 0 : plan.last[groups - 1] + 1};
}

std::vector<Position> NotFocal(const GroupPlan& plan, Position begin, Position end) {
  std::vector<Position> others;
  auto focal = std::lower_bound(plan.focal.begin(), plan.focal.end(), begin);
  for (Position p = begin; p < end; ++p) {
    if (focal != plan.focal.end() && *focal == p) {
      ++focal;
    } else {
      others.push_back(p);
    }
  }
  return others;
}

int64_t FocalTarget(const FaithfulOptions& options, int64_t tokens) {
  const auto share = std::llround(static_cast<double>(options.focal_share) *
                                  static_cast<double>(tokens));
  return std::min(tokens, std::max<int64_t>(share, options.min_focal_tokens));
}

int64_t GroupBytes(const FaithfulOptions& options, int64_t tokens, int64_t head_dim) {
  // What does not make a group is focal, too.
  const int64_t groups = (tokens - FocalTarget(options, tokens)) / options.group_tokens;
  const int64_t focal = tokens - groups * options.group_tokens;
  const int64_t bytes = groups * (2 * head_dim + 1) * 4 + focal * 8;
  return bytes + bytes / 4;
}

int64_t RegroupTokens(const FaithfulOptions& options) {
  return int64_t{options.group_tokens} * 11 / 10;
}

int64_t FocalOfChunk(const FaithfulOptions& options, int64_t end, int64_t focal,
                     int64_t fresh) {
  const int64_t wanted = std::clamp<int64_t>(FocalTarget(options, end) - focal, 0, fresh);
  return wanted + (fresh - wanted) % options.group_tokens;
}

int64_t FocalOfDecode(const FaithfulOptions& options, int64_t end, int64_t fresh) {
  QUIRE_CHECK(fresh >= options.group_tokens);
  return FocalTarget(options, end) == end ? fresh : fresh - options.group_tokens;
}

RawSplit SplitOf(const FaithfulOptions& options, Position grouped_end, Position end,
                 int64_t rows, int64_t focal) {
  const int64_t fresh = end - grouped_end;
  const bool by_last_query = rows == 1 && fresh == RegroupTokens(options);
  return {by_last_query, fresh,
          by_last_query ? FocalOfDecode(options, end, fresh)
                        : FocalOfChunk(options, end, focal, fresh)};
}

std::vector<Position> AppendTokens(Position begin, absl::Span<const float> scores,
                                   int64_t focal, int32_t m, GroupPlan& plan) {
  const auto n = static_cast<int64_t>(scores.size());
  QUIRE_CHECK(focal <= n && (n - focal) % m == 0);
  const auto cost = [&](int64_t i) {
    return std::isnan(scores[i]) ? std::numeric_limits<float>::infinity() : -scores[i];
  };
  for (const int64_t i : Lowest(n, focal, cost)) {
    plan.focal.push_back(begin + static_cast<Position>(i));
  }
  std::vector<Position> others = NotFocal(plan, begin, begin + static_cast<Position>(n));
  for (size_t i = m - 1; i < others.size(); i += m) plan.last.push_back(others[i]);
  return others;
}

std::vector<int64_t> SampledRows(Position begin, int64_t rows, int64_t count) {
  const int64_t recent = std::min(rows, rows <= count ? rows : (count + 1) / 2);
  std::vector<int64_t> sampled =
      Lowest(rows - recent, std::min(count, rows) - recent,
             [&](int64_t i) { return Hash(begin + static_cast<Position>(i)); });
  for (int64_t i = rows - recent; i < rows; ++i) sampled.push_back(i);
  return sampled;
}

void MeanOfSeeing(absl::Span<const int64_t> rows, int64_t first_row,
                  absl::Span<float> sums) {
  auto seeing = rows.begin();
  for (size_t i = 0; i < sums.size(); ++i) {
    while (*seeing < first_row + static_cast<int64_t>(i)) ++seeing;
    sums[i] /= static_cast<float>(rows.end() - seeing);
  }
}

std::vector<int64_t> PoolingRows(Position begin, absl::Span<const Position> members,
                                 int64_t m) {
  std::vector<int64_t> rows;
  for (size_t i = m - 1; i < members.size(); i += m) {
    rows.push_back(std::max(0, members[i] - begin));
  }
  return rows;
}

std::vector<RawColumn> RawColumns(const GroupPlan& plan, Position begin, Position end) {
  std::vector<RawColumn> columns;
  auto group = std::upper_bound(plan.last.begin(), plan.last.end(), begin);
  for (const Position p : NotFocal(plan, ViewOf(plan, begin).raw_begin, end)) {
    if (group != plan.last.end() && *group == p) {
      ++group;  // its own row reads the group already
    } else {
      columns.push_back({p, group == plan.last.end() ? kReadForever : *group});
    }
  }
  return columns;
}

PlanReads ReadsOf(const GroupPlan& plan, absl::Span<const RawColumn> raw, Position begin,
                  Position end) {
  const auto rows = [&](Position from, Position until) -> int64_t {
    return std::max(0, std::min(until, end) - std::max(from, begin));
  };
  const Position first_group = plan.last.empty() ? kReadForever : plan.last.front();
  PlanReads reads;
  reads.grouped_rows = rows(first_group, end);
  // Nearly all of a long text is before the step: counted at once.
  const int64_t focal = CountUpTo(plan.focal, begin);
  reads.columns = focal * rows(begin, end);
  reads.focal = focal * reads.grouped_rows;
  for (size_t i = focal; i < plan.focal.size(); ++i) {
    reads.columns += rows(plan.focal[i], end);
    reads.focal += rows(std::max(plan.focal[i], first_group), end);
  }
  const int64_t groups = CountUpTo(plan.last, begin);
  reads.columns += groups * rows(begin, end);
  for (size_t i = groups; i < plan.last.size(); ++i) {
    reads.columns += rows(plan.last[i], end);
  }
  for (const RawColumn& c : raw) reads.columns += rows(c.position, c.until);
  return reads;
}

}  // namespace quire
