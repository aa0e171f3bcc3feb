#include <optional>
#include <string>
#include <utility>

#include "client/cli/commands.h"
#include "client/cli/report.h"

namespace quire::cli {
namespace {

void SetChat(const GenerateFlags& flags, std::string text, v1::Chat& chat) {
  if (!flags.system.empty()) {
    v1::ChatMessage& system = *chat.add_messages();
    system.set_role("system");
    system.set_content(flags.system);
  }
  v1::ChatMessage& user = *chat.add_messages();
  user.set_role("user");
  user.set_content(std::move(text));
}

v1::GenerateRequest MakeRequest(const Session& session, const GenerateFlags& flags,
                                std::string text) {
  v1::GenerateRequest request;
  request.set_model(session.flags().model);
  if (flags.chat || !flags.system.empty()) {
    SetChat(flags, std::move(text), *request.mutable_input()->mutable_chat());
  } else {
    request.mutable_input()->set_text(std::move(text));
  }
  *request.mutable_sampling() = flags.sampling.ToProto();
  *request.mutable_attention() = flags.attention.ToProto();
  request.set_priority(flags.priority);
  if (flags.max_tokens) request.set_max_new_tokens(*flags.max_tokens);
  *request.mutable_stop() = {flags.stop.begin(), flags.stop.end()};
  *request.mutable_stop_token_ids() = {flags.stop_token_ids.begin(),
                                       flags.stop_token_ids.end()};
  request.set_ignore_eos(flags.ignore_eos);
  request.set_logprobs(flags.logprobs || flags.top_logprobs != 0);
  request.set_top_logprobs(flags.top_logprobs);
  return request;
}

// Receives one answer's events.
class AnswerView {
 public:
  explicit AnswerView(const Session& session) : session_(session) {}

  absl::Status Receive(const v1::GenerateResponse& event) {
    if (event.has_progress()) session_.screen().Progress(event.progress());
    if (event.has_final()) final_ = event.final();
    if (!event.has_text()) return absl::OkStatus();
    if (!session_.flags().json) return session_.screen().PrintProse(event.text().text());
    text_ += event.text().text();
    for (const auto& token : event.text().tokens()) tokens_.push_back(ToJson(token));
    return absl::OkStatus();
  }

  absl::Status Finish(const std::string& request_id) {
    if (!final_) return MissingFinal();
    if (session_.flags().json) return session_.PrintJson(AsJson(), request_id);
    Screen& screen = session_.screen();
    if (absl::Status status = screen.EndLine(); !status.ok()) return status;
    screen.Gap();
    NoteEnd(*final_, request_id, screen);
    return absl::OkStatus();
  }

 private:
  Json AsJson() const {
    Json json = {{"text", text_}};
    if (!tokens_.empty()) json["tokens"] = tokens_;
    json["finish_reason"] = Name(final_->finish_reason());
    if (!final_->stop().empty()) json["stop"] = final_->stop();
    json["model"] = final_->model();
    json["seed"] = final_->seed();
    json["usage"] = ToJson(final_->usage());
    json["timings"] = ToJson(final_->timings());
    if (final_->has_receipt()) json["receipt"] = ToJson(final_->receipt());
    return json;
  }

  const Session& session_;
  std::string text_;  // with --json, as are the tokens
  Json tokens_ = Json::array();
  std::optional<v1::GenerateFinal> final_;
};

}  // namespace

absl::Status RunCommand(const Session& session, const GenerateFlags& flags) {
  std::string text;
  if (flags.prompt) {
    text = *flags.prompt;
  } else {
    absl::StatusOr<std::string> read = session.ReadText(flags.file);
    if (!read.ok()) return read.status();
    text = *std::move(read);
  }
  auto stream = session.client().Generate(MakeRequest(session, flags, std::move(text)),
                                          session.NewCall());
  AnswerView view(session);
  const absl::Status status = stream.ForEach(
      [&](const v1::GenerateResponse& event) { return view.Receive(event); });
  if (!status.ok()) return status;
  return view.Finish(stream.request_id());
}

}  // namespace quire::cli
