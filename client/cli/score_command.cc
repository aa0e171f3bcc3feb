#include <string>
#include <utility>
#include <vector>

#include "client/cli/commands.h"
#include "client/cli/score_view.h"
#include "client/cli/spans_file.h"

namespace quire::cli {
namespace {

absl::Status AddSpans(const Session& session, const std::string& path,
                      v1::ScoreOptions& options) {
  if (path.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> lines = session.ReadText(path);
  if (!lines.ok()) return lines.status();
  const absl::StatusOr<std::vector<v1::ByteSpan>> spans = ParseSpans(*lines);
  if (!spans.ok()) return spans.status();
  *options.mutable_spans() = {spans->begin(), spans->end()};
  return absl::OkStatus();
}

}  // namespace

absl::Status RunCommand(const Session& session, const ScoreFlags& flags) {
  const absl::StatusOr<std::string> text = session.ReadText(flags.file);
  if (!text.ok()) return text.status();
  v1::ScoreRequest request;
  request.mutable_input()->set_text(*text);
  v1::ScoreOptions& options = *request.mutable_options();
  options.set_model(session.flags().model);
  options.set_ranks(flags.ranks);
  options.set_top_logprobs(flags.top);
  *options.mutable_attention() = flags.attention.ToProto();
  options.set_priority(flags.priority);
  options.set_sentence_importance(flags.importance);
  options.set_importance(flags.importance && session.flags().json);
  if (flags.overlap) options.set_overlap_tokens(*flags.overlap);
  if (absl::Status status = AddSpans(session, flags.spans_file, options); !status.ok()) {
    return status;
  }
  auto stream = session.client().Score(std::move(request), session.NewCall());
  ScoreView view(session, flags, *text);
  absl::Status status =
      stream.ForEach([&](const v1::ScoreResponse& event) { return view.Receive(event); });
  if (status.ok()) status = view.Finish(stream.request_id());
  // The first error is the one that counts.
  if (!status.ok()) view.Fail(status).IgnoreError();
  return status;
}

}  // namespace quire::cli
