#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/core/engine/engine_fixture.h"

namespace quire {
namespace {

struct Refused {
  EngineRequest request;
  std::string message;
};

class EngineRefusalTest : public EngineFixture {
 protected:
  void SetUp() override { Start(); }
};

EngineRequest Score(std::vector<TokenId> tokens, int32_t first) {
  return {.work = ScoreRequest{.tokens = std::move(tokens), .first = first}};
}

EngineRequest WithTop(EngineRequest request, int32_t top_logprobs) {
  std::visit([&](auto& work) { work.top_logprobs = top_logprobs; }, request.work);
  return request;
}

EngineRequest WithTopP(float top_p) {
  return {.work = GenerateRequest{
              .prompt = {1}, .max_new_tokens = 1, .sampling = {.top_p = top_p}}};
}

TEST_F(EngineRefusalTest, InvalidArgumentsNameFieldLimitAndValue) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  const std::vector<Refused> table = {
      {Generate({}, 1), "prompt has 0 tokens; it must have at least 1"},
      {Generate({1, 100}, 1), "prompt[1] is 100; it must be in [0, 100)"},
      {Generate({-1}, 1), "prompt[0] is -1; it must be in [0, 100)"},
      {Generate({1}, 0), "max_new_tokens is 0; it must be >= 1"},
      {Generate({1}, -7), "max_new_tokens is -7; it must be >= 1"},
      {Generate(std::vector<TokenId>(60, 1), 5),
       "prompt (60 tokens) + max_new_tokens (5) is 65; it must be <= 64, the model's "
       "max_positions"},
      {Generate({1}, kMax),
       "prompt (1 tokens) + max_new_tokens (2147483647) is 2147483648; it must be <= 64, "
       "the "
       "model's max_positions"},
      {WithTop(Generate({1}, 1), 21), "top_logprobs is 21; it must be in [0, 20]"},
      {WithTop(Generate({1}, 1), -1), "top_logprobs is -1; it must be in [0, 20]"},
      {WithTopP(1.5f), "sampling.top_p is 1.5; it must be in (0, 1]"},
      {Score({1}, 1), "tokens has 1 tokens; it must have at least 2"},
      {Score({1, 2, 100}, 1), "tokens[2] is 100; it must be in [0, 100)"},
      {Score(std::vector<TokenId>(65, 1), 1),
       "tokens has 65 tokens; it must have at most 64, the model's max_positions"},
      {Score({1, 2, 3}, 0), "first is 0; it must be in [1, 3)"},
      {Score({1, 2, 3}, 3), "first is 3; it must be in [1, 3)"},
      {WithTop(Score({1, 2}, 1), 21), "top_logprobs is 21; it must be in [0, 20]"},
  };
  for (const Refused& refused : table) {
    EXPECT_EQ(Refusal(refused.request), absl::InvalidArgumentError(refused.message));
  }
  EXPECT_EQ(model_.num_steps(), 0);
}

TEST_F(EngineRefusalTest, PastDeadline) {
  EngineRequest request = Generate({1}, 1);
  request.deadline = clock_.Now() - absl::Seconds(2);
  EXPECT_EQ(Refusal(request), absl::DeadlineExceededError("the deadline passed 2s ago"));
  request.deadline = clock_.Now();
  EXPECT_EQ(Refusal(request), absl::DeadlineExceededError("the deadline passed 0 ago"));
  request.deadline = clock_.Now() + absl::Nanoseconds(1);
  EXPECT_EQ(Refusal(request), absl::OkStatus());
}

TEST_F(EngineRefusalTest, LimitsThemselvesAreAccepted) {
  EXPECT_EQ(Submit(WithTop(Generate(std::vector<TokenId>(60, 99), 4), 20))
                .record->Wait()
                .status,
            absl::OkStatus());
  EXPECT_EQ(Submit(Score(std::vector<TokenId>(64, 0), 63)).record->Wait().status,
            absl::OkStatus());
  EXPECT_EQ(Submit(Score({1, 2}, 1)).record->Wait().status, absl::OkStatus());
}

TEST(EngineCacheRefusalTest, LargerThanTheWholeCache) {
  FakeClock clock;
  FakeModel model(100, 4);
  const EngineOptions options{.kv = {.num_blocks = 3, .tokens_per_block = 4},
                              .model = {.vocab_size = 100, .max_positions = 64}};
  const auto engine = Engine::Start(options, model.MakeRunner(), nullptr, clock).value();
  const auto submit = [&](EngineRequest request) {
    return engine
        ->Submit(std::move(request),
                 std::make_unique<RecordingSink>(std::make_shared<SinkRecord>()))
        .status();
  };
  const auto expect_too_large = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(status.message(),
              "the request needs 13 tokens of key/value cache; the cache has 12");
    EXPECT_EQ(RefusalOf(status), Refusal::kTooLarge);
  };
  expect_too_large(submit(Generate(std::vector<TokenId>(10, 1), 4)));
  EXPECT_EQ(submit(Generate(std::vector<TokenId>(10, 1), 3)), absl::OkStatus());
  expect_too_large(submit(Score(std::vector<TokenId>(14, 1), 1)));
  EXPECT_EQ(submit(Score(std::vector<TokenId>(13, 1), 1)), absl::OkStatus());
}

TEST(EngineOptionsTest, RefusesWithFieldLimitAndValue) {
  const EngineOptions good{.kv = {.num_blocks = 1, .tokens_per_block = 1},
                           .model = {.vocab_size = 1, .max_positions = 1},
                           .chunk_tokens = 1,
                           .max_running = 1,
                           .max_waiting = 0};
  EXPECT_EQ(good.Validate(), absl::OkStatus());
  const auto refusal = [&](auto change) {
    EngineOptions options = good;
    change(options);
    FakeModel model;
    FakeClock clock;
    const absl::Status status = options.Validate();
    EXPECT_EQ(Engine::Start(options, model.MakeRunner(), nullptr, clock).status(),
              status);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal([](EngineOptions& o) { o.kv.num_blocks = 0; }),
            "engine.kv.num_blocks is 0; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.kv.tokens_per_block = 0; }),
            "engine.kv.tokens_per_block is 0; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.model.vocab_size = 0; }),
            "engine.model.vocab_size is 0; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.model.max_positions = -1; }),
            "engine.model.max_positions is -1; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.chunk_tokens = 0; }),
            "engine.chunk_tokens is 0; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.max_running = 2; }),
            "engine.chunk_tokens is 1; it must be >= 2");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.max_running = 0; }),
            "engine.max_running is 0; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.max_waiting_tokens = -1; }),
            "engine.max_waiting_tokens is -1; it must be >= 0");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.max_long_prefills = 0; }),
            "engine.max_long_prefills is 0; it must be >= 1");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.decode_stretch_percent = 100; }),
            "engine.decode_stretch_percent is 100; it must be >= 101");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.block_bytes = -1; }),
            "engine.block_bytes is -1; it must be >= 0");
  EXPECT_EQ(refusal([](EngineOptions& o) { o.max_waiting = -1; }),
            "engine.max_waiting is -1; it must be >= 0");
}

}  // namespace
}  // namespace quire
