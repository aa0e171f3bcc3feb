#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/model_cost.h"
#include "server/rpc/admission.h"
#include "server/rpc/attention.h"
#include "server/rpc/convert.h"
#include "server/rpc/handlers.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

constexpr int64_t kMaxPromptTokens = 1'000'000'000;
constexpr double kSecondsPerHour = 3600;

absl::StatusOr<v1::CostTask> TaskOf(const v1::EstimateCostRequest& request) {
  switch (request.task()) {
    case v1::COST_TASK_UNSPECIFIED:
      return v1::COST_TASK_GENERATE;
    case v1::COST_TASK_GENERATE:
    case v1::COST_TASK_SCORE:
    case v1::COST_TASK_SUMMARIZE:
      return request.task();
    default:
      break;
  }
  return InvalidField("task",
                      absl::StrCat("task is ", static_cast<int>(request.task()),
                                   "; it must be one of GENERATE, SCORE and SUMMARIZE"));
}

absl::StatusOr<int64_t> CountPrompt(const v1::EstimateCostRequest& request,
                                    v1::CostTask task, const ServedModel& model,
                                    const ServiceLimits& limits) {
  if (request.prompt_case() == v1::EstimateCostRequest::kPromptTokens) {
    QUIRE_RETURN_IF_ERROR(
        CheckRange("prompt_tokens", request.prompt_tokens(), 1, kMaxPromptTokens));
    return request.prompt_tokens();
  }
  if (request.input().has_chat() && task != v1::COST_TASK_GENERATE) {
    return InvalidField("input.chat",
                        "input.chat is for Generate; it must be text or token_ids");
  }
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                         PromptTokens(model, request.input(), limits));
  return static_cast<int64_t>(tokens.size());
}

absl::StatusOr<std::vector<PassShape>> SummaryPassesOf(
    const v1::EstimateCostRequest& request, const ServedModel& model, int64_t tokens) {
  SummaryOptions options;
  if (request.has_max_new_tokens()) {
    QUIRE_RETURN_IF_ERROR(CheckRange("max_new_tokens", request.max_new_tokens(), 1,
                                     model.text.context_tokens() - 1));
    options.max_new_tokens = request.max_new_tokens();
  }
  const auto passes = EstimateSummary(model.text, tokens, options);
  QUIRE_RETURN_IF_ERROR(WithFieldOfMessage(passes.status()));
  return PassesOf(*passes);
}

// What the call would make of a prompt of so many tokens.
absl::StatusOr<std::vector<PassShape>> PlanPasses(const v1::EstimateCostRequest& request,
                                                  v1::CostTask task,
                                                  const ServedModel& model,
                                                  int64_t tokens) {
  if (task == v1::COST_TASK_SUMMARIZE) return SummaryPassesOf(request, model, tokens);
  if (task == v1::COST_TASK_SCORE) {
    if (request.has_max_new_tokens()) {
      return InvalidField("max_new_tokens",
                          absl::StrCat("max_new_tokens is ", request.max_new_tokens(),
                                       "; it must not be set when the task is SCORE"));
    }
    return PassesOf(PlanScoreWindows(tokens, model.text.context_tokens(), 0));
  }
  const std::optional<int32_t> wanted = request.has_max_new_tokens()
                                            ? std::optional(request.max_new_tokens())
                                            : std::nullopt;
  QUIRE_ASSIGN_OR_RETURN(const int32_t new_tokens, MaxNewTokens(wanted, model, tokens));
  return std::vector<PassShape>{{.prompt_tokens = tokens, .new_tokens = new_tokens}};
}

// Of a call whose passes run one after the other: on an idle engine, and what is added
// with the load of now, when the first pass waits.
struct CallTimes {
  absl::Duration first_token;
  absl::Duration end;
  absl::Duration first_token_wait;
  absl::Duration end_wait;
};

// A call's cost with one kind of attention.
class Estimator {
 public:
  Estimator(const ServedModel& model, absl::Span<const PassShape> passes,
            v1::CostTask task, const Scheduling& scheduling, const CallContext& call)
      : model_(model),
        passes_(passes),
        task_(task),
        scheduling_(scheduling),
        call_(call) {}

