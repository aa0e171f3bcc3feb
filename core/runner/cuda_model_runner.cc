#include "core/runner/cuda_model_runner.h"

#include <algorithm>
#include <utility>

#include "ATen/ops/stack.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "c10/core/DeviceGuard.h"
#include "c10/core/InferenceMode.h"
#include "c10/cuda/CUDAStream.h"
#include "c10/util/Exception.h"
#include "core/base/status_macros.h"
#include "core/dga/probe_positions.h"
#include "core/kernels/cuda/refined.h"
#include "core/kernels/cuda/sample.h"
#include "core/model/cuda_prefill.h"
#include "core/runner/cuda_attention_stats.h"
#include "core/runner/pinned.h"
#include "core/runner/refined_pays.h"
#include "core/runner/step_checks.h"

namespace quire {
absl::Status CudaModelRunner::CheckAttention(const AttentionOptions& attention) const {
  const auto refuse = [&](absl::string_view what) {
    return absl::UnimplementedError(absl::StrCat(
        what, "; device ", decoder_->device().str(), " has no kernel for it"));
  };
  const AttentionMode mode = attention.mode;
  if (mode == AttentionMode::kDense || mode == AttentionMode::kFaithful) {
    return absl::OkStatus();
  }
  if (attention.compact) return refuse("attention.compact is true");
  if (attention.tail != TailEstimate::kSampled) {
    return refuse("attention.tail is not SAMPLED");
  }
  if (attention.index != KeyIndex::kFourBit) {
    return refuse("attention.index is not FOUR_BIT");
  }
  const ModelConfig& c = decoder_->config();
  if (mode == AttentionMode::kRefined && !CudaKvCache::HasIndex(c)) {
    return refuse(absl::StrCat("attention.mode is REFINED and ",
                               c.num_heads / c.num_kv_heads,
                               " query heads share a key/value head"));
  }
  return absl::OkStatus();
}

absl::Status CudaModelRunner::Check(const StepItem& item) const {
  QUIRE_RETURN_IF_ERROR(CheckItem(item, decoder_->config(), geometry_));
  QUIRE_RETURN_IF_ERROR(CheckAttention(item.attention));
  if (item.top_logprobs > kernels::cuda::kMaxListedTokens) {
    return absl::UnimplementedError(absl::StrCat(
        "top_logprobs is ", item.top_logprobs, "; device ", decoder_->device().str(),
        " lists at most ", kernels::cuda::kMaxListedTokens));
  }
  const int64_t end = item.begin + static_cast<int64_t>(item.tokens.size());
  const auto used = item.blocks.first(geometry_.BlocksFor(end));
  if (std::find(used.begin(), used.end(), kNoBlock) != used.end()) {
    return absl::InvalidArgumentError("step item lacks a cache block: none is dropped");
  }
  return absl::OkStatus();
}

void CudaModelRunner::Prepare() {
  const ModelConfig& c = decoder_->config();
  try {
    const c10::InferenceMode inference;
    const c10::DeviceGuard guard(decoder_->device());
    PlanDensePrefill(c.num_heads, c.num_kv_heads, c.head_dim,
                     std::min<int64_t>(c.max_positions, geometry_.capacity_tokens()),
                     decoder_->device());
  } catch (const c10::Error&) {
    // A lack of memory is no matter here; a fault of the device shows in the first step.
  }
}

absl::StatusOr<std::vector<StepResult>> CudaModelRunner::Step(const StepInput& input) {
  QUIRE_RETURN_IF_ERROR(lost_);
  QUIRE_RETURN_IF_ERROR(CheckCopies(input, geometry_));
  for (const RequestId id : input.released) {
    faithful_.erase(id);
    groups_.Release(id);
  }
  CheckedItems checked(input, [this](const StepItem& item) {
    const absl::Status status = Check(item);
    return status.ok() ? groups_.Take(item) : status;
  });
  absl::StatusOr<std::vector<StepResult>> results = ComputeOrError(input, checked.items);
  // Some layers are ahead of others then.
  if (!results.ok()) {
    for (const StepItem* item : checked.items) faithful_.erase(item->id);
    return results;
  }
  return std::move(checked).Merge(*std::move(results));
}

// The only place where what ATen and CUDA throw is caught.
absl::StatusOr<std::vector<StepResult>> CudaModelRunner::ComputeOrError(
    const StepInput& input, Items items) {
  try {
    const c10::InferenceMode inference;
    const c10::DeviceGuard guard(decoder_->device());
    for (const BlockCopy& copy : input.copies) cache_->Copy(copy.from, copy.to);
    return items.empty() ? std::vector<StepResult>() : Compute(items, input.meanwhile);
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
      wanted.scores.push_back(
          readout.WantScore(first + static_cast<int64_t>(i), *item, item->targets[i]));
    }
    first += static_cast<int64_t>(item->tokens.size());
    if (item->sample) wanted.sample = readout.WantSample(first - 1, *item);
    all.push_back(std::move(wanted));
  }
  return all;
}

