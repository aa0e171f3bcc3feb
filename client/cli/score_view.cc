#include "client/cli/score_view.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/report.h"
#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

// With --importance and without --json.
constexpr size_t kShownSentences = 10;

std::string PerToken(double logprob, int64_t tokens) {
  return tokens > 0 ? absl::StrFormat("%.4f", logprob / static_cast<double>(tokens))
                    : "-";
}

std::string Totals(const v1::ScoreFinal& final) {
  std::string lines = absl::StrCat(
      "tokens scored  ", WithCommas(final.scored_tokens()), "\nlogprob        ",
      absl::StrFormat("%.4f", final.logprob()), "\nper token      ",
      PerToken(final.logprob(), final.scored_tokens()), "\nperplexity     ",
      final.scored_tokens() > 0 ? absl::StrFormat("%.4f", final.perplexity()) : "-",
      "\n");
  if (final.windows() > 1) {
    absl::StrAppend(&lines, "windows        ", final.windows(), ", each with ",
                    WithCommas(final.overlap_tokens()), " tokens of the one before\n");
  }
  return lines;
}

std::string SpanTable(const v1::ScoreFinal& final) {
  if (final.spans_size() == 0) return "";
  std::string lines = absl::StrFormat("\n%-22s %8s %14s %10s\n", "span", "tokens",
                                      "logprob", "per token");
  for (const v1::SpanScore& score : final.spans()) {
    const std::string span = absl::StrCat(score.span().begin(), "-", score.span().end());
    absl::StrAppend(&lines, absl::StrFormat("%-22s %8d %14.4f %10s\n", span,
                                            score.tokens(), score.logprob(),
                                            PerToken(score.logprob(), score.tokens())));
  }
  return lines;
}

// What closes {"tokens":[...: the other keys of the object.
std::string Closing(const Json& rest) { return absl::StrCat("],", Dump(rest).substr(1)); }

std::string Visible(std::string_view text) {
  const std::string bytes(text);
  return FirstInvalidUtf8(text) ? absl::CHexEscape(bytes)
                                : absl::Utf8SafeCHexEscape(bytes);
}

}  // namespace

absl::StatusOr<std::vector<TokenRow>> RowsOf(const v1::TokenScores& scores,
                                             const ScoreFlags& flags) {
  const int count = scores.token_ids_size();
  if (scores.logprobs_size() != count || scores.byte_offsets_size() != count ||
      (flags.ranks && scores.ranks_size() != count)) {
    return absl::InternalError(absl::StrFormat(
        "the server sent %d ids with %d logprobs, %d offsets and %d ranks", count,
        scores.logprobs_size(), scores.byte_offsets_size(), scores.ranks_size()));
  }
  std::vector<TokenRow> rows(count);
  auto top = scores.top().begin();
  for (int i = 0; i < count; ++i) {
    rows[i] = {scores.first_token() + i,
               scores.byte_offsets(i),
               scores.token_ids(i),
               scores.logprobs(i),
               flags.ranks ? scores.ranks(i) : 0,
               {}};
    if (std::isnan(scores.logprobs(i))) continue;
    for (int k = 0; k < flags.top && top != scores.top().end(); ++k) {
      rows[i].top.push_back(*top++);
    }
  }
  return rows;
}

ScoreView::ScoreView(const Session& session, const ScoreFlags& flags,
                     std::string_view text)
    : session_(session), flags_(flags), text_(text) {}

bool ScoreView::per_token() const {
  return flags_.per_token || flags_.ranks || flags_.top != 0;
}

absl::Status ScoreView::Receive(const v1::ScoreResponse& event) {
  if (event.has_progress()) session_.screen().Progress(event.progress());
  if (event.has_final()) final_ = event.final();
  for (const float value : event.importance().importance()) {
    importance_.push_back(Number(value));
  }
  if (event.has_sentences()) ReceiveSentences(event.sentences());
  if (event.has_scores() && per_token()) return ReceiveScores(event.scores());
  return absl::OkStatus();
}

void ScoreView::ReceiveSentences(const v1::SentenceImportances& sentences) {
  sentences_.insert(sentences_.end(), sentences.sentences().begin(),
                    sentences.sentences().end());
  if (session_.flags().json) return;
  std::stable_sort(
      sentences_.begin(), sentences_.end(),
      [](const auto& a, const auto& b) { return a.importance() > b.importance(); });
  if (sentences_.size() > kShownSentences) sentences_.resize(kShownSentences);
}

absl::Status ScoreView::ReceiveScores(const v1::TokenScores& scores) {
  absl::StatusOr<std::vector<TokenRow>> rows = RowsOf(scores, flags_);
  if (!rows.ok()) return rows.status();
  std::string lines;
  if (!std::exchange(begun_, true)) {
    lines = session_.flags().json
                ? "{\"tokens\":["
                : absl::StrCat("index\toffset\tid\tlogprob", flags_.ranks ? "\trank" : "",
                               flags_.top != 0 ? "\ttop" : "", "\ttext\n");
  }
  for (TokenRow& row : *rows) {
    absl::StrAppend(&lines, TakePending(row.offset));
    pending_ = std::move(row);
  }
  return session_.screen().Print(lines);
}