  CallTimes Times(const AttentionOptions& attention) const {
    // A summary's text comes with the last pass.
    const bool answer_is_last = task_ == v1::COST_TASK_SUMMARIZE;
    CallTimes times;
    for (size_t i = 0; i < passes_.size(); ++i) {
      const RequestEstimate pass = model_.text.engine->Estimate(
          ShapeOf(passes_.subspan(i, 1), attention, scheduling_, call_.deadline));
      const absl::Duration before = times.end + pass.end_alone * (passes_[i].count - 1);
      if (answer_is_last) times.first_token = before + pass.first_token_alone;
      if (i == 0) {
        if (!answer_is_last) times.first_token = pass.first_token_alone;
        times.first_token_wait = pass.first_token - pass.first_token_alone;
        times.end_wait = pass.end - pass.end_alone;
      }
      times.end = before + pass.end_alone;
    }
    if (answer_is_last && CountPasses(passes_) > 1) {
      times.first_token_wait = times.end_wait;
    }
    return times;
  }

  v1::CostEstimate Cost(const AttentionOptions& attention) const {
    const ModelFlops flops = CountFlops(model_.text.config, attention, passes_);
    const CallTimes times = Times(attention);
    v1::CostEstimate cost;
    cost.set_mode(ToProto(attention.mode));
    cost.set_flops(flops.total);
    cost.set_attention_flops(flops.attention);
    cost.set_selection_flops(flops.selection);
    cost.set_first_token_seconds(absl::ToDoubleSeconds(times.first_token));
    cost.set_end_seconds(absl::ToDoubleSeconds(times.end));
    if (call_.terms.price_per_device_hour > 0) {
      cost.set_money(cost.end_seconds() / kSecondsPerHour *
                     call_.terms.price_per_device_hour);
    }
    return cost;
  }

 private:
  const ServedModel& model_;
  absl::Span<const PassShape> passes_;
  const v1::CostTask task_;
  const Scheduling& scheduling_;
  const CallContext& call_;
};

void SetAdmission(const ServedModel& model, absl::Span<const PassShape> passes,
                  const AttentionOptions& attention, const Scheduling& scheduling,
                  const CallContext& call, v1::EstimateCostResponse& response) {
  absl::Status status;
  if (!passes.empty()) {
    status = model.text.engine->CheckAdmission(
        ShapeOf(passes, attention, scheduling, call.deadline));
  }
  response.set_admissible(status.ok());
  response.set_refusal(std::string(status.message()));
}

}  // namespace

absl::Status HandleEstimateCost(const v1::EstimateCostRequest& request,
                                v1::EstimateCostResponse& response, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  QUIRE_ASSIGN_OR_RETURN(const v1::CostTask task, TaskOf(request));
  QUIRE_ASSIGN_OR_RETURN(const Scheduling scheduling,
                         SchedulingOf(call, "priority", request.priority()));
  QUIRE_ASSIGN_OR_RETURN(
      const AttentionOptions attention,
      MergeAttention(call.AttentionDefaults(*model), request.attention(), "attention"));
  QUIRE_ASSIGN_OR_RETURN(const int64_t tokens,
                         CountPrompt(request, task, *model, call.limits));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<PassShape> passes,
                         PlanPasses(request, task, *model, tokens));
  const Estimator estimator(*model, passes, task, scheduling, call);
  const CallTimes times = estimator.Times(attention);
  response.set_model(call.model);
  response.set_prompt_tokens(PromptTokensOf(passes));
  response.set_max_new_tokens(NewTokensOf(passes));
  response.set_passes(static_cast<int32_t>(CountPasses(passes)));
  *response.mutable_dense() = estimator.Cost({.mode = AttentionMode::kDense});
  *response.mutable_requested() = estimator.Cost(attention);
  response.set_first_token_seconds_now(
      absl::ToDoubleSeconds(times.first_token + times.first_token_wait));
  response.set_end_seconds_now(absl::ToDoubleSeconds(times.end + times.end_wait));
  response.set_price_per_device_hour(call.terms.price_per_device_hour);
  SetAdmission(*model, passes, attention, scheduling, call, response);
  return absl::OkStatus();
}

}  // namespace quire::server
