#include "core/engine/request_stream.h"

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/engine_fixture.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

class RequestStreamTest : public EngineFixture {
 protected:
  void SetUp() override { Start(); }

  std::unique_ptr<RequestStream> Open(EngineRequest request,
                                      Cancellation* cancellation = nullptr) {
    return RequestStream::Open(*engine_, std::move(request), cancellation).value();
  }
};

std::string Describe(const RequestEvent& event) {
  if (const auto* progress = std::get_if<PrefillProgress>(&event)) {
    return absl::StrCat("progress ", progress->done_tokens, "/", progress->total_tokens);
  }
  if (const auto* token = std::get_if<TokenScore>(&event)) {
    return absl::StrCat("token ", token->token, " ", token->logprob);
  }
  if (const auto* scores = std::get_if<std::vector<TokenScore>>(&event)) {
    return absl::StrCat("scores ", scores->size());
  }
  if (const auto* importance = std::get_if<TokenImportance>(&event)) {
    return absl::StrCat("importance ", importance->values.size());
  }
  return absl::StrCat("finished ", std::get<Finished>(event).status.ToString());
}

std::vector<std::string> ReadAll(RequestStream& stream) {
  std::vector<std::string> events;
  while (true) {
    const RequestEvent event = stream.Next();
    events.push_back(Describe(event));
    if (std::holds_alternative<Finished>(event)) return events;
  }
}

TEST_F(RequestStreamTest, GivesTheEventsInOrder) {
  model_.Block();
  const auto stream = Open(Generate({10, 11}, 2));
  model_.WaitUntilBlocked();
  model_.Release();
  EXPECT_THAT(ReadAll(*stream), ElementsAre("progress 2/2", "token 12 -0.625",
                                            "token 13 -0.75", "finished OK"));
}

TEST_F(RequestStreamTest, MergesProgressThatNobodyRead) {
  const auto stream = Open(Generate(std::vector<TokenId>(14, 5), 1));
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_THAT(ReadAll(*stream),
              ElementsAre("progress 14/14", "token 6 -0.875", "finished OK"));
}

TEST_F(RequestStreamTest, ScoresArriveChunkByChunk) {
  const auto stream = Open({.work = ScoreRequest{.tokens = {1, 2, 3, 4, 5, 6, 7}}});
  EXPECT_THAT(ReadAll(*stream), ElementsAre("progress 4/6", "scores 4", "progress 6/6",
                                            "scores 2", "finished OK"));
}

TEST_F(RequestStreamTest, NextAllGivesWhatThereIs) {
  const auto stream = Open(Generate({10, 11}, 3));
  engine_->Drain(absl::InfiniteFuture());
  std::vector<std::string> events;
  for (const RequestEvent& event : stream->NextAll()) events.push_back(Describe(event));
  EXPECT_THAT(events, ElementsAre("progress 2/2", "token 12 -0.625", "token 13 -0.75",
                                  "token 14 -0.875", "finished OK"));
}

TEST_F(RequestStreamTest, ASleeperHearsOfTheEndAtOnce) {
  const auto stream = Open(Generate({10}, 60));
  const absl::Time start = absl::Now();
  std::vector<RequestEvent> events = stream->NextAll(absl::Seconds(100));
  EXPECT_LT(absl::Now() - start, absl::Seconds(50));
  ASSERT_EQ(events.size(), 62u);
  EXPECT_EQ(Describe(events.back()), "finished OK");
}

TEST_F(RequestStreamTest, ASleeperGetsWhatCameMeanwhile) {
  model_.Block();
  const auto stream = Open(Generate({10}, 1));
  model_.WaitUntilBlocked();
  std::thread later([this] {
    absl::SleepFor(absl::Milliseconds(20));
    model_.Release();
  });
  // There is nothing when the pause ends: waits on.
  EXPECT_GE(stream->NextAll(absl::Milliseconds(1)).size(), 1u);
  later.join();
}

TEST_F(RequestStreamTest, OpenReturnsTheEnginesRefusal) {
  EXPECT_EQ(RequestStream::Open(*engine_, Generate({}, 1), nullptr).status(),
            absl::InvalidArgumentError("prompt has 0 tokens; it must have at least 1"));
}

TEST_F(RequestStreamTest, CancellationEndsTheRequest) {
  Cancellation cancellation;
  model_.Block();
  const auto stream = Open(Generate({1}, 50), &cancellation);
  model_.WaitUntilBlocked();
  cancellation.Cancel();
  model_.Release();
  EXPECT_THAT(ReadAll(*stream),
              ElementsAre("progress 1/1", "token 2 -0.375",
                          "finished CANCELLED: the request was cancelled"));
}

TEST_F(RequestStreamTest, CancelledBeforeItIsOpened) {
  Cancellation cancellation;
  cancellation.Cancel();
  model_.Block();
  const auto running = Open(Generate({1}, 1));
  model_.WaitUntilBlocked();
  const auto stream = Open(Generate({1}, 50), &cancellation);
  model_.Release();
  EXPECT_THAT(ReadAll(*stream),
              ElementsAre("finished CANCELLED: the request was cancelled"));
}

TEST_F(RequestStreamTest, DestructorCancelsAndWaits) {
  std::atomic<bool> destroying{false};
  SlowDownUntil(destroying);
  auto stream = Open(Generate({1}, 60));
  destroying = true;
  stream.reset();
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.free_blocks, 16);
  EXPECT_LT(model_.num_steps(), 60);
}

TEST_F(RequestStreamTest, MayBeDestroyedAfterTheEnd) {
  Cancellation cancellation;
  auto stream = Open(Generate({1}, 1), &cancellation);
  ReadAll(*stream);
  stream.reset();
  cancellation.Cancel();
  EXPECT_EQ(model_.num_steps(), 1);
}

}  // namespace
}  // namespace quire
