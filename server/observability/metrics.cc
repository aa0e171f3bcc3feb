#include "server/observability/metrics.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "server/rpc/status.h"
#include "server/version.h"

namespace quire::server {
namespace {

using prometheus::Counter;
using prometheus::Histogram;

void Add(Counter* counter, int64_t n) {
  if (n != 0) counter->Increment(static_cast<double>(n));
}

void Add(Counter* counter, absl::Duration time) {
  if (time > absl::ZeroDuration()) counter->Increment(absl::ToDoubleSeconds(time));
}

// Index of a request's length among the values of label "context".
size_t ContextOf(const Usage& usage) {
  constexpr int64_t kUpTo[] = {1024, 4096, 16384, 65536};
  const int64_t tokens = usage.prompt_tokens + usage.generated_tokens;
  return static_cast<size_t>(
      std::lower_bound(std::begin(kUpTo), std::end(kUpTo), tokens) - std::begin(kUpTo));
}

absl::Duration Sum(const std::array<absl::Duration, kAttentionModes>& times) {
  return std::accumulate(times.begin(), times.end(), absl::ZeroDuration());
}

std::array<Counter*, 2> ByBasis(const MetricFamilies& families, Metric measured,
                                Metric modelled) {
  return {&families.counter(measured), &families.counter(modelled)};
}

}  // namespace

Metrics::PhaseCounters Metrics::MakePhase(const MetricFamilies& families,
                                          const char* phase) {
  PhaseCounters counters{
      .macs = {},
      .flops = families.counters<kAttentionModes>(Metric::kAttentionFlops, {phase}),
      .seconds = families.counters<kAttentionModes>(Metric::kDeviceSeconds, {phase}),
      .dense_flops = &families.counter(Metric::kAttentionFlopsDense, {phase}),
      .kv_bytes = &families.counter(Metric::kKvBytes, {phase}),
      .dense_kv_bytes = &families.counter(Metric::kKvBytesDense, {phase})};
  const std::vector<std::string>& modes =
      Declaration(Metric::kAttentionMacs).labels[1].values;
  for (size_t mode = 0; mode < modes.size(); ++mode) {
    counters.macs[mode] =
        families.counters<kParts>(Metric::kAttentionMacs, {phase, modes[mode]});
  }
  return counters;
}

Metrics::Metrics(prometheus::Registry& registry)
    : families_(registry),
      inter_token_latency_(families_.histogram(Metric::kInterTokenLatency)),
      queue_seconds_(families_.histogram(Metric::kQueueSeconds)),
      rejections_(families_.counters<5>(Metric::kRejections)),
      would_refuse_(families_.counter(Metric::kWouldRefuse)),
      cancelled_(families_.counters<3>(Metric::kCancelled)),
      prompt_tokens_(families_.counter(Metric::kPromptTokens)),
      generated_tokens_(families_.counter(Metric::kGeneratedTokens)),
      cached_tokens_(families_.counter(Metric::kCachedTokens)),
      recomputed_tokens_(families_.counter(Metric::kRecomputedTokens)),
      wasted_tokens_(families_.counters<3>(Metric::kWastedTokens)),
      tenant_tokens_(families_),
      step_seconds_(families_.histogram(Metric::kStepSeconds)),
      batch_sequences_(families_.histogram(Metric::kBatchSequences)),
      preemptions_(families_.counter(Metric::kPreemptions)),
      first_token_ratio_(
          families_.histogram(Metric::kEstimateErrorRatio, {"first_token"})),
      end_ratio_(families_.histogram(Metric::kEstimateErrorRatio, {"end"})),
      prefill_(MakePhase(families_, "prefill")),
      decode_(MakePhase(families_, "decode")),
      model_flops_(families_.counters<5>(Metric::kModelFlops)),
      selection_seconds_(families_.counter(Metric::kSelectionSeconds)),
      expanded_keys_(families_.counter(Metric::kExpandedKeys)),
      columns_(families_.counters<5>(Metric::kAttentionColumns)),
      dense_columns_(families_.counters<5>(Metric::kAttentionColumnsDense)),
      attention_density_(families_.histogram(Metric::kAttentionDensity)),
      attention_error_(families_.histogram(Metric::kAttentionError)),
      fallbacks_(families_.counters<2>(Metric::kDenseFallback)),
      device_seconds_(families_.counters<2>(Metric::kRequestDeviceSeconds)),
      dense_device_seconds_(families_.counters<2>(Metric::kRequestDenseDeviceSeconds)),
      saved_usd_(ByBasis(families_, Metric::kMeasuredSavings, Metric::kEstimatedSavings)),
      lost_usd_(ByBasis(families_, Metric::kMeasuredLosses, Metric::kEstimatedLosses)),
      device_hour_price_(families_.gauge(Metric::kDeviceHourPrice)),
      shadow_samples_(families_.counter(Metric::kShadowSamples)),
      shadow_skipped_(families_.counters<kShadowSkips>(Metric::kShadowSkipped)),
      shadow_speedup_(families_.histogram(Metric::kShadowSpeedup)),
      shadow_logprob_delta_(families_.histogram(Metric::kShadowLogprobDelta)),
      shadow_compared_tokens_(families_.counter(Metric::kShadowComparedTokens)),
      shadow_mismatches_(families_.counter(Metric::kShadowMismatches)),
      shadow_device_seconds_(families_.counter(Metric::kShadowDeviceSeconds)) {
  families_.gauge(Metric::kBuildInfo, {kVersion}).Set(1);
}

// ------------------------------------------------------------------------------- calls

void Metrics::OnCall(Method method, absl::StatusCode code, absl::Duration elapsed) {
  const std::vector<std::string>& codes = CodeValues();
  const auto known = std::find(codes.begin(), codes.end() - 1, CodeName(code));
  families_.histogram(Metric::kRequestSeconds, {std::string(MethodName(method)), *known})
      .Observe(absl::ToDoubleSeconds(elapsed));
}

void Metrics::OnFirstToken(Method method, absl::Duration since_arrival) {
  families_.histogram(Metric::kTimeToFirstToken, {std::string(MethodName(method))})
      .Observe(absl::ToDoubleSeconds(since_arrival));
}

void Metrics::OnQueued(absl::Duration queued) {
  queue_seconds_.Observe(absl::ToDoubleSeconds(queued));
}

void Metrics::OnRejected(Rejection reason) {
  rejections_[static_cast<size_t>(reason)]->Increment();
}

void Metrics::OnCancelled(CallStage stage) {
  cancelled_[static_cast<size_t>(stage)]->Increment();
}

// --------------------------------------------------------------------- engine's reports

void Metrics::OnStep(const StepReport& step, const RowMacs& row) {
  if (step.background) {
    Add(&shadow_device_seconds_, Sum(step.prefill_time) + Sum(step.decode_time));
    return;
  }
  Add(&prompt_tokens_, step.prompt_tokens);
  Add(&generated_tokens_, step.generated_tokens);
  Add(&recomputed_tokens_, step.recomputed_tokens);
  batch_sequences_.Observe(step.sequences);
  step_seconds_.Observe(absl::ToDoubleSeconds(step.elapsed));
  OnGaps(step.inter_token);
  AttentionWork all;
  CountPhase(step.prefill, step.prefill_time, prefill_, all);
  CountPhase(step.decode, step.decode_time, decode_, all);
  CountModel(step, row, all);
}

// All at once: with hundreds of sequences, a lock for each gap would show.
void Metrics::OnGaps(absl::Span<const absl::Duration> gaps) {
  if (gaps.empty()) return;
  const std::vector<double>& bounds = Declaration(Metric::kInterTokenLatency).buckets;
  std::vector<double> increments(bounds.size() + 1);
  double sum = 0;
  for (const absl::Duration gap : gaps) {
    const double seconds = absl::ToDoubleSeconds(gap);
    sum += seconds;
    const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), seconds);
    ++increments[static_cast<size_t>(bucket - bounds.begin())];
  }
  inter_token_latency_.ObserveMultiple(increments, sum);
}

