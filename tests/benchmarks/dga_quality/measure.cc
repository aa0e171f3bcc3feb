#include "tests/benchmarks/dga_quality/measure.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/TensorOperators.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"

namespace quire::quality {
namespace {

constexpr size_t kRowsAtATime = 64;

at::Tensor Rows(const at::Tensor& hidden, absl::Span<const int64_t> rows) {
  const at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::kLong);
  std::copy(rows.begin(), rows.end(), index.data_ptr<int64_t>());
  return at::index_select(hidden, 0, index);
}

// The three per-position measures, at some positions.
struct Differences {
  std::vector<double> kl;
  double agreed = 0, hidden_error = 0;

  void Add(const Session& session, const at::Tensor& dense, const at::Tensor& other) {
    const at::Tensor p = session.LogProbs(dense), q = session.LogProbs(other);
    const at::Tensor divergence =
        (p.exp() * (p - q)).sum(at::IntArrayRef{1}, false, at::kDouble);
    for (int64_t i = 0; i < divergence.numel(); ++i) {
      kl.push_back(divergence.const_data_ptr<double>()[i]);
    }
    agreed += p.argmax(1).eq(q.argmax(1)).sum().item<double>();
    const auto norm = [](const at::Tensor& x) {
      return x.square().sum(at::IntArrayRef{1}).sqrt();
    };
    hidden_error += (norm(other - dense) / norm(dense)).sum().item<double>();
  }
  double MeanKl(size_t begin, size_t end) const {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += kl[i];
    return end > begin ? sum / static_cast<double>(end - begin) : 0;
  }
};

double Perplexity(const Reading& reading, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t i = begin; i < end; ++i) sum -= reading.logprobs[i];
  return std::exp(sum / static_cast<double>(end - begin));
}

bool Found(const Session& session, const Prompt& prompt, const Reading& reading,
           const std::vector<int64_t>& digits) {
  std::vector<int64_t> before = digits;
  for (int64_t& position : before) --position;
  const at::Tensor best = session.LogProbs(Rows(reading.hidden, before)).argmax(1);
  for (size_t i = 0; i < digits.size(); ++i) {
    if (best.const_data_ptr<int64_t>()[i] != prompt.tokens[digits[i]]) return false;
  }
  return true;
}

}  // namespace

Quality Compare(const Session& session, const Prompt& prompt, const Reading& dense,
                const Reading& other, const Range& range) {
  Quality quality;
  const int64_t text_end = std::min(range.end, prompt.text_end);
  std::vector<int64_t> positions;
  for (int64_t i = range.begin; i < text_end; i += range.stride) positions.push_back(i);
  Differences differences;
  for (size_t first = 0; first < positions.size(); first += kRowsAtATime) {
    const auto part = absl::MakeSpan(positions).subspan(first, kRowsAtATime);
    differences.Add(session, Rows(dense.hidden, part), Rows(other.hidden, part));
  }
  const size_t n = positions.size();
  if (n > 0) {
    quality.positions = static_cast<int64_t>(n);
    quality.kl = differences.MeanKl(0, n);
    quality.first_kl = differences.MeanKl(0, n / 3);
    quality.last_kl = differences.MeanKl(2 * n / 3, n);
    quality.agreement = differences.agreed / static_cast<double>(n);
    quality.hidden_error = differences.hidden_error / static_cast<double>(n);
    quality.perplexity = Perplexity(other, range.begin, text_end);
    quality.dense_perplexity = Perplexity(dense, range.begin, text_end);
  }
  for (const std::vector<int64_t>& digits : prompt.answers) {
    if (digits.front() - 1 < range.begin || digits.back() >= range.end) continue;
    ++quality.asked;
    quality.found += Found(session, prompt, other, digits);
    quality.dense_found += Found(session, prompt, dense, digits);
  }
  return quality;
}

}  // namespace quire::quality
