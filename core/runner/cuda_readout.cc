#include "core/runner/cuda_readout.h"

#include <algorithm>
#include <cstring>

#include "ATen/ops/index_select.h"
#include "core/model/cuda_row_summary.h"
#include "core/runner/pinned.h"

namespace quire {
namespace {

// Rows of logits that exist at a time: 512 x vocab x 4 bytes.
constexpr size_t kPartRows = 512;

// The next token is the one with the largest logit.
bool TakesBest(const StepItem& item) {
  const SamplingParams& sampling = item.sampling;
  return sampling.temperature == 0 && (!sampling.UsesHistory() || item.history.empty());
}

}  // namespace

size_t CudaReadout::WantScore(int64_t row, const StepItem& item, TokenId target) {
  wanted_.push_back({row, &item, target});
  return wanted_.size() - 1;
}

size_t CudaReadout::WantSample(int64_t row, const StepItem& item) {
  return WantScore(row, item, kNoTarget);
}

void CudaReadout::Launch() {
  if (wanted_.empty()) return;
  if (!result_.numbers.defined()) {
    for (size_t first = 0; first < wanted_.size(); first += kPartRows) {
      LaunchPart(first, std::min(kPartRows, wanted_.size() - first));
    }
    return;
  }
  // Kernels before copies: what runs on another engine waits some microseconds.
  Part& part = parts_.emplace_back();
  for (Wanted& wanted : wanted_) {
    wanted.column = wanted.row;
    Choose(wanted, wanted.row);
  }
  part.choices.Launch(result_.logits);
  part.numbers = ToHost(result_.numbers);
}

void CudaReadout::LaunchPart(size_t first, size_t count) {
  const auto n = static_cast<int64_t>(count);
  const at::Tensor host = Pinned({2, n}, at::kInt);
  for (size_t i = 0; i < count; ++i) {
    host.data_ptr<int32_t>()[i] = static_cast<int32_t>(wanted_[first + i].row);
    host.data_ptr<int32_t>()[count + i] = wanted_[first + i].target;
  }
  const at::Tensor& hidden = result_.hidden;
  const at::Tensor sent = host.to(hidden.device(), at::kInt, /*non_blocking=*/true);
  const at::Tensor logits = decoder_.Logits(at::index_select(hidden, 0, sent[0]));
  const at::Tensor numbers = SummarizeLogits(logits, sent[1].const_data_ptr<int32_t>());
  Part& part = parts_.emplace_back();
  for (size_t i = 0; i < count; ++i) {
    Wanted& wanted = wanted_[first + i];
    wanted.part = parts_.size() - 1;
    wanted.column = static_cast<int64_t>(i);
    Choose(wanted, wanted.column);
  }
  part.choices.Launch(logits);
  part.numbers = ToHost(numbers);
}

void CudaReadout::Choose(Wanted& wanted, int64_t row) {
  CudaChoices& choices = parts_.back().choices;
  const StepItem& item = *wanted.item;
  if (wanted.target == kNoTarget && !TakesBest(item)) {
    wanted.sample =
        choices.AddSample(row, item.sampling, item.history, item.sample_step, item.ranks);
  }
  if (item.top_logprobs > 0) wanted.list = choices.AddList(row, item.top_logprobs);
}

CudaReadout::Summary CudaReadout::SummaryOf(const Wanted& wanted) const {
  const at::Tensor& numbers = parts_[wanted.part].numbers;
  const auto at = [&](RowNumber i) {
    return numbers.const_data_ptr<int32_t>() + static_cast<int64_t>(i) * numbers.size(1) +
           wanted.column;
  };
  const auto real = [&](RowNumber i) {
    float x;
    std::memcpy(&x, at(i), sizeof x);
    return x;
  };
  return {real(RowNumber::kLogSum), *at(RowNumber::kBest), real(RowNumber::kBestLogit),
          real(RowNumber::kTargetLogit), *at(RowNumber::kLarger)};
}

TokenScore CudaReadout::Score(size_t number) const {
  const Wanted& wanted = wanted_[number];
  const StepItem& item = *wanted.item;
  const CudaChoices& choices = parts_[wanted.part].choices;
  const Summary summary = SummaryOf(wanted);
  TokenScore score;
  int32_t larger = 0;
  if (wanted.target != kNoTarget) {
    score = {wanted.target, summary.target_logit - summary.log_sum};
    larger = summary.larger;
  } else if (TakesBest(item)) {
    score = {summary.best, summary.best_logit - summary.log_sum};
  } else {
    const kernels::cuda::SampledToken& chosen = choices.sample(wanted.sample);
    score = {chosen.token, chosen.logit - summary.log_sum};
    larger = chosen.larger;
  }
  if (item.ranks) score.rank = larger + 1;
  if (item.top_logprobs > 0) {
    for (const kernels::cuda::ListedToken& listed : choices.list(wanted.list)) {
      score.top.push_back({listed.token, listed.logit - summary.log_sum});
    }
  }
  return score;
}

}  // namespace quire
