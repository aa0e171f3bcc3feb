#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "core/engine/request_stream.h"
#include "gtest/gtest.h"
#include "tests/core/engine/engine_fixture.h"

// For ThreadSanitizer as much as for the assertions.
namespace quire {
namespace {

class EngineConcurrencyTest : public EngineFixture {
 protected:
  void SetUp() override {
    options_.max_waiting = 10'000;
    Start();
  }

  void ExpectIdle() {
    const EngineStats stats = engine_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.free_blocks, 16);
  }
};

EngineRequest RandomRequest(std::mt19937& random) {
  const std::vector<TokenId> tokens(2 + random() % 30,
                                    static_cast<TokenId>(random() % 100));
  if (random() % 3 == 0) return {.work = ScoreRequest{.tokens = tokens}};
  return Generate(tokens, static_cast<int32_t>(1 + random() % 20));
}

TEST_F(EngineConcurrencyTest, ThousandCancelsAtRandomTimesFromSeveralThreads) {
  constexpr int kThreads = 4;
  std::vector<std::vector<Submitted>> all(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &mine = all[t]] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int i = 0; i < 250; ++i) {
        mine.push_back(Submit(RandomRequest(random)));
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 60));
        engine_->Cancel(mine[random() % mine.size()].id);
        if (random() % 2 == 0) engine_->Cancel(mine.back().id);
        engine_->stats();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int cancelled = 0;
  for (const auto& mine : all) {
    for (const Submitted& request : mine) {
      const Finished finished = request.record->Wait();
      if (!finished.status.ok()) {
        EXPECT_EQ(finished.status, absl::CancelledError("the request was cancelled"));
        ++cancelled;
      }
      for (const std::string& event : request.record->events()) {
        EXPECT_EQ(event.find("after the end"), std::string::npos);
        EXPECT_NE(event, "finished again");
      }
    }
  }
  engine_->Drain(absl::InfiniteFuture());
  EXPECT_GT(cancelled, 0);
  ExpectIdle();
}

TEST_F(EngineConcurrencyTest, StreamsOpenedCancelledAndDropped) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int i = 0; i < 60; ++i) {
        Cancellation cancellation;
        auto stream =
            RequestStream::Open(*engine_, RandomRequest(random), &cancellation).value();
        std::thread canceller([&] { cancellation.Cancel(); });
        if (random() % 2 == 0) {
          while (!std::holds_alternative<Finished>(stream->Next())) {
          }
        }
        stream.reset();
        canceller.join();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  engine_->Drain(absl::InfiniteFuture());
  ExpectIdle();
}

TEST_F(EngineConcurrencyTest, DrainAgainstSubmitters) {
  std::atomic<int> accepted{0}, refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (true) {
        const absl::Status status = Refusal(Generate({1, 2}, 2));
        if (status.code() == absl::StatusCode::kUnavailable) break;
        EXPECT_EQ(status, absl::OkStatus());
        ++accepted;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      ++refused;
    });
  }
  while (accepted < 20) std::this_thread::yield();
  engine_->Drain(absl::InfiniteFuture());
  ExpectIdle();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 3);
}

TEST_F(EngineConcurrencyTest, DestroyedWithManyRequestsAccepted) {
  std::mt19937 random(3);
  std::vector<Submitted> requests;
  for (int i = 0; i < 300; ++i) requests.push_back(Submit(RandomRequest(random)));
  engine_.reset();
  for (const Submitted& request : requests) {
    ASSERT_TRUE(request.record->finished());
    EXPECT_TRUE(request.record->sink_destroyed());
  }
}

}  // namespace
}  // namespace quire