std::string ScoreView::TakePending(int64_t end) {
  if (!pending_) return "";
  const int64_t size = static_cast<int64_t>(text_.size());
  const int64_t begin = std::clamp<int64_t>(pending_->offset, 0, size);
  const std::string_view text =
      text_.substr(begin, std::clamp<int64_t>(end, begin, size) - begin);
  std::string line;
  if (session_.flags().json) {
    line = absl::StrCat(first_row_ ? "\n" : ",\n", JsonRow(*pending_, text));
  } else {
    line = TableRow(*pending_, text);
  }
  first_row_ = false;
  pending_.reset();
  return line;
}

std::string ScoreView::TableRow(const TokenRow& row, std::string_view text) const {
  std::string line =
      absl::StrCat(row.index, "\t", row.offset, "\t", row.id, "\t",
                   std::isnan(row.logprob) ? "" : absl::StrCat(row.logprob));
  if (flags_.ranks) absl::StrAppend(&line, "\t", row.rank);
  if (flags_.top != 0) {
    std::string_view separator = "\t";
    for (const v1::TokenLogprob& token : row.top) {
      absl::StrAppend(&line, std::string(std::exchange(separator, " ")), token.token_id(),
                      ":", token.logprob());
    }
    if (row.top.empty()) line += '\t';
  }
  return absl::StrCat(line, "\t", Visible(text), "\n");
}

std::string ScoreView::JsonRow(const TokenRow& row, std::string_view text) const {
  Json json = {{"index", row.index},
               {"offset", row.offset},
               {"id", row.id},
               {"logprob", Number(row.logprob)}};
  if (flags_.ranks) json["rank"] = row.rank;
  if (flags_.top != 0) {
    Json& top = json["top"] = Json::array();
    for (const v1::TokenLogprob& token : row.top) top.push_back(ToJson(token));
  }
  json["text"] = std::string(text);
  std::string line = Dump(json);
  line.pop_back();
  return line;
}

absl::Status ScoreView::Finish(const std::string& request_id) {
  if (!final_) return MissingFinal();
  const std::string last = TakePending(static_cast<int64_t>(text_.size()));
  if (!session_.flags().json) {
    const absl::Status status = session_.screen().Print(last);
    return status.ok() ? FinishTable() : status;
  }
  const Json rest = FinalJson(request_id);
  return session_.screen().Print(begun_ ? absl::StrCat(last, "\n", Closing(rest))
                                        : Dump(rest));
}

Json ScoreView::FinalJson(const std::string& request_id) const {
  const v1::ScoreFinal& final = *final_;
  Json json = {{"logprob", final.logprob()},
               {"scored_tokens", final.scored_tokens()},
               {"perplexity", final.perplexity()}};
  if (final.spans_size() > 0) {
    Json& spans = json["spans"] = Json::array();
    for (const v1::SpanScore& score : final.spans()) spans.push_back(ToJson(score));
  }
  if (flags_.importance) {
    json["importance"] = importance_;
    Json& sentences = json["sentences"] = Json::array();
    for (const v1::SentenceImportance& sentence : sentences_) {
      Json& entry = sentences.emplace_back(ToJson(sentence.span()));
      entry["importance"] = Number(sentence.importance());
    }
  }
  json["windows"] = final.windows();
  json["overlap_tokens"] = final.overlap_tokens();
  json["model"] = final.model();
  json["usage"] = ToJson(final.usage());
  json["timings"] = ToJson(final.timings());
  if (final.has_receipt()) json["receipt"] = ToJson(final.receipt());
  if (!request_id.empty()) json["request_id"] = request_id;
  return json;
}

std::string ScoreView::SentenceTable() const {
  if (sentences_.empty()) return "";
  std::string lines = "\nimportance  sentence, bytes of the text\n";
  for (const v1::SentenceImportance& sentence : sentences_) {
    const v1::ByteSpan& span = sentence.span();
    absl::StrAppend(&lines,
                    absl::StrFormat("%10.2f  %d-%d  %s\n", sentence.importance(),
                                    span.begin(), span.end(), Quote(text_, span)));
  }
  return lines;
}

absl::Status ScoreView::FinishTable() {
  Screen& screen = session_.screen();
  std::string totals = absl::StrCat(Totals(*final_), SpanTable(*final_), SentenceTable());
  if (per_token()) {
    // Standard output holds one table and nothing else.
    totals.pop_back();
    screen.Note(totals);
  } else if (absl::Status status = screen.Print(totals); !status.ok()) {
    return status;
  }
  screen.Note(Figures(final_->usage(), final_->timings()));
  NoteReceipt(final_->receipt(), screen);
  return absl::OkStatus();
}

absl::Status ScoreView::Fail(const absl::Status& error) {
  if (!begun_ || !session_.flags().json) return absl::OkStatus();
  const std::string last = TakePending(static_cast<int64_t>(text_.size()));
  return session_.screen().Print(
      absl::StrCat(last, "\n", Closing({{"error", ErrorToJson(error)}})));
}

}  // namespace quire::cli
