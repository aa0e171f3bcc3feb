#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/flags.h"
#include "client/cli/session.h"
#include "quire/v1/inference.pb.h"

namespace quire::cli {

// One token of a scored text.
struct TokenRow {
  int64_t index = 0;
  int64_t offset = 0;  // of its first byte
  int32_t id = 0;
  float logprob = 0;  // NaN: none
  int32_t rank = 0;   // 0: none
  std::vector<v1::TokenLogprob> top;
};

// The rows of a block. kInternal: the server's lists do not fit together.
absl::StatusOr<std::vector<TokenRow>> RowsOf(const v1::TokenScores& scores,
                                             const ScoreFlags& flags);

// Receives one text's scores and prints them block by block, so that memory stays bounded
// however long the text is. One thread.
class ScoreView {
 public:
  // text: the document, which outlives the view.
  ScoreView(const Session& session, const ScoreFlags& flags, std::string_view text);

  absl::Status Receive(const v1::ScoreResponse& event);
  absl::Status Finish(const std::string& request_id);
  // Closes the JSON object that was begun, if one was.
  absl::Status Fail(const absl::Status& error);

 private:
  bool per_token() const;
  absl::Status ReceiveScores(const v1::TokenScores& scores);
  void ReceiveSentences(const v1::SentenceImportances& sentences);
  // A token's text ends where the next one begins, so each row waits for the next.
  std::string TakePending(int64_t end);
  std::string TableRow(const TokenRow& row, std::string_view text) const;
  std::string JsonRow(const TokenRow& row, std::string_view text) const;
  absl::Status FinishTable();
  std::string SentenceTable() const;
  Json FinalJson(const std::string& request_id) const;

  const Session& session_;
  const ScoreFlags& flags_;
  const std::string_view text_;
  std::optional<TokenRow> pending_;
  bool begun_ = false;  // the table's or the list's head is out
  bool first_row_ = true;
  std::optional<v1::ScoreFinal> final_;
  Json importance_ = Json::array();  // of the tokens, with --json
  // All in the text's order with --json, else the most important ones first.
  std::vector<v1::SentenceImportance> sentences_;
};

}  // namespace quire::cli
