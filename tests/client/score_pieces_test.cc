#include "client/score_pieces.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quire::client {
namespace {

constexpr size_t kDefaultMessageLimit = size_t{4} << 20;

std::vector<v1::ScoreBatchRequest> Cut(const v1::ScoreRequest& request) {
  std::vector<v1::ScoreBatchRequest> pieces;
  ScorePieces cutter("a", request);
  while (auto piece = cutter.Next()) pieces.push_back(*std::move(piece));
  return pieces;
}

v1::ScoreRequest TextOf(size_t bytes) {
  v1::ScoreRequest request;
  std::string& text = *request.mutable_input()->mutable_text();
  for (size_t i = 0; i < bytes; ++i) text += static_cast<char>('a' + i % 26);
  return request;
}

TEST(ScorePiecesTest, OneMebibyteGoesWholeOneByteMoreDoesNot) {
  EXPECT_FALSE(NeedsPieces(TextOf(kMaxWholeInputBytes)));
  EXPECT_TRUE(NeedsPieces(TextOf(kMaxWholeInputBytes + 1)));
  v1::ScoreRequest ids;
  ids.mutable_input()->mutable_token_ids()->mutable_ids()->Resize(300'000, 100'000);
  EXPECT_FALSE(NeedsPieces(ids));  // 3 bytes each
  ids.mutable_input()->mutable_token_ids()->mutable_ids()->Resize(400'000, 100'000);
  EXPECT_TRUE(NeedsPieces(ids));
}

TEST(ScorePiecesTest, PiecesPutTogetherAreTheText) {
  for (size_t bytes : {size_t{1}, kPieceBytes - 1, kPieceBytes, kPieceBytes + 1,
                       3 * kPieceBytes, 3 * kPieceBytes + 7}) {
    v1::ScoreRequest request = TextOf(bytes);
    request.mutable_options()->set_model("m");
    const auto pieces = Cut(request);
    ASSERT_EQ(pieces.size(), (bytes + kPieceBytes - 1) / kPieceBytes) << bytes;
    std::string text;
    for (size_t i = 0; i < pieces.size(); ++i) {
      EXPECT_EQ(pieces[i].id(), "a");
      EXPECT_EQ(pieces[i].more(), i + 1 < pieces.size());
      EXPECT_EQ(pieces[i].has_options(), i == 0);
      text += pieces[i].text();
    }
    EXPECT_EQ(pieces[0].options().model(), "m");
    EXPECT_EQ(text, request.input().text());
  }
}

TEST(ScorePiecesTest, TokenIdsAreCutToo) {
  v1::ScoreRequest request;
  auto& ids = *request.mutable_input()->mutable_token_ids()->mutable_ids();
  for (int i = 0; i < 2 * kPieceTokens + 5; ++i) ids.Add(i);
  const auto pieces = Cut(request);
  ASSERT_EQ(pieces.size(), 3u);
  int next = 0;
  for (const auto& piece : pieces) {
    for (int id : piece.token_ids().ids()) ASSERT_EQ(id, next++);
  }
  EXPECT_EQ(next, ids.size());
  EXPECT_FALSE(pieces[2].more());
}

TEST(ScorePiecesTest, NoMessagePassesTheDefaultLimit) {
  v1::ScoreRequest request = TextOf(9 << 20);
  for (int i = 0; i < 10'000; ++i) {
    auto* span = request.mutable_options()->add_spans();
    span->set_begin(int64_t{1} << 62);
    span->set_end(int64_t{1} << 62);
  }
  for (const auto& piece : Cut(request)) {
    EXPECT_LT(piece.ByteSizeLong(), kDefaultMessageLimit / 2);
  }
  v1::ScoreRequest ids;
  ids.mutable_input()->mutable_token_ids()->mutable_ids()->Resize(1'000'000, -1);
  for (const auto& piece : Cut(ids)) {
    EXPECT_LT(piece.ByteSizeLong(), kDefaultMessageLimit / 2);
  }
}

TEST(ScorePiecesTest, NoInputIsOneMessageForTheServerToRefuse) {
  const auto pieces = Cut(v1::ScoreRequest());
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].source_case(), v1::ScoreBatchRequest::SOURCE_NOT_SET);
  EXPECT_FALSE(pieces[0].more());
}

}  // namespace
}  // namespace quire::client