void Metrics::CountPhase(const std::array<AttentionStats, kAttentionModes>& attention,
                         const std::array<absl::Duration, kAttentionModes>& time,
                         const PhaseCounters& phase, AttentionWork& all) {
  AttentionWork sum;
  double selection_seconds = 0;
  for (size_t mode = 0; mode < attention.size(); ++mode) {
    const AttentionWork& work = attention[mode].work;
    Add(phase.flops[mode], 2 * work.executed_macs());
    Add(phase.macs[mode][0], work.attention_macs);
    Add(phase.macs[mode][1], work.selection_macs);
    Add(phase.macs[mode][2], work.statistics_macs);
    Add(phase.macs[mode][3], work.audit_macs);
    Add(phase.seconds[mode], time[mode]);
    selection_seconds += attention[mode].selection_seconds;
    sum += work;
  }
  Add(phase.dense_flops, 2 * sum.dense_macs);
  Add(phase.kv_bytes, sum.executed_bytes());
  Add(phase.dense_kv_bytes, sum.dense_bytes);
  if (selection_seconds > 0) selection_seconds_.Increment(selection_seconds);
  all += sum;
}

void Metrics::CountModel(const StepReport& step, const RowMacs& row,
                         const AttentionWork& all) {
  Add(model_flops_[0], 2 * all.attention_macs);
  Add(model_flops_[1], 2 * (all.executed_macs() - all.attention_macs));
  Add(model_flops_[2], 2 * row.mlp * step.rows);
  Add(model_flops_[3], 2 * row.lm_head * step.head_rows);
  Add(model_flops_[4], 2 * row.other * step.rows);
  Add(&expanded_keys_, all.expanded_columns);
}

