#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "core/engine/request_stream.h"
#include "core/runner/runner.h"

// The engine over real models: who shares a step, a page or a preemption gets what he
// would get alone.
namespace quire {
namespace {

const char kTiny[] = QUIRE_TESTDATA_DIR "/models/qwen3";  // vocabulary 260
const char kSmall[] = QUIRE_MODELS_DIR "/quire-19m";

struct EngineSetup {
  std::string folder;
  ComputeType compute = ComputeType::kFloat32;
  int32_t tokens_per_block = 64;
  int32_t blocks = 0;  // 0: all there are
  int32_t max_running = 8;
  int32_t chunk_tokens = 64;
  PrefixCaching prefix_caching = PrefixCaching::kShared;
};

std::unique_ptr<Engine> StartEngine(const EngineSetup& setup) {
  const ModelFiles files = OpenModelFiles(setup.folder).value();
  LoadedRunner loaded = LoadRunner(files, {.compute = setup.compute,
                                           .kv_cache_bytes = 48 << 20,
                                           .tokens_per_block = setup.tokens_per_block})
                            .value();
  EngineOptions options{.kv = loaded.kv,
                        .model = {files.config.vocab_size, files.config.max_positions},
                        .chunk_tokens = setup.chunk_tokens,
                        .max_running = setup.max_running,
                        .prefix_caching = setup.prefix_caching};
  if (setup.blocks > 0) options.kv.num_blocks = setup.blocks;
  return Engine::Start(options, std::move(loaded.runner), nullptr, SystemClock()).value();
}

struct Output {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  Finished finished;
};

Output Read(RequestStream& stream) {
  Output output;
  while (true) {
    RequestEvent event = stream.Next();
    if (auto* finished = std::get_if<Finished>(&event)) {
      output.finished = *finished;
      return output;
    }
    if (const auto* token = std::get_if<TokenScore>(&event)) {
      output.tokens.push_back(token->token);
      output.logprobs.push_back(token->logprob);
    } else if (const auto* scores = std::get_if<std::vector<TokenScore>>(&event)) {
      for (const TokenScore& score : *scores) output.logprobs.push_back(score.logprob);
    }
  }
}

std::vector<Output> RunTogether(Engine& engine,
                                const std::vector<EngineRequest>& requests) {
  std::vector<std::unique_ptr<RequestStream>> streams;
  for (const EngineRequest& request : requests) {
    streams.push_back(RequestStream::Open(engine, request, nullptr).value());
  }
  std::vector<Output> outputs;
  for (auto& stream : streams) outputs.push_back(Read(*stream));
  return outputs;
}

std::vector<Output> RunAlone(Engine& engine, const std::vector<EngineRequest>& requests) {
  std::vector<Output> outputs;
  for (const EngineRequest& request : requests) {
    outputs.push_back(Read(*RequestStream::Open(engine, request, nullptr).value()));
  }
  return outputs;
}

std::vector<TokenId> Text(uint64_t seed, int32_t tokens, TokenId vocabulary) {
  std::vector<TokenId> text;
  uint64_t x = seed + 1;
  for (int32_t i = 0; i < tokens; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    text.push_back(static_cast<TokenId>((x >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return text;
}

// Answers and scores of many lengths; every other one begins like another one.
std::vector<EngineRequest> Mixed(int count, int32_t longest, TokenId vocabulary,
                                 const AttentionOptions& attention) {
  std::vector<EngineRequest> requests;
  for (int i = 0; i < count; ++i) {
    const int32_t length = 5 + longest * (i % 7) / 7;
    std::vector<TokenId> text = Text(static_cast<uint64_t>(i % 3), length, vocabulary);
    const std::vector<TokenId> own = Text(static_cast<uint64_t>(100 + i), 9, vocabulary);
    text.insert(text.end(), own.begin(), own.end());
    if (i % 4 == 3) {
      requests.push_back({.work = ScoreRequest{.tokens = text, .attention = attention}});
      continue;
    }
    GenerateRequest work{
        .prompt = text, .max_new_tokens = 12 + i, .attention = attention};
    if (i % 4 == 1) {
      work.sampling = {
          .temperature = 0.9f, .top_k = 40, .seed = static_cast<uint64_t>(i)};
    }
    requests.push_back({.work = work});
  }
  return requests;
}

void ExpectSame(const std::vector<Output>& alone, const std::vector<Output>& together,
                float tolerance) {
  ASSERT_EQ(alone.size(), together.size());
  for (size_t i = 0; i < alone.size(); ++i) {
    ASSERT_EQ(together[i].finished.status, absl::OkStatus());
    EXPECT_EQ(together[i].tokens, alone[i].tokens) << "request " << i;
    ASSERT_EQ(together[i].logprobs.size(), alone[i].logprobs.size());
    for (size_t j = 0; j < alone[i].logprobs.size(); ++j) {
      ASSERT_NEAR(together[i].logprobs[j], alone[i].logprobs[j], tolerance)
          << "request " << i << ", token " << j;
    }
  }
}

TEST(EngineOnModelTest, AnswersAreTheSameAloneAndTogetherInFloat32) {
  const EngineSetup alone{.folder = kTiny,
                          .tokens_per_block = 16,
                          .max_running = 1,
                          .prefix_caching = PrefixCaching::kOff};
  const std::vector<EngineRequest> requests = Mixed(20, 180, 260, {});
  const std::vector<Output> expected = RunAlone(*StartEngine(alone), requests);
  EngineSetup together = alone;
  together.max_running = 8;
  together.chunk_tokens = 40;
  ExpectSame(expected, RunTogether(*StartEngine(together), requests), 1e-4f);
  together.prefix_caching = PrefixCaching::kShared;
  const auto engine = StartEngine(together);
  ExpectSame(expected, RunTogether(*engine, requests), 1e-4f);
  ExpectSame(expected, RunTogether(*engine, requests), 1e-4f);
  EXPECT_GT(engine->stats().cached_tokens, 0);
}

TEST(EngineOnModelTest, PreemptedAnswersAreTheSameInFloat32) {
  const EngineSetup alone{.folder = kTiny,
                          .tokens_per_block = 16,
                          .max_running = 1,
                          .prefix_caching = PrefixCaching::kOff};
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(
        {.work = GenerateRequest{.prompt = Text(static_cast<uint64_t>(i), 20, 260),
                                 .max_new_tokens = 60}});
  }
  const std::vector<Output> expected = RunAlone(*StartEngine(alone), requests);
  for (const PrefixCaching caching : {PrefixCaching::kOff, PrefixCaching::kPerTenant}) {
    EngineSetup tight = alone;
    tight.max_running = 8;
    tight.blocks = 16;  // of 8 * 5
    tight.prefix_caching = caching;
    const auto engine = StartEngine(tight);
    ExpectSame(expected, RunTogether(*engine, requests), 1e-4f);
    EXPECT_GT(engine->stats().preemptions, 0);
    EXPECT_EQ(engine->stats().free_blocks, 16);
  }
}

// Every attention mode in one batch, on pages of a group.
TEST(EngineOnModelTest, EveryModeIsTheSameAloneAndTogether) {
  const EngineSetup alone{.folder = kSmall,
                          .max_running = 1,
                          .chunk_tokens = 256,
                          .prefix_caching = PrefixCaching::kOff};
  std::vector<EngineRequest> requests;
  for (const AttentionMode mode : {AttentionMode::kDense, AttentionMode::kFaithful,
                                   AttentionMode::kRefined, AttentionMode::kAuto}) {
    for (const EngineRequest& request : Mixed(4, 500, 8000, {.mode = mode})) {
      requests.push_back(request);
    }
  }
  const std::vector<Output> expected = RunAlone(*StartEngine(alone), requests);
  EngineSetup together = alone;
  together.max_running = 16;
  together.prefix_caching = PrefixCaching::kShared;
  // (FAITHFUL groups nothing among so few tokens: what it groups depends on the chunks.)
  ExpectSame(expected, RunTogether(*StartEngine(together), requests), 2e-3f);
}

// In bfloat16 a row's sums do not depend on who else is in the batch.
TEST(EngineOnModelTest, ScoresOfASecondReadingAreTheFirstOnes) {
  EngineSetup setup{.folder = kSmall, .compute = ComputeType::kAuto, .chunk_tokens = 128};
  const auto engine = StartEngine(setup);
  ScoreRequest score{.tokens = Text(5, 700, 8000), .first = 600};
  const Output first =
      Read(*RequestStream::Open(*engine, {.work = score}, nullptr).value());
  const Output second =
      Read(*RequestStream::Open(*engine, {.work = score}, nullptr).value());
  EXPECT_EQ(first.finished.usage.cached_tokens, 0);
  EXPECT_EQ(second.finished.usage.cached_tokens, 599);
  EXPECT_EQ(second.finished.attention.prefill.work.dense_columns * 100 /
                first.finished.attention.prefill.work.dense_columns,
            26);  // only what was read
  ASSERT_EQ(first.logprobs.size(), 100u);
  for (size_t i = 0; i < first.logprobs.size(); ++i) {
    EXPECT_NEAR(second.logprobs[i], first.logprobs[i], 0.02) << i;
  }
}

}  // namespace
}  // namespace quire