void CudaModelRunner::Finish(const Wanted& wanted, const CudaReadout& readout,
                             StepResult& result) {
  for (const size_t score : wanted.scores) result.scores.push_back(readout.Score(score));
  if (wanted.sample.has_value()) result.sampled = readout.Score(*wanted.sample);
}

// Its state, begun for these rows.
CudaFaithful* CudaModelRunner::BeginFaithful(const StepItem& item,
                                             const kernels::SequenceRows& rows) {
  // What another sequence left under this id is not ours.
  if (item.begin == 0) faithful_.erase(item.id);
  const ModelConfig& c = decoder_->config();
  CudaFaithful& state =
      faithful_.try_emplace(item.id, c.num_layers, c.num_kv_heads).first->second;
  state.Begin(rows, item.attention.faithful, decoder_->device());
  return &state;
}

CudaSequence CudaModelRunner::SequenceOf(const StepItem& item, int64_t first_row) {
  CudaSequence s = {.rows = {first_row, static_cast<int64_t>(item.tokens.size()),
                             item.begin, item.blocks}};
  if (item.attention.mode == AttentionMode::kFaithful) {
    s.reading = CudaSequence::Reading::kFaithful;
    s.faithful = BeginFaithful(item, s.rows);
    s.audited = AuditedRows(item, 0);
    return s;
  }
  const ModelConfig& config = decoder_->config();
  s.eps = item.attention.eps;
  if (s.rows.rows > 1 || item.importance) {
    if (decoder_->refines_prompts()) {
      s.refined_rows = RefinedRows(config, item.attention, item.begin, s.rows.rows);
    }
    if (s.refined_rows > 0) s.audited = AuditedRows(item, s.rows.rows - s.refined_rows);
    return s;
  }
  const bool refined = ReadsRefined(config, item.attention, item.begin) &&
                       s.far_pages() > 0 && CudaKvCache::HasIndex(config);
  s.reading = refined ? CudaSequence::Reading::kRefinedDecode
                      : CudaSequence::Reading::kDenseDecode;
  if (refined) s.audited = AuditedRows(item, 0);
  if (!item.targets.empty()) s.target = item.targets[0];
  return s;
}

// Of the pages whose index was made, for the sequence that came first.
AttentionWork CudaModelRunner::IndexWork(int64_t pages) const {
  const ModelConfig& c = decoder_->config();
  const int64_t keys = pages * kGroupTokens * c.num_kv_heads * c.num_layers;
  AttentionWork work;
  work.statistics_macs = keys * 2 * c.head_dim;
  work.statistics_bytes = keys * (2 * c.head_dim + c.head_dim / 2);
  return work;
}

