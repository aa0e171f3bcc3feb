#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "tests/core/engine/recording_sink.h"
#include "tests/core/runner/cuda_runner_fixture.h"

// StepInput::meanwhile: which runner calls it, and when.
namespace quire {
namespace {

using namespace testing;

// The token that follows after a chunk and then three single ones, and the calls of each
// step.
struct Answer {
  std::vector<TokenScore> scores;
  std::vector<int> calls;
};

Answer ReadAll(ModelRunner& runner, bool asked) {
  Answer answer;
  Sequence sequence(1, 200, 0);
  const auto size = static_cast<Position>(sequence.tokens.size());
  while (sequence.done < size) {
    int calls = 0;
    StepInput input{.items = {sequence.Item(sequence.done == 0 ? size - 3 : 1)}};
    if (asked) input.meanwhile = [&] { ++calls; };
    const auto results = RunStep(runner, input);
    answer.scores.insert(answer.scores.end(), results[0].scores.begin(),
                         results[0].scores.end());
    answer.calls.push_back(calls);
    sequence.done += static_cast<Position>(input.items[0].tokens.size());
  }
  return answer;
}

TEST(MeanwhileTest, TheCpuComputesOnTheCallersThreadAndNeverCallsIt) {
  const LoadedRunner loaded = Load("cpu");
  EXPECT_EQ(ReadAll(*loaded.runner, true).calls, std::vector<int>(4, 0));
}

class CudaMeanwhileTest : public CudaRunnerTest {};

// The single tokens' steps are launched kernel by kernel, captured, and a graph.
TEST_F(CudaMeanwhileTest, IsCalledOnceAStepAndChangesNothing) {
  const Answer without = ReadAll(gpu(), false);
  const Answer with = ReadAll(gpu(), true);
  EXPECT_EQ(with.calls, std::vector<int>(4, 1));
  ASSERT_EQ(with.scores.size(), without.scores.size());
  for (size_t i = 0; i < with.scores.size(); ++i) {
    EXPECT_EQ(with.scores[i].logprob, without.scores[i].logprob) << i;
  }
}

TEST_F(CudaMeanwhileTest, IsNotCalledWhenNothingIsLaunched) {
  int calls = 0;
  StepInput input{.copies = {{BlockId{-1}, BlockId{0}}}};
  input.meanwhile = [&] { ++calls; };
  EXPECT_EQ(gpu().Step(input).status().code(), absl::StatusCode::kInvalidArgument);
  Sequence sequence(1, 10, 0);
  sequence.blocks.clear();
  input = {.items = {sequence.Item(10)}};
  input.meanwhile = [&] { ++calls; };
  const auto results = gpu().Step(input);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ((*results)[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(calls, 0);
}

std::vector<std::string> Ask(Engine& engine, int count) {
  std::vector<std::shared_ptr<SinkRecord>> records;
  for (int i = 0; i < count; ++i) {
    records.push_back(std::make_shared<SinkRecord>());
    EngineRequest request{
        .work = GenerateRequest{.prompt = Tokens(50 + 90 * i, i), .max_new_tokens = 40}};
    EXPECT_TRUE(
        engine.Submit(std::move(request), std::make_unique<RecordingSink>(records.back()))
            .ok());
  }
  std::vector<std::string> events;
  for (const auto& record : records) {
    EXPECT_EQ(record->Wait().status, absl::OkStatus());
    for (std::string& event : record->events()) events.push_back(std::move(event));
  }
  return events;
}

TEST_F(CudaMeanwhileTest, TheEnginePlansAheadOfTheDevice) {
  EngineOptions options{.kv = loaded_.kv,
                        .model = {.vocab_size = kVocab, .max_positions = 2048},
                        .prefix_caching = PrefixCaching::kOff};
  auto engine =
      Engine::Start(options, std::move(loaded_.runner), nullptr, SystemClock()).value();
  const std::vector<std::string> alone = Ask(*engine, 1);
  EXPECT_EQ(engine->stats().plans_ahead, engine->stats().steps - 1);
  EXPECT_EQ(Ask(*engine, 1), alone);
  EXPECT_GE(Ask(*engine, 6).size(), 6 * alone.size());  // prompts may come in parts
  EXPECT_GT(engine->stats().plans_ahead, engine->stats().steps / 2);
}

}  // namespace
}  // namespace quire
