#include "client/cli/report.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"
#include "client/error_details.h"

namespace quire::cli {
namespace {

// " (1,234/s)", or nothing where there is nothing to divide.
std::string AtRate(int64_t tokens, double seconds) {
  if (tokens <= 0 || seconds <= 0) return "";
  return absl::StrCat(" (", Rate(static_cast<double>(tokens) / seconds), "/s)");
}

std::string Headline(const absl::Status& error, const GlobalFlags& flags) {
  const std::string message(error.message());
  switch (error.code()) {
    case absl::StatusCode::kUnavailable:
      return absl::StrCat("no service from ", flags.server, ": ", message);
    case absl::StatusCode::kDeadlineExceeded:
      return flags.timeout.empty()
                 ? absl::StrCat("out of time: ", message)
                 : absl::StrCat("not done within --timeout ", flags.timeout);
    default:
      return message.empty() ? absl::StatusCodeToString(error.code()) : message;
  }
}

}  // namespace

std::string Figures(const v1::Usage& usage, const v1::Timings& timings) {
  const int64_t read = usage.prompt_tokens() - usage.cached_tokens();
  std::string line = absl::StrCat("read ", WithCommas(usage.prompt_tokens()),
                                  " tokens in ", Seconds(timings.prefill_seconds()),
                                  AtRate(read, timings.prefill_seconds()));
  if (usage.cached_tokens() > 0) {
    absl::StrAppend(&line, ", ", WithCommas(usage.cached_tokens()), " of them cached");
  }
  if (usage.generated_tokens() > 0) {
    absl::StrAppend(&line, ", wrote ", WithCommas(usage.generated_tokens()), " in ",
                    Seconds(timings.decode_seconds()),
                    AtRate(usage.generated_tokens(), timings.decode_seconds()));
  }
  if (timings.has_time_to_first_token_seconds()) {
    absl::StrAppend(&line, ", first after ",
                    Seconds(timings.time_to_first_token_seconds()));
  }
  // Shorter waits are noise.
  if (timings.queue_seconds() >= 0.1) {
    absl::StrAppend(&line, ", waited ", Seconds(timings.queue_seconds()));
  }
  return absl::StrCat(line, ", total ", Seconds(timings.total_seconds()));
}

std::string CutNote(v1::FinishReason reason) {
  if (reason != v1::FINISH_REASON_LENGTH) return "";
  return "the answer was cut at its longest; --max-tokens allows more";
}

void ReportError(const absl::Status& error, const GlobalFlags& flags, Screen& screen) {
  const client::ErrorDetails details = client::GetErrorDetails(error);
  screen.Error(absl::StrCat("quire: ", Headline(error, flags)));
  for (const auto& violation : details.field_violations) {
    // Most messages name the field already.
    if (absl::StrContains(error.message(), violation.description)) continue;
    screen.Error(absl::StrCat("  ", violation.field, ": ", violation.description));
  }
  if (details.retry_delay) {
    screen.Error(absl::StrCat("  try again in ",
                              Seconds(absl::ToDoubleSeconds(*details.retry_delay))));
  }
  if (absl::IsUnavailable(error) && details.request_id.empty()) {
    screen.Error("  is a server running there? --server or QUIRE_SERVER names another");
  }
  if (!details.request_id.empty()) {
    screen.Error(absl::StrCat("  request id: ", details.request_id));
  }
}

}  // namespace quire::cli
