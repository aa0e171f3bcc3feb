#include "client/score_pieces.h"

#include <algorithm>
#include <utility>

namespace quire::client {

bool NeedsPieces(const v1::ScoreRequest& request) {
  switch (request.input().source_case()) {
    case v1::Input::kText:
      return request.input().text().size() > kMaxWholeInputBytes;
    case v1::Input::kTokenIds:
      return request.input().token_ids().ByteSizeLong() > kMaxWholeInputBytes;
    default:
      return false;
  }
}

ScorePieces::ScorePieces(std::string id, const v1::ScoreRequest& request)
    : id_(std::move(id)), request_(request) {}

std::optional<v1::ScoreBatchRequest> ScorePieces::Next() {
  if (done_) return std::nullopt;
  v1::ScoreBatchRequest piece;
  piece.set_id(id_);
  if (std::exchange(first_, false)) *piece.mutable_options() = request_.options();
  done_ = true;
  if (request_.input().has_text()) TakeText(piece);
  if (request_.input().has_token_ids()) TakeTokens(piece);
  piece.set_more(!done_);
  return piece;
}

void ScorePieces::TakeText(v1::ScoreBatchRequest& piece) {
  const std::string& text = request_.input().text();
  const size_t size = std::min(kPieceBytes, text.size() - begin_);
  piece.set_text(text.data() + begin_, size);
  begin_ += size;
  done_ = begin_ == text.size();
}

void ScorePieces::TakeTokens(v1::ScoreBatchRequest& piece) {
  const auto& ids = request_.input().token_ids().ids();
  const size_t end = std::min<size_t>(begin_ + kPieceTokens, ids.size());
  piece.mutable_token_ids()->mutable_ids()->Add(ids.begin() + begin_, ids.begin() + end);
  begin_ = end;
  done_ = begin_ == static_cast<size_t>(ids.size());
}

}  // namespace quire::client
