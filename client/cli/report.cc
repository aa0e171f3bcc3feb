#include "client/cli/report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"
#include "client/cli/json.h"
#include "client/cli/utf8.h"
#include "client/error_details.h"

namespace quire::cli {
namespace {

constexpr size_t kQuoteBytes = 60;

// " (1,234/s)", or nothing where there is nothing to divide.
std::string AtRate(int64_t tokens, double seconds) {
  if (tokens <= 0 || seconds <= 0) return "";
  return absl::StrCat(" (", Rate(static_cast<double>(tokens) / seconds), "/s)");
}

// "refined"; what a newer server may say is "sparse".
std::string ModeWord(v1::AttentionMode mode) {
  const std::string name = Name(mode);
  return name == "UNKNOWN" ? "sparse" : absl::AsciiStrToLower(name);
}

std::string WorkAgainstDense(const v1::Receipt& receipt) {
  const double executed = 1 - receipt.saved_macs_share();
  if (executed <= 0) return "no multiply-adds";
  return executed <= 1 ? absl::StrFormat("%.1fx fewer multiply-adds", 1 / executed)
                       : absl::StrFormat("%.1fx more multiply-adds", executed);
}

// "$0.0012 saved".
std::string Usd(double saved) {
  return absl::StrFormat("$%.4g %s", std::abs(saved), saved < 0 ? "lost" : "saved");
}

std::string ErrorOf(const v1::Receipt& receipt) {
  if (receipt.has_audited_error()) {
    return absl::StrCat(", error ", Percent(receipt.audited_error()), " (audited)");
  }
  return absl::StrCat(", expected error ", Percent(receipt.tail_risk()));
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

std::string ReceiptLines(const v1::Receipt& receipt) {
  if (!receipt.has_density()) return "";
  std::string lines = absl::StrCat("attention: ", ModeWord(receipt.mode()));
  if (receipt.has_coverage()) {
    absl::StrAppend(&lines, ", ", Percent(receipt.density()), " of the keys read, ",
                    WorkAgainstDense(receipt), ErrorOf(receipt));
  }
  if (receipt.has_coverage() && receipt.device_seconds() > 0) {
    absl::StrAppend(&lines, ", ", Seconds(receipt.device_seconds()),
                    " of the device (modelled for dense: ",
                    Seconds(receipt.modelled_dense_device_seconds()), ")");
  }
  if (receipt.has_coverage() && receipt.has_modelled_savings_usd()) {
    absl::StrAppend(&lines, ", ", Usd(receipt.modelled_savings_usd()), " (modelled)");
  }
  if (receipt.kv_bytes_dropped() > 0) {
    absl::StrAppend(&lines, ", gave back ", Bytes(receipt.kv_bytes_dropped()),
                    " of keys and values");
  }
  if (!receipt.note().empty()) absl::StrAppend(&lines, "\n  ", receipt.note());
  return lines;
}

void NoteReceipt(const v1::Receipt& receipt, Screen& screen) {
  const std::string lines = ReceiptLines(receipt);
  if (lines.empty()) return;
  const bool usual = receipt.mode() == v1::ATTENTION_MODE_AUTO && !receipt.has_coverage();
  usual ? screen.Detail(lines) : screen.Note(lines);
}

std::string Quote(std::string_view text, const v1::ByteSpan& span) {
  const auto size = static_cast<int64_t>(text.size());
  const int64_t begin = std::clamp<int64_t>(span.begin(), 0, size);
  const int64_t end = std::clamp<int64_t>(span.end(), begin, size);
  std::string_view rest = text.substr(begin, end - begin);
  std::string quote;
  while (!rest.empty() && quote.size() < kQuoteBytes) {
    const size_t character = std::max<size_t>(Utf8CharacterSize(rest), 1);
    quote += rest.substr(0, character);
    rest.remove_prefix(character);
  }
  std::replace(quote.begin(), quote.end(), '\n', ' ');
  return rest.empty() ? quote : quote + "...";
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
