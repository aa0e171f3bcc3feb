#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/summarize/summarizer.h"
#include "core/summarize/summary_estimate.h"
#include "server/rpc/admission.h"
#include "server/rpc/attention.h"
#include "server/rpc/convert.h"
#include "server/rpc/handlers.h"
#include "server/rpc/progress.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

v1::SummaryStrategy ToProto(SummaryStrategy strategy) {
  switch (strategy) {
    case SummaryStrategy::kAuto:
      return v1::SUMMARY_STRATEGY_AUTO;
    case SummaryStrategy::kExtractive:
      return v1::SUMMARY_STRATEGY_EXTRACTIVE;
    case SummaryStrategy::kAbstractive:
      return v1::SUMMARY_STRATEGY_ABSTRACTIVE;
  }
  return v1::SUMMARY_STRATEGY_UNSPECIFIED;
}

v1::Phase ToProto(SummaryPhase phase) {
  switch (phase) {
    case SummaryPhase::kQueued:
      return v1::PHASE_QUEUED;
    case SummaryPhase::kPrefill:
      return v1::PHASE_PREFILL;
    case SummaryPhase::kDecode:
      return v1::PHASE_DECODE;
  }
  return v1::PHASE_UNSPECIFIED;
}

CallStage StageOf(SummaryPhase phase) {
  switch (phase) {
    case SummaryPhase::kQueued:
      return CallStage::kQueue;
    case SummaryPhase::kPrefill:
      return CallStage::kPrefill;
    case SummaryPhase::kDecode:
      break;
  }
  return CallStage::kDecode;
}

// A summary's events, from the core's to the protocol's.
class Observer final : public SummaryObserver {
 public:
  Observer(EventWriter<v1::SummarizeResponse>& events, CallContext& call)
      : events_(events), call_(call), throttle_(*call.clock) {}

  absl::Status OnPlan(const SummaryPlan& plan) override {
    v1::SummarizeResponse response;
    v1::SummaryPlan& out = *response.mutable_plan();
    out.set_strategy(ToProto(plan.strategy));
    out.set_document_tokens(plan.document_tokens);
    for (const ByteSpan& part : plan.parts) *out.add_parts() = server::ToProto(part);
    out.set_passes(plan.passes);
    out.set_levels(plan.levels);
    return events_.Write(response);
  }

  absl::Status OnProgress(const SummaryProgress& progress) override {
    call_.stage = StageOf(progress.phase);
    if (progress.phase != SummaryPhase::kQueued) {
      const bool decode = progress.phase == SummaryPhase::kDecode;
      call_.OnProgress(decode ? TracePhase::kDecode : TracePhase::kPrefill, progress.pass,
                       progress.done_tokens, progress.total_tokens);
    }
    const bool last = progress.done_tokens >= progress.total_tokens;
    if (!throttle_.ShouldSend(ToProto(progress.phase), progress.pass, last)) {
      return absl::OkStatus();
    }
    v1::SummarizeResponse response;
    v1::Progress& out = *response.mutable_progress();
    out.set_phase(ToProto(progress.phase));
    out.set_done_tokens(progress.done_tokens);
    out.set_total_tokens(progress.total_tokens);
    out.set_pass(progress.pass);
    out.set_passes(progress.passes);
    if (progress.eta.has_value())
      out.set_eta_seconds(absl::ToDoubleSeconds(*progress.eta));
    return events_.Write(response);
  }

  absl::Status OnText(std::string_view text,
                      const std::vector<ByteSpan>& sources) override {
    if (text.empty() && sources.empty()) return absl::OkStatus();
    if (!text.empty()) call_.OnFirstToken();
    v1::SummarizeResponse response;
    v1::SummaryText& out = *response.mutable_text();
    out.set_text(std::string(text));
    for (const ByteSpan& source : sources) *out.add_sources() = server::ToProto(source);
    return events_.Write(response);
  }

 private:
  EventWriter<v1::SummarizeResponse>& events_;
  CallContext& call_;
  ProgressThrottle throttle_;
};

absl::StatusOr<SummaryStrategy> FromProto(v1::SummaryStrategy strategy) {
  switch (strategy) {
    case v1::SUMMARY_STRATEGY_UNSPECIFIED:
    case v1::SUMMARY_STRATEGY_AUTO:
      return SummaryStrategy::kAuto;
    case v1::SUMMARY_STRATEGY_EXTRACTIVE:
      return SummaryStrategy::kExtractive;
    case v1::SUMMARY_STRATEGY_ABSTRACTIVE:
      return SummaryStrategy::kAbstractive;
    default:
      break;
  }
  return InvalidField(
      "strategy", absl::StrCat("strategy is ", static_cast<int>(strategy),
                               "; it must be one of AUTO, EXTRACTIVE and ABSTRACTIVE"));
}