void Metrics::OnFinished(const FinishReport& finished) {
  if (finished.background) return;
  Add(&cached_tokens_, finished.usage.cached_tokens);
  Add(wasted_tokens_[static_cast<size_t>(finished.stage)], finished.wasted_tokens);
  Add(&preemptions_, finished.preemptions);
  tenant_tokens_.Add(finished.tenant, finished.usage);
  if (finished.first_token_ratio > 0) {
    first_token_ratio_.Observe(finished.first_token_ratio);
  }
  if (finished.end_ratio > 0) end_ratio_.Observe(finished.end_ratio);
  OnAttention(finished.attention, finished.usage);
}

void Metrics::OnAttention(const AttentionReceipt& receipt, const Usage& usage) {
  AttentionStats all = receipt.prefill;
  all += receipt.decode;
  if (all.work.dense_columns == 0) return;  // ended before its first step did
  Add(columns_[ContextOf(usage)], all.work.columns);
  Add(dense_columns_[ContextOf(usage)], all.work.dense_columns);
  attention_density_.Observe(static_cast<double>(all.work.columns) /
                             static_cast<double>(all.work.dense_columns));
  if (all.audits > 0) {
    attention_error_.Observe(all.audit_error / static_cast<double>(all.audits));
  }
  // Of AUTO it is no fallback to read short texts densely.
  const bool sparse_asked =
      receipt.mode == AttentionMode::kFaithful || receipt.mode == AttentionMode::kRefined;
  if (receipt.fell_back) {
    fallbacks_[0]->Increment();
  } else if (sparse_asked && all.sparse_rows == 0) {
    fallbacks_[1]->Increment();
  }
}

// ----------------------------------------------------------------------------- savings

void Metrics::OnSavings(const SavingsReport& report) {
  const auto basis = static_cast<size_t>(report.basis);
  Add(device_seconds_[basis], report.own);
  Add(dense_device_seconds_[basis], report.dense);
  if (report.saved_usd > 0) saved_usd_[basis]->Increment(report.saved_usd);
  if (report.saved_usd < 0) lost_usd_[basis]->Increment(-report.saved_usd);
}

void Metrics::OnShadow(const ShadowResult& result) {
  shadow_samples_.Increment();
  if (result.own > absl::ZeroDuration()) {
    shadow_speedup_.Observe(absl::FDivDuration(result.dense, result.own));
  }
  if (result.compared_tokens == 0) return;
  shadow_logprob_delta_.Observe(result.logprob_abs_delta);
  Add(&shadow_compared_tokens_, result.compared_tokens);
  Add(&shadow_mismatches_, result.top1_mismatches);
}

void Metrics::OnShadowSkipped(ShadowSkip reason) {
  shadow_skipped_[static_cast<size_t>(reason)]->Increment();
}

// ------------------------------------------------------------------------------- models

void Metrics::OnModel(absl::string_view name, absl::string_view architecture,
                      absl::string_view compute_type) {
  families_
      .gauge(Metric::kModelInfo,
             {LabelValue(name), std::string(architecture), std::string(compute_type)})
      .Set(1);
}

}  // namespace quire::server
