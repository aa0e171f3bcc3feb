#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "core/engine/engine.h"
#include "gtest/gtest.h"
#include "tests/core/engine/recording_sink.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_runner.h"

namespace quire {

// An engine over the fake model (vocabulary 100, next token = last + 1) on which every
// step takes one second. Steps of 4 rows, one request at a time, no prefix cache, 16
// cache blocks of 4 tokens, 64 positions.
class EngineFixture : public testing::Test {
 protected:
  EngineFixture() {
    options_.kv = {.num_blocks = 16, .tokens_per_block = 4};
    options_.model = {.vocab_size = 100, .max_positions = 64};
    options_.chunk_tokens = 4;
    options_.max_running = 1;
    options_.max_waiting = 8;
    options_.prefix_caching = PrefixCaching::kOff;
    model_.set_on_step([this](const StepInput&) { clock_.Advance(absl::Seconds(1)); });
  }

  void Start(EngineObserver* observer = nullptr) {
    engine_ = Engine::Start(options_, model_.MakeRunner(), observer, clock_).value();
  }

  struct Submitted {
    RequestId id{};
    std::shared_ptr<SinkRecord> record;
  };
  Submitted Submit(EngineRequest request) {
    auto record = std::make_shared<SinkRecord>();
    const absl::StatusOr<RequestId> id =
        engine_->Submit(std::move(request), std::make_unique<RecordingSink>(record));
    EXPECT_TRUE(id.ok()) << id.status();
    return {id.value_or(RequestId{}), std::move(record)};
  }
  absl::Status Refusal(EngineRequest request) {
    auto record = std::make_shared<SinkRecord>();
    const absl::StatusOr<RequestId> id =
        engine_->Submit(std::move(request), std::make_unique<RecordingSink>(record));
    EXPECT_TRUE(id.ok() || (record->sink_destroyed() && !record->finished()));
    return id.status();
  }

  // Steps wait until `about_to` is set, then take a real millisecond each: time enough
  // for the other thread to do what it is about to.
  void SlowDownUntil(const std::atomic<bool>& about_to) {
    model_.set_on_step([this, &about_to](const StepInput&) {
      while (!about_to) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      clock_.Advance(absl::Seconds(1));
    });
  }
  // Releases the blocked model when Drain has begun.
  std::thread ReleaseWhenDraining() {
    return std::thread([this] {
      while (
          Refusal({.work = GenerateRequest{.prompt = {1}, .max_new_tokens = 1}}).code() !=
          absl::StatusCode::kUnavailable) {
        std::this_thread::yield();
      }
      model_.Release();
    });
  }

  EngineOptions options_;
  FakeClock clock_;
  FakeModel model_{100, 4};
  std::unique_ptr<Engine> engine_;
};

inline EngineRequest Generate(std::vector<TokenId> prompt, int32_t max_new_tokens) {
  return {.work = GenerateRequest{.prompt = std::move(prompt),
                                  .max_new_tokens = max_new_tokens}};
}

}  // namespace quire
