#include "core/summarize/sentence_importance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quire {
namespace {

// The tokens around: so many on each side of a step's tokens, which share a median.
constexpr size_t kAround = 256;
constexpr size_t kStep = 64;

// Each token's log importance against its surroundings; 0 where it has none.
std::vector<double> LocalImportance(absl::Span<const TokenReading> tokens) {
  std::vector<double> result(tokens.size(), 0.0), around;
  for (size_t begin = 0; begin < tokens.size(); begin += kStep) {
    const size_t end = std::min(tokens.size(), begin + kStep);
    around.clear();
    for (size_t i = begin - std::min(begin, kAround);
         i < std::min(tokens.size(), end + kAround); ++i) {
      if (tokens[i].importance > 0) around.push_back(std::log(tokens[i].importance));
    }
    if (around.empty()) continue;
    const auto median = around.begin() + static_cast<int64_t>(around.size() / 2);
    std::nth_element(around.begin(), median, around.end());
    for (size_t i = begin; i < end; ++i) {
      if (tokens[i].importance > 0) result[i] = std::log(tokens[i].importance) - *median;
    }
  }
  return result;
}

// Mean over each sentence's tokens; 0 where it has none.
std::vector<double> SentenceMeans(absl::Span<const Sentence> sentences,
                                  absl::Span<const TokenReading> tokens) {
  const std::vector<double> local = LocalImportance(tokens);
  std::vector<double> means(sentences.size(), 0.0);
  size_t next = 0;
  for (size_t s = 0; s < sentences.size(); ++s) {
    while (next < tokens.size() && tokens[next].span.end <= sentences[s].span.begin) {
      ++next;
    }
    double sum = 0;
    int64_t count = 0;
    for (size_t i = next;
         i < tokens.size() && tokens[i].span.begin < sentences[s].span.end; ++i) {
      sum += local[i];
      count += tokens[i].importance > 0;
    }
    if (count > 0) means[s] = sum / static_cast<double>(count);
  }
  return means;
}

}  // namespace

std::vector<double> RankByImportance(absl::Span<const Sentence> sentences,
                                     absl::Span<const TokenReading> tokens) {
  const std::vector<double> means = SentenceMeans(sentences, tokens);
  std::vector<size_t> order(means.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return means[a] < means[b]; });
  std::vector<double> rank(means.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first;  // equals share their middle rank
    while (last + 1 < order.size() && means[order[last + 1]] == means[order[first]]) {
      ++last;
    }
    for (size_t i = first; i <= last; ++i) {
      rank[order[i]] =
          static_cast<double>(first + last + 1) / 2 / static_cast<double>(order.size());
    }
    first = last + 1;
  }
  return rank;
}

}  // namespace quire