absl::StatusOr<std::string> DocumentText(const ServedModel& model, const v1::Input& input,
                                         const ServiceLimits& limits) {
  switch (input.source_case()) {
    case v1::Input::kText:
      QUIRE_RETURN_IF_ERROR(CheckText("input.text", input.text(), limits.max_text_bytes));
      return input.text();
    case v1::Input::kTokenIds: {
      const auto& ids = input.token_ids().ids();
      QUIRE_RETURN_IF_ERROR(CheckTokenIds("input.token_ids.ids", ids, MaxTokenIds(limits),
                                          model.text.tokenizer.vocab_size()));
      QUIRE_ASSIGN_OR_RETURN(std::string text, model.text.tokenizer.Decode(ids, true));
      if (!text.empty()) return text;
      return InvalidField(
          "input.token_ids.ids",
          "input.token_ids.ids holds special tokens only; it must hold text");
    }
    case v1::Input::kChat:
      return InvalidField("input.chat",
                          "input.chat is for Generate; it must be text or token_ids");
    case v1::Input::SOURCE_NOT_SET:
      break;
  }
  return InvalidField("input", "input is not set; it must hold text or token_ids");
}

absl::StatusOr<SummaryOptions> ToOptions(const v1::SummarizeRequest& request,
                                         const ServedModel& model, CallContext& call) {
  SummaryOptions options;
  QUIRE_ASSIGN_OR_RETURN(options.strategy, FromProto(request.strategy()));
  options.question = request.question();
  options.target_words = request.target_words();
  const SamplingParams& defaults = model.text.prompts.has_value()
                                       ? model.text.prompts->sampling()
                                       : model.text.defaults.sampling;
  QUIRE_ASSIGN_OR_RETURN(options.sampling,
                         MergeSampling(defaults, request.sampling(), call));
  if (request.has_max_new_tokens()) {
    QUIRE_RETURN_IF_ERROR(CheckRange("max_new_tokens", request.max_new_tokens(), 1,
                                     model.text.context_tokens() - 1));
    options.max_new_tokens = request.max_new_tokens();
  }
  QUIRE_ASSIGN_OR_RETURN(
      options.attention,
      MergeAttention(call.AttentionDefaults(model), request.attention(), "attention"));
  QUIRE_ASSIGN_OR_RETURN(options.scheduling,
                         SchedulingOf(call, "priority", request.priority()));
  options.deadline = call.deadline;
  options.text_interval = [&call] { return call.TextInterval(); };
  QUIRE_RETURN_IF_ERROR(WithFieldOfMessage(options.Validate()));
  return options;
}

// Before the document is tokenised.
absl::Status CheckRoom(const ServedModel& model, const std::string& text,
                       const SummaryOptions& options, CallContext& call) {
  const auto estimate = EstimateSummary(model.text, LeastTokens(text), options);
  QUIRE_RETURN_IF_ERROR(WithFieldOfMessage(estimate.status()));
  return CheckAdmission(*model.text.engine, PassesOf(*estimate), options.attention,
                        options.scheduling, call);
}

}  // namespace

absl::Status HandleSummarize(const v1::SummarizeRequest& request,
                             EventWriter<v1::SummarizeResponse>& events,
                             CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  QUIRE_ASSIGN_OR_RETURN(const SummaryOptions options, ToOptions(request, *model, call));
  QUIRE_ASSIGN_OR_RETURN(const std::string text,
                         DocumentText(*model, request.input(), call.limits));
  QUIRE_RETURN_IF_ERROR(CheckRoom(*model, text, options, call));
  Observer observer(events, call);
  const absl::StatusOr<SummaryResult> result =
      Summarize(model->text, text, options, *call.clock, call.cancellation, observer);
  QUIRE_RETURN_IF_ERROR(
      ToldAsRefusal(WithFieldOfMessage(result.status()), *model->text.engine, call));
  call.usage = result->usage;
  call.timings = result->timings;
  call.attention = result->attention;
  call.device = result->device;
  call.head_columns = result->head_columns;

  v1::SummarizeResponse response;
  v1::SummarizeFinal& final = *response.mutable_final();
  final.set_finish_reason(result->finish_reason == FinishReason::kLength
                              ? v1::FINISH_REASON_LENGTH
                              : v1::FINISH_REASON_EOS);
  *final.mutable_usage() = server::ToProto(call.usage);
  *final.mutable_timings() = server::ToProto(call.timings, call);
  final.set_model(call.model);
  final.set_seed(options.sampling->seed);
  *final.mutable_receipt() =
      server::ToProto(result->attention, options.attention, result->device,
                      call.terms.price_per_device_hour);
  return events.Write(response);
}

}  // namespace quire::server
