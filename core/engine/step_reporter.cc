#include "core/engine/step_reporter.h"

#include <algorithm>
#include <utility>

namespace quire {
namespace {

int64_t RecomputedOf(const BatchRequest& request) {
  return std::visit([](const auto& s) { return s.recomputed_tokens(); },
                    request.sequence);
}

// Rows that the model's head is asked for.
int64_t HeadRowsOf(const StepItem& item) {
  const auto none = std::count(item.targets.begin(), item.targets.end(), kNoTarget);
  return (item.sample ? 1 : 0) + static_cast<int64_t>(item.targets.size()) - none;
}

RequestStage StageOf(const BatchRequest& request) {
  if (!request.started) return RequestStage::kQueue;
  return request.prefilled ? RequestStage::kDecode : RequestStage::kPrefill;
}

}  // namespace

void StepReporter::OnPlan(const ScheduleOptions& options, const Batch::Planned& planned) {
  End();
  if (observer_ == nullptr || planned.state.requests.empty()) return;
  observer_->OnPlan(options, planned.state, planned.plan);
}

void StepReporter::Begin(absl::Time now, absl::Duration elapsed, bool background) {
  End();
  open_ = true;
  now_ = now;
  report_ = StepReport{.elapsed = elapsed, .background = background};
  inter_token_.clear();
}

StepReporter::Before StepReporter::BeforeItem(const BatchRequest& request,
                                              const StepItem& item) {
  return {.usage = UsageOf(request.sequence),
          .recomputed = RecomputedOf(request),
          .prompt = !PromptComputed(request.sequence),
          .mode = item.attention.mode,
          .rows = static_cast<int64_t>(item.tokens.size()),
          .head_rows = HeadRowsOf(item)};
}

void StepReporter::AfterItem(BatchRequest& request, const Before& before,
                             const AttentionStats& attention, const ItemTime& time,
                             absl::Time now) {
  const Usage& after = UsageOf(request.sequence);
  const auto generated =
      static_cast<int32_t>(after.generated_tokens - before.usage.generated_tokens);
  ++report_.sequences;
  report_.rows += before.rows;
  report_.head_rows += before.head_rows;
  // What the prefix cache had is in the usage before the first step is.
  report_.prompt_tokens +=
      static_cast<int32_t>(after.prompt_tokens - before.usage.prompt_tokens);
  report_.generated_tokens += generated;
  report_.recomputed_tokens +=
      static_cast<int32_t>(RecomputedOf(request) - before.recomputed);
  const auto mode = static_cast<size_t>(before.mode);
  (before.prompt ? report_.prefill : report_.decode)[mode] += attention;
  (before.prompt ? report_.prefill_time : report_.decode_time)[mode] +=
      time.own + time.skipped;
  DeviceTime& device = request.device;
  device.skipped += time.skipped;
  (before.prompt ? device.prefill : device.decode) += time.own;
  (before.prompt ? device.dense_prefill : device.dense_decode) += time.dense;
  if (generated == 0) return;
  if (request.last_token) inter_token_.push_back(now - *request.last_token);
  request.last_token = now;
}

void StepReporter::End() {
  if (!std::exchange(open_, false)) return;
  ++totals_.steps;
  if (!report_.background) {
    totals_.prompt_tokens += report_.prompt_tokens;
    totals_.generated_tokens += report_.generated_tokens;
    totals_.prompt_rate.Add(now_, report_.prompt_tokens);
    totals_.generated_rate.Add(now_, report_.generated_tokens);
  }
  if (observer_ == nullptr) return;
  report_.inter_token = inter_token_;
  observer_->OnStep(report_);
}

void StepReporter::OnFinished(const BatchRequest& request, absl::StatusCode code,
                              const AttentionReceipt& receipt) {
  End();
  const Usage& usage = UsageOf(request.sequence);
  const bool background = request.background.has_value();
  if (!background) totals_.cached_tokens += usage.cached_tokens;
  if (observer_ == nullptr) return;
  const int64_t computed =
      usage.prompt_tokens - usage.cached_tokens + usage.generated_tokens;
  observer_->OnFinished({.code = code,
                         .stage = StageOf(request),
                         .started = request.started.has_value(),
                         .usage = usage,
                         .attention = receipt,
                         .wasted_tokens = code == absl::StatusCode::kOk ? 0 : computed,
                         .preemptions = request.preemptions,
                         .first_token_ratio = request.first_token_ratio,
                         .end_ratio = request.end_ratio,
                         .device = request.device,
                         .background = background,
                         .tenant = request.scheduling.tenant});
}

void StepReporter::OnWouldRefuse() const {
  if (observer_ != nullptr) observer_->OnWouldRefuse();
}

}  // namespace quire
