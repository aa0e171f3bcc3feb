#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/report.h"

namespace quire::cli {
namespace {

v1::SummaryStrategy StrategyOf(const std::string& name) {
  if (name == "extractive") return v1::SUMMARY_STRATEGY_EXTRACTIVE;
  if (name == "abstractive") return v1::SUMMARY_STRATEGY_ABSTRACTIVE;
  return v1::SUMMARY_STRATEGY_AUTO;
}

v1::SummarizeRequest MakeRequest(const Session& session, const SummarizeFlags& flags,
                                 std::string text) {
  v1::SummarizeRequest request;
  request.set_model(session.flags().model);
  request.mutable_input()->set_text(std::move(text));
  request.set_strategy(StrategyOf(flags.strategy));
  request.set_question(flags.question);
  request.set_target_words(flags.words);
  *request.mutable_sampling() = flags.sampling.ToProto();
  *request.mutable_attention() = flags.attention.ToProto();
  request.set_priority(flags.priority);
  if (flags.max_tokens) request.set_max_new_tokens(*flags.max_tokens);
  return request;
}

std::string PlanLine(const v1::SummaryPlan& plan) {
  return absl::StrFormat("plan: %s, %s tokens in %d part(s), %d pass(es), %d level(s)",
                         Name(plan.strategy()), WithCommas(plan.document_tokens()),
                         plan.parts_size(), plan.passes(), plan.levels());
}

// Receives one summary's events.
class SummaryView {
 public:
  explicit SummaryView(const Session& session) : session_(session) {}

  absl::Status Receive(const v1::SummarizeResponse& event) {
    switch (event.event_case()) {
      case v1::SummarizeResponse::kPlan:
        plan_ = event.plan();
        session_.screen().Detail(PlanLine(plan_));
        return absl::OkStatus();
      case v1::SummarizeResponse::kProgress:
        session_.screen().Progress(event.progress());
        return absl::OkStatus();
      case v1::SummarizeResponse::kText:
        return ReceiveText(event.text());
      case v1::SummarizeResponse::kFinal:
        final_ = event.final();
        return absl::OkStatus();
      default:
        return absl::OkStatus();  // of a newer server
    }
  }

  // After the last event. `text`: the document, if its sources are to be shown.
  absl::Status Finish(const std::string& request_id, const std::string* text) {
    if (!final_) return MissingFinal();
    if (session_.flags().json) return session_.PrintJson(AsJson(), request_id);
    Screen& screen = session_.screen();
    if (absl::Status status = screen.EndLine(); !status.ok()) return status;
    if (text != nullptr) {
      if (absl::Status status = PrintSources(*text); !status.ok()) return status;
    }
    screen.Gap();
    NoteEnd(*final_, request_id, screen);
    return absl::OkStatus();
  }

 private:
  absl::Status ReceiveText(const v1::SummaryText& text) {
    sources_.insert(sources_.end(), text.sources().begin(), text.sources().end());
    if (!session_.flags().json) return session_.screen().PrintProse(text.text());
    summary_ += text.text();
    return absl::OkStatus();
  }

  absl::Status PrintSources(const std::string& text) {
    std::string lines = "\nSources, bytes of the text:\n";
    for (const v1::ByteSpan& source : sources_) {
      absl::StrAppend(&lines, "  ", source.begin(), "-", source.end(), "  ",
                      Quote(text, source), "\n");
    }
    return session_.screen().Print(lines);
  }

  Json AsJson() const {
    Json sources = Json::array(), parts = Json::array();
    for (const auto& source : sources_) sources.push_back(ToJson(source));
    for (const auto& part : plan_.parts()) parts.push_back(ToJson(part));
    Json json = {{"summary", summary_},
                 {"strategy", Name(plan_.strategy())},
                 {"document_tokens", plan_.document_tokens()},
                 {"parts", parts},
                 {"passes", plan_.passes()},
                 {"levels", plan_.levels()},
                 {"sources", sources},
                 {"finish_reason", Name(final_->finish_reason())},
                 {"model", final_->model()},
                 {"seed", final_->seed()},
                 {"usage", ToJson(final_->usage())},
                 {"timings", ToJson(final_->timings())}};
    if (final_->has_receipt()) json["receipt"] = ToJson(final_->receipt());
    return json;
  }

  const Session& session_;
  v1::SummaryPlan plan_;
  std::vector<v1::ByteSpan> sources_;
  std::string summary_;  // with --json
  std::optional<v1::SummarizeFinal> final_;
};

}  // namespace

absl::Status RunCommand(const Session& session, const SummarizeFlags& flags) {
  absl::StatusOr<std::string> text = session.ReadText(flags.file);
  if (!text.ok()) return text.status();
  std::string kept;
  if (flags.sources) kept = *text;
  auto stream = session.client().Summarize(MakeRequest(session, flags, *std::move(text)),
                                           session.NewCall());
  SummaryView view(session);
  const absl::Status status = stream.ForEach(
      [&](const v1::SummarizeResponse& event) { return view.Receive(event); });
  if (!status.ok()) return status;
  return view.Finish(stream.request_id(), flags.sources ? &kept : nullptr);
}

}  // namespace quire::cli
