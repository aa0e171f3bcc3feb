#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

v1::CostTask TaskOf(const std::string& name) {
  if (name == "score") return v1::COST_TASK_SCORE;
  return name == "summarize" ? v1::COST_TASK_SUMMARIZE : v1::COST_TASK_GENERATE;
}

absl::StatusOr<v1::EstimateCostRequest> MakeRequest(const Session& session,
                                                    const CostFlags& flags) {
  v1::EstimateCostRequest request;
  request.set_model(session.flags().model);
  request.set_task(TaskOf(flags.task));
  if (flags.tokens) {
    request.set_prompt_tokens(*flags.tokens);
  } else {
    absl::StatusOr<std::string> text = session.ReadText(flags.file);
    if (!text.ok()) return text.status();
    request.mutable_input()->set_text(*std::move(text));
  }
  if (flags.max_tokens) request.set_max_new_tokens(*flags.max_tokens);
  *request.mutable_attention() = flags.attention.ToProto();
  request.set_priority(flags.priority);
  return request;
}

std::string Table(const v1::EstimateCostResponse& estimate) {
  const v1::CostEstimate& dense = estimate.dense();
  const v1::CostEstimate& asked = estimate.requested();
  std::string lines;
  const auto row = [&](const char* name, const std::string& left,
                       const std::string& right) {
    absl::StrAppend(&lines, absl::StrFormat("%-12s %12s  %12s\n", name, left, right));
  };
  row("", "dense", absl::AsciiStrToLower(Name(asked.mode())));
  row("work", Flops(dense.flops()), Flops(asked.flops()));
  row("  attention", Flops(dense.attention_flops()), Flops(asked.attention_flops()));
  row("  selection", Flops(dense.selection_flops()), Flops(asked.selection_flops()));
  row("first token", Seconds(dense.first_token_seconds()),
      Seconds(asked.first_token_seconds()));
  row("end", Seconds(dense.end_seconds()), Seconds(asked.end_seconds()));
  if (dense.has_money()) {
    row("USD", absl::StrFormat("%.6f", dense.money()),
        absl::StrFormat("%.6f", asked.money()));
  }
  return lines;
}

void NoteLoad(const v1::EstimateCostResponse& estimate, Screen& screen) {
  screen.Note(absl::StrCat(
      "reads ", WithCommas(estimate.prompt_tokens()), " tokens, writes at most ",
      WithCommas(estimate.max_new_tokens()), ", in ", WithCommas(estimate.passes()),
      estimate.passes() == 1 ? " pass" : " passes", "; times are of an idle server"));
  screen.Note(absl::StrCat("with the load of now: first token after ",
                           Seconds(estimate.first_token_seconds_now()), ", end after ",
                           Seconds(estimate.end_seconds_now())));
  if (!estimate.admissible()) {
    screen.Note(absl::StrCat("would be refused now: ", estimate.refusal()));
  }
}

}  // namespace

absl::Status RunCommand(const Session& session, const CostFlags& flags) {
  const absl::StatusOr<v1::EstimateCostRequest> request = MakeRequest(session, flags);
  if (!request.ok()) return request.status();
  const absl::StatusOr<v1::EstimateCostResponse> estimate =
      session.client().EstimateCost(*request, session.NewCall());
  if (!estimate.ok()) return estimate.status();
  if (session.flags().json) return session.PrintJson(ToJson(*estimate), "");
  const absl::Status status = session.screen().Print(Table(*estimate));
  if (status.ok()) NoteLoad(*estimate, session.screen());
  return status;
}

}  // namespace quire::cli
