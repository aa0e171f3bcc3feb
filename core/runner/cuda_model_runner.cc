#include "core/runner/cuda_model_runner.h"

#include <algorithm>
#include <utility>

#include "ATen/Parallel.h"
#include "ATen/ops/empty.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/InferenceMode.h"
#include "c10/cuda/CUDAStream.h"
#include "c10/util/Exception.h"
#include "core/base/status_macros.h"
#include "core/dga/probe_positions.h"
#include "core/runner/step_checks.h"
#include "core/runner/token_score.h"

namespace quire {
namespace {

// The next token is the one with the largest logit, and nothing else is asked of the row.
bool IsGreedy(const StepItem& item) {
  const SamplingParams& s = item.sampling;
  return s.temperature == 0 && s.repetition_penalty == 1 && s.presence_penalty == 0 &&
         s.frequency_penalty == 0 && s.no_repeat_ngram == 0 && item.top_logprobs == 0;
}

kernels::SequenceRows RowsOf(const StepItem& item, int64_t first_row) {
  return {first_row, static_cast<int64_t>(item.tokens.size()), item.begin, item.blocks};
}

}  // namespace

absl::Status CudaModelRunner::Check(const StepItem& item) const {
  QUIRE_RETURN_IF_ERROR(CheckItem(item, decoder_->config(), geometry_));
  const AttentionMode mode = item.attention.mode;
  if (mode == AttentionMode::kFaithful || mode == AttentionMode::kRefined ||
      item.attention.compact) {
    return absl::UnimplementedError(
        absl::StrCat("attention.mode is ", std::string(AttentionModeName(mode)),
                     item.attention.compact ? " and attention.compact is set" : "", "; ",
                     decoder_->device().str(), " reads DENSE only"));
  }
  const int64_t end = item.begin + static_cast<int64_t>(item.tokens.size());
  const auto used = item.blocks.first(geometry_.BlocksFor(end));
  if (std::find(used.begin(), used.end(), kNoBlock) != used.end()) {
    return absl::InvalidArgumentError("step item lacks a cache block: none is dropped");
  }
  return absl::OkStatus();
}

// Items that break a rule are answered with it; the others are computed.
absl::StatusOr<std::vector<StepResult>> CudaModelRunner::Step(const StepInput& input) {
  QUIRE_RETURN_IF_ERROR(lost_);
  QUIRE_RETURN_IF_ERROR(CheckCopies(input, geometry_));
  std::vector<const StepItem*> items;
  std::vector<StepResult> all;
  for (const StepItem& item : input.items) {
    all.push_back({.id = item.id, .status = Check(item)});
    if (all.back().status.ok()) items.push_back(&item);
  }
  QUIRE_ASSIGN_OR_RETURN(std::vector<StepResult> results, ComputeOrError(input, items));
  size_t next = 0;
  for (StepResult& result : all) {
    if (result.status.ok()) result = std::move(results[next++]);
  }
  return all;
}

// The only place where what ATen and CUDA throw is caught.
absl::StatusOr<std::vector<StepResult>> CudaModelRunner::ComputeOrError(
    const StepInput& input, Items items) {
  try {
    const c10::InferenceMode inference;
    const c10::DeviceGuard guard(decoder_->device());
    for (const BlockCopy& copy : input.copies) cache_->Copy(copy.from, copy.to);
    return items.empty() ? std::vector<StepResult>() : Compute(items);
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory while computing a step");
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    // Such an error stays: the process's hold of the device is broken.
    if (!absl::StrContains(what, "CUDA error")) return absl::InternalError(what);
    lost_ = absl::DataLossError(
        absl::StrCat("device ", decoder_->device().str(), " was lost: ", what));
    return lost_;
  }
}

std::vector<CudaDecoder::Probe> CudaModelRunner::Probes(
    Items items, std::vector<StepResult>& results) const {
  std::vector<CudaDecoder::Probe> probes;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i]->importance) continue;
    const auto rows = static_cast<int64_t>(items[i]->tokens.size());
    probes.push_back(
        {.sequence = i, .rows = ProbedRows(items[i]->begin, rows, items[i]->last_chunk)});
    AttentionProbe& probe = results[i].importance;
    for (const int64_t row : probes.back().rows) {
      probe.queries.push_back(items[i]->begin + static_cast<Position>(row));
    }
    probe.attention.assign(items[i]->begin + rows, 0.0f);
    if (probes.back().rows.empty()) probes.pop_back();
  }
  return probes;
}

