#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

absl::Status CountTokens(const Session& session, std::string text) {
  v1::CountTokensRequest request;
  request.set_model(session.flags().model);
  request.mutable_input()->set_text(std::move(text));
  const auto count = session.client().CountTokens(request, session.NewCall());
  if (!count.ok()) return count.status();
  if (session.flags().json) {
    return session.PrintJson(
        {{"tokens", count->tokens()}, {"context_tokens", count->context_tokens()}}, "");
  }
  if (absl::Status status = session.screen().Print(absl::StrCat(count->tokens(), "\n"));
      !status.ok()) {
    return status;
  }
  if (count->context_tokens() > 0) {
    session.screen().Note(absl::StrFormat(
        "%.1f %% of the model's %s", 100.0 * count->tokens() / count->context_tokens(),
        WithCommas(count->context_tokens())));
  }
  return absl::OkStatus();
}

absl::Status ListIds(const Session& session, const TokensFlags& flags, std::string text) {
  v1::TokenizeRequest request;
  request.set_model(session.flags().model);
  request.set_text(std::move(text));
  request.set_add_special_tokens(flags.add_special);
  request.set_parse_special_tokens(flags.parse_special);
  const auto tokens = session.client().Tokenize(request, session.NewCall());
  if (!tokens.ok()) return tokens.status();
  if (!session.flags().json) {
    return session.screen().Print(
        absl::StrCat(absl::StrJoin(tokens->token_ids(), " "), "\n"));
  }
  Json spans = Json::array();
  for (const auto& span : tokens->spans()) spans.push_back(ToJson(span));
  const std::vector<int32_t> ids(tokens->token_ids().begin(), tokens->token_ids().end());
  return session.PrintJson({{"token_ids", ids}, {"spans", spans}}, "");
}

absl::Status ParseIds(const std::string& text, v1::DetokenizeRequest& request) {
  const std::vector<std::string> words =
      absl::StrSplit(text, absl::ByAnyChar(" ,\t\r\n[]"), absl::SkipEmpty());
  for (const std::string& word : words) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "\"%s\" is not a token id; write numbers, with spaces or commas "
          "between",
          word.substr(0, 40)));
    }
    request.add_token_ids(id);
  }
  return absl::OkStatus();
}

absl::Status Decode(const Session& session, const TokensFlags& flags,
                    const std::string& text) {
  v1::DetokenizeRequest request;
  request.set_model(session.flags().model);
  request.set_skip_special_tokens(flags.skip_special);
  if (absl::Status status = ParseIds(text, request); !status.ok()) return status;
  const auto decoded = session.client().Detokenize(request, session.NewCall());
  if (!decoded.ok()) return decoded.status();
  if (session.flags().json) return session.PrintJson({{"text", decoded->text()}}, "");
  if (absl::Status status = session.screen().Print(decoded->text()); !status.ok()) {
    return status;
  }
  return session.screen().EndLine();
}

}  // namespace

absl::Status RunCommand(const Session& session, const TokensFlags& flags) {
  absl::StatusOr<std::string> text = session.ReadText(flags.file);
  if (!text.ok()) return text.status();
  if (flags.decode) return Decode(session, flags, *text);
  if (flags.ids) return ListIds(session, flags, *std::move(text));
  return CountTokens(session, *std::move(text));
}

}  // namespace quire::cli