void CudaModelRunner::TakeImportance(absl::Span<const CudaDecoder::Probe> probes,
                                     std::vector<StepResult>& results) const {
  for (const CudaDecoder::Probe& probe : probes) {
    std::vector<float>& to = results[probe.sequence].importance.attention;
    const float* const from = probe.attention.const_data_ptr<float>();
    for (int64_t i = 0; i < probe.attention.size(0); ++i) {
      to[i] = from[i] / static_cast<float>(decoder_->config().num_layers);
    }
  }
}

CudaModelRunner::Counted CudaModelRunner::CountedBy(
    const CudaDecoder::Result& result, absl::Span<const CudaSequence> sequences) {
  Counted counted;
  if (result.counts.defined()) counted.refined = ToHost(result.counts);
  if (result.prompt_counts.defined()) counted.prompts = ToHost(result.prompt_counts);
  if (result.audit_errors.defined()) counted.audit_errors = ToHost(result.audit_errors);
  std::vector<at::Tensor> shares;
  for (const CudaSequence& s : sequences) {
    if (s.faithful != nullptr) shares.push_back(s.faithful->grouped_share());
  }
  if (!shares.empty()) counted.grouped_shares = ToHost(at::stack(shares));
  return counted;
}

void CudaModelRunner::TakeStats(absl::Span<const CudaSequence> sequences,
                                const Counted& counted, int64_t indexed_pages,
                                std::vector<StepResult>& results) const {
  const auto data = [](const at::Tensor& t, auto none) {
    return t.defined() ? t.const_data_ptr<decltype(none)>() : nullptr;
  };
  const int64_t* refined = data(counted.refined, int64_t{});
  const int64_t* const prompts = data(counted.prompts, int64_t{});
  const double* grouped_share = data(counted.grouped_shares, double{});
  const float* errors = data(counted.audit_errors, float{});
  for (size_t i = 0; i < sequences.size(); ++i) {
    const CudaSequence& s = sequences[i];
    AttentionStats& stats = results[i].attention;
    stats = s.faithful != nullptr ? FaithfulStats(decoder_->config(), s, *grouped_share++)
            : s.refined_rows > 0
                ? RefinedPromptStats(decoder_->config(), s, prompts + 3 * i)
                : DecodeOrDenseStats(decoder_->config(), s, refined);
    stats.seconds = decoder_->AttentionSeconds(i);
    AddAudits(decoder_->config(), s, errors, stats);
    errors += s.audited.size();
    if (s.reading != CudaSequence::Reading::kRefinedDecode) continue;
    stats.work += IndexWork(std::exchange(indexed_pages, 0));
    refined += counted.refined.size(1);
  }
}

std::vector<StepResult> CudaModelRunner::Compute(Items items,
                                                 const std::function<void()>& meanwhile) {
  std::vector<TokenId> tokens;
  std::vector<CudaSequence> sequences;
  std::vector<StepResult> results(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    sequences.push_back(SequenceOf(*items[i], static_cast<int64_t>(tokens.size())));
    tokens.insert(tokens.end(), items[i]->tokens.begin(), items[i]->tokens.end());
    results[i].id = items[i]->id;
  }
  std::vector<CudaDecoder::Probe> probes = Probes(items, results);
  const CudaDecoder::Result result =
      decoder_->Forward(tokens, sequences, absl::MakeSpan(probes), *cache_);
  CudaReadout readout(*decoder_, result);
  const std::vector<Wanted> wanted = Want(items, readout);
  readout.Launch();
  for (CudaDecoder::Probe& probe : probes) probe.attention = ToHost(probe.attention);
  const Counted counted = CountedBy(result, sequences);
  if (meanwhile) meanwhile();
  c10::cuda::getCurrentCUDAStream().synchronize();
  TakeImportance(probes, results);
  TakeStats(sequences, counted, result.indexed_pages, results);
  for (size_t i = 0; i < items.size(); ++i) Finish(wanted[i], readout, results[i]);
  return results;
}

}  // namespace quire