std::vector<CudaModelRunner::Wanted> CudaModelRunner::Want(Items items,
                                                           CudaReadout& readout) {
  std::vector<Wanted> all;
  int64_t first = 0;
  for (const StepItem* item : items) {
    Wanted wanted;
    for (size_t i = 0; i < item->targets.size(); ++i) {
      if (item->targets[i] == kNoTarget) continue;
      wanted.targets.push_back(item->targets[i]);
      wanted.scores.push_back(readout.Want(first + static_cast<int64_t>(i),
                                           item->targets[i], item->top_logprobs > 0));
    }
    first += static_cast<int64_t>(item->tokens.size());
    if (item->sample)
      wanted.sample = readout.Want(first - 1, kNoTarget, !IsGreedy(*item));
    all.push_back(std::move(wanted));
  }
  return all;
}

void CudaModelRunner::Finish(const StepItem& item, const Wanted& wanted,
                             const CudaReadout& readout, StepResult& result) {
  for (size_t i = 0; i < wanted.scores.size(); ++i) {
    const CudaReadout::Summary summary = readout.summary(wanted.scores[i]);
    TokenScore score;
    score.token = wanted.targets[i];
    score.logprob = summary.target_logit - summary.log_sum;
    if (item.ranks) score.rank = summary.larger + 1;
    if (item.top_logprobs > 0) {
      score.top = TopLogprobs(readout.logits(wanted.scores[i]), item.top_logprobs);
    }
    result.scores.push_back(std::move(score));
  }
  if (!wanted.sample.has_value()) return;
  const CudaReadout::Summary summary = readout.summary(*wanted.sample);
  if (IsGreedy(item)) {
    result.sampled = TokenScore{.token = summary.best,
                                .logprob = summary.best_logit - summary.log_sum,
                                .rank = item.ranks ? 1 : 0};
    return;
  }
  const absl::Span<const float> logits = readout.logits(*wanted.sample);
  const TokenId token = Sample(logits, item.sampling, item.history, item.sample_step);
  result.sampled =
      ScoreToken(logits, summary.log_sum, token, item.ranks, item.top_logprobs);
}

AttentionStats CudaModelRunner::DenseStats(const StepItem& item) const {
  const ModelConfig& c = decoder_->config();
  AttentionWork layer = kernels::DenseWork({c.num_heads, c.num_kv_heads, c.head_dim},
                                           RowsOf(item, 0), /*element_bytes=*/2);
  layer.columns = layer.dense_columns;
  layer.attention_macs = layer.dense_macs;
  layer.attention_bytes = layer.dense_bytes;
  AttentionStats stats;
  for (int32_t i = 0; i < c.num_layers; ++i) stats.work += layer;
  return stats;
}

std::vector<StepResult> CudaModelRunner::Compute(Items items) {
  std::vector<TokenId> tokens;
  std::vector<kernels::SequenceRows> sequences;
  std::vector<StepResult> results(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    sequences.push_back(RowsOf(*items[i], static_cast<int64_t>(tokens.size())));
    tokens.insert(tokens.end(), items[i]->tokens.begin(), items[i]->tokens.end());
    results[i].id = items[i]->id;
    results[i].attention = DenseStats(*items[i]);
  }
  std::vector<CudaDecoder::Probe> probes = Probes(items, results);
  const at::Tensor hidden =
      decoder_->Forward(tokens, sequences, absl::MakeSpan(probes), *cache_);
  CudaReadout readout(*decoder_, hidden);
  const std::vector<Wanted> wanted = Want(items, readout);
  readout.Launch();
  for (CudaDecoder::Probe& probe : probes) {
    const at::Tensor host = at::empty(probe.attention.sizes(),
                                      at::TensorOptions(at::kFloat).pinned_memory(true));
    host.copy_(probe.attention, /*non_blocking=*/true);
    probe.attention = host;
  }
  c10::cuda::getCurrentCUDAStream().synchronize();
  for (const CudaDecoder::Probe& probe : probes) {
    std::vector<float>& to = results[probe.sequence].importance.attention;
    const float* const from = probe.attention.const_data_ptr<float>();
    for (int64_t i = 0; i < probe.attention.size(0); ++i) {
      to[i] = from[i] / static_cast<float>(decoder_->config().num_layers);
    }
  }
  at::parallel_for(0, static_cast<int64_t>(items.size()), 1,
                   [&](int64_t first, int64_t last) {
                     for (int64_t i = first; i < last; ++i) {
                       Finish(*items[i], wanted[i], readout, results[i]);
                     }
                   });
  return results;
}

}  // namespace quire
