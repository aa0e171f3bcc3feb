#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/dga/probe_positions.h"
#include "core/engine/request_limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/engine_fixture.h"

// How requests read their context: what reaches the runner, and what the receipt says.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr AttentionMode kRefined = AttentionMode::kRefined;

// As EngineFixture, with room for 400 tokens and chunks of 100.
class EngineAttentionTest : public EngineFixture {
 protected:
  EngineAttentionTest() {
    options_.kv.num_blocks = 100;
    options_.model.max_positions = 400;
    options_.chunk_tokens = 100;
    options_.block_bytes = 1000;
  }

  static EngineRequest Ask(const AttentionOptions& attention, int32_t prompt_tokens,
                           int32_t max_new_tokens) {
    return {.work = GenerateRequest{.prompt = std::vector<TokenId>(prompt_tokens, 7),
                                    .max_new_tokens = max_new_tokens,
                                    .attention = attention}};
  }
  static EngineRequest Score(const AttentionOptions& attention, int32_t tokens,
                             bool importance = false) {
    std::vector<TokenId> text;
    for (int32_t i = 0; i < tokens; ++i) text.push_back(i * 37 % 100);
    return {.work = ScoreRequest{.tokens = std::move(text),
                                 .importance = importance,
                                 .attention = attention}};
  }

  Finished Run(EngineRequest request) {
    return Submit(std::move(request)).record->Wait();
  }

  // One value a step.
  template <typename Value>
  auto Steps(Value value) {
    std::vector<decltype(value(RecordedItem()))> values;
    for (const RecordedStep& step : model_.steps()) {
      values.push_back(value(step.items.at(0)));
    }
    return values;
  }
};

AttentionStats Sum(std::vector<AttentionStats> parts) {
  AttentionStats sum;
  for (const AttentionStats& part : parts) sum += part;
  return sum;
}

void ExpectSame(const AttentionStats& a, const AttentionStats& b) {
  EXPECT_EQ(a.work, b.work);
  EXPECT_DOUBLE_EQ(a.seconds, b.seconds);
  EXPECT_DOUBLE_EQ(a.selection_seconds, b.selection_seconds);
  EXPECT_EQ(a.sparse_rows, b.sparse_rows);
  EXPECT_DOUBLE_EQ(a.coverage, b.coverage);
  EXPECT_DOUBLE_EQ(a.tail_risk, b.tail_risk);
  EXPECT_EQ(a.audits, b.audits);
  EXPECT_DOUBLE_EQ(a.audit_error, b.audit_error);
  EXPECT_DOUBLE_EQ(a.max_audit_error, b.max_audit_error);
}

TEST_F(EngineAttentionTest, OptionsAndThePromptsEndReachTheRunner) {
  Start();
  const AttentionOptions asked{.mode = kRefined, .eps = 0.25f, .min_sparse_tokens = 200};
  Run(Ask(asked, 150, 2));
  EXPECT_THAT(Steps([](const RecordedItem& i) { return i.last_chunk; }),
              ElementsAre(false, true, false));
  Run(Score(asked, 102, true));  // reads 101
  EXPECT_THAT(Steps([](const RecordedItem& i) { return i.last_chunk; }),
              ElementsAre(false, true, false, false, true));
  EXPECT_THAT(Steps([](const RecordedItem& i) { return i.importance; }),
              ElementsAre(false, false, false, true, true));
  for (const RecordedStep& step : model_.steps()) {
    EXPECT_EQ(step.items[0].attention.mode, kRefined);
    EXPECT_EQ(step.items[0].attention.eps, 0.25f);
    EXPECT_EQ(step.items[0].attention.min_sparse_tokens, 200);
  }
}

TEST_F(EngineAttentionTest, TheReceiptIsTheSumOfTheStepsByPhase) {
  Start();
  const AttentionOptions asked{.mode = kRefined, .eps = 0.25f};
  const AttentionReceipt receipt = Run(Ask(asked, 250, 3)).attention;
  EXPECT_EQ(receipt.mode, kRefined);
  EXPECT_EQ(receipt.eps, 0.25f);
  EXPECT_EQ(receipt.eps_lowered, 0);
  EXPECT_FALSE(receipt.fell_back);
  EXPECT_EQ(receipt.kv_bytes_dropped, 0);
  ExpectSame(receipt.prefill,
             Sum({FakeAttention(asked, 0, 100), FakeAttention(asked, 100, 100),
                  FakeAttention(asked, 200, 50)}));
  ExpectSame(receipt.decode,
             Sum({FakeAttention(asked, 250, 1), FakeAttention(asked, 251, 1)}));
  EXPECT_EQ(receipt.prefill.sparse_rows, 250 - 192);
  EXPECT_EQ(receipt.prefill.work.dense_columns, 250 * 251 / 2);
  EXPECT_EQ(receipt.decode.work.dense_columns, 251 + 252);
}

TEST_F(EngineAttentionTest, AScoresReceiptHasNoDecode) {
  Start();
  const AttentionReceipt receipt = Run(Score({}, 51)).attention;
  EXPECT_EQ(receipt.mode, AttentionMode::kAuto);
  ExpectSame(receipt.prefill, FakeAttention({}, 0, 50));
  EXPECT_EQ(receipt.decode.work, AttentionWork());
}

TEST_F(EngineAttentionTest, ACancelledRequestsReceiptIsOfWhatWasDone) {
  Start();
  model_.Block();
  const Submitted request = Submit(Ask({}, 250, 3));
  model_.WaitUntilBlocked();
  engine_->Cancel(request.id);
  model_.Release();
  const Finished finished = request.record->Wait();
  EXPECT_EQ(finished.status.code(), absl::StatusCode::kCancelled);
  ExpectSame(finished.attention.prefill, FakeAttention({}, 0, 100));
}

TEST_F(EngineAttentionTest, AWholePromptIsOneStep) {
  Start();
  AttentionOptions asked{.mode = AttentionMode::kFaithful};
  asked.faithful.whole_prompt = true;
  const auto tokens = [](const RecordedItem& item) { return item.tokens.size(); };
  Run(Ask(asked, 250, 2));
  EXPECT_THAT(Steps(tokens), ElementsAre(250, 1));
  Run(Score(asked, 151));
  EXPECT_THAT(Steps(tokens), ElementsAre(250, 1, 150));
  asked.mode = kRefined;  // where the switch means nothing
  Run(Score(asked, 151));
  EXPECT_THAT(Steps(tokens), ElementsAre(250, 1, 150, 100, 50));
}

TEST_F(EngineAttentionTest, AnErrorAboveTheLimitLowersEpsForWhatFollowsThenGoesDense) {
  options_.chunk_tokens = 10;
  model_.set_audit_error([](const AttentionOptions&) { return 0.25; });
  Start();
  const AttentionOptions asked{.mode = kRefined, .eps = 0.5f, .max_error = 0.125f};
  const AttentionReceipt receipt = Run(Ask(asked, 260, 1)).attention;
  // Rows are sparse, and audited, from position 192 on: in the 20th chunk first.
  const std::vector<float> eps = Steps([](const auto& i) { return i.attention.eps; });
  EXPECT_EQ(std::vector<float>(eps.begin() + 18, eps.end()),
            (std::vector<float>{0.5f, 0.5f, 0.25f, 0.125f, 0.0625f, 0.0625f, 0.0625f,
                                0.0625f}));
  const auto modes = Steps([](const auto& i) { return i.attention.mode; });
  EXPECT_EQ(modes[22], kRefined);
  EXPECT_EQ(modes[23], AttentionMode::kDense);
  EXPECT_EQ(receipt.mode, kRefined);
  EXPECT_EQ(receipt.eps, 0.0625f);
  EXPECT_EQ(receipt.eps_lowered, 3);
  EXPECT_TRUE(receipt.fell_back);
  EXPECT_EQ(receipt.prefill.audits, 4);
  EXPECT_EQ(receipt.prefill.audit_error, 1.0);
}

TEST_F(EngineAttentionTest, AnEpsThatHelpsIsKept) {
  options_.chunk_tokens = 10;
  model_.set_audit_error([](const AttentionOptions& o) { return o.eps / 2; });
  Start();
  const AttentionReceipt receipt =
      Run(Ask({.mode = kRefined, .eps = 0.5f, .max_error = 0.125f}, 260, 1)).attention;
  EXPECT_EQ(receipt.eps, 0.25f);
  EXPECT_EQ(receipt.eps_lowered, 1);
  EXPECT_FALSE(receipt.fell_back);
  EXPECT_EQ(receipt.prefill.max_audit_error, 0.25);
}

TEST_F(EngineAttentionTest, DroppedBlocksAreOthersToUseAndPassedAsNoBlock) {
  int32_t free_while_decoding = 0;
  model_.set_drop([](const StepItem&) { return std::vector<int32_t>{1, 3}; });
  model_.set_on_step([&](const StepInput& input) {
    if (input.items[0].begin == 20) free_while_decoding = engine_->stats().free_blocks;
  });
  Start();
  const Submitted request = Submit(Ask({.mode = kRefined, .compact = true}, 20, 3));
  const Finished finished = request.record->Wait();
  EXPECT_EQ(finished.status, absl::OkStatus());
  EXPECT_EQ(finished.attention.kv_bytes_dropped, 2000);
  EXPECT_THAT(request.record->events(),
              ElementsAre("progress 20/20", "token 8", "token 9", "token 10"));
  const auto blocks = Steps([](const RecordedItem& item) { return item.blocks; });
  const auto b = [](int32_t id) { return BlockId{id}; };
  EXPECT_THAT(blocks[0], ElementsAre(b(0), b(1), b(2), b(3), b(4), b(5)));
  EXPECT_THAT(blocks[1], ElementsAre(b(0), kNoBlock, b(2), kNoBlock, b(4), b(5)));
  EXPECT_EQ(free_while_decoding, 100 - 6 + 2);
  EXPECT_EQ(engine_->stats().free_blocks, 100);
}

TEST_F(EngineAttentionTest, ABlockThatIsNotHeldCannotBeDropped) {
  std::vector<int32_t> drop;
  model_.set_drop([&](const StepItem&) { return drop; });
  Start();
  const AttentionOptions asked{.compact = true};
  for (const auto& [indices, culprit] : std::vector<std::pair<std::vector<int32_t>, int>>{
           {{-1}, -1}, {{6}, 6}, {{2, 2}, 2}}) {
    drop = indices;
    EXPECT_EQ(Run(Ask(asked, 20, 3)).status,
              absl::InternalError(absl::StrCat("the model runner dropped block ", culprit,
                                               ", which the request does not hold")));
    EXPECT_EQ(engine_->stats().free_blocks, 100);
  }
}

// By the definition, over every query that is sampled.
std::vector<double> Importance(const std::vector<TokenId>& read) {
  const auto size = static_cast<int64_t>(read.size());
  std::vector<double> sum(read.size()), seen(read.size());
  for (const int64_t query : ProbedRows(0, size, true)) {
    double harmonic = 0;
    for (int64_t i = 0; i <= query; ++i) harmonic += 1.0 / static_cast<double>(i + 1);
    for (int64_t i = 0; i <= query; ++i) {
      sum[i] += FakeWeight(read[i]) / static_cast<double>(query - i + 1) / harmonic;
      seen[i] += 1;
    }
  }
  for (size_t i = 0; i < sum.size(); ++i) sum[i] /= seen[i];
  return sum;
}

class ImportanceSink final : public RequestSink {
 public:
  ImportanceSink(std::vector<std::string>& events, std::vector<float>& importance)
      : events_(events), importance_(importance) {}
  void OnProgress(int64_t, int64_t) override {}
  void OnToken(const TokenScore&) override { events_.push_back("token"); }
  void OnScores(std::vector<TokenScore>) override { events_.push_back("scores"); }
  void OnImportance(std::vector<float> importance) override {
    events_.push_back("importance");
    importance_ = std::move(importance);
  }
  void OnFinished(const Finished&) override { events_.push_back("finished"); }

 private:
  std::vector<std::string>& events_;
  std::vector<float>& importance_;
};

TEST_F(EngineAttentionTest, ImportanceIsTheMeanOverTheQueriesThatSeeAToken) {
  for (const int32_t chunk : {100, 7, 32, 33}) {
    options_.chunk_tokens = chunk;
    Start();
    EngineRequest request = Score({}, 101, true);
    std::vector<TokenId> read = std::get<ScoreRequest>(request.work).tokens;
    read.pop_back();
    std::vector<std::string> events;
    std::vector<float> importance;
    ASSERT_TRUE(engine_
                    ->Submit(std::move(request),
                             std::make_unique<ImportanceSink>(events, importance))
                    .ok());
    engine_->Drain(absl::InfiniteFuture());
    engine_.reset();
    ASSERT_EQ(importance.size(), 100u);
    EXPECT_EQ(events.back(), "finished");
    EXPECT_EQ(events[events.size() - 2], "importance");
    const std::vector<double> expected = Importance(read);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(importance[i], expected[i], 1e-6) << chunk << " " << i;
    }
  }
}

TEST_F(EngineAttentionTest, WithoutAskingThereIsNoImportance) {
  Start();
  const Submitted request = Submit(Score({}, 5));
  request.record->Wait();
  EXPECT_THAT(request.record->events(),
              ElementsAre("progress 4/4", "scores 37 74 11 48"));
}

// A runner of another mind about importance.
class ProbeRunner final : public ModelRunner {
 public:
  explicit ProbeRunner(size_t size) : size_(size) {}
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override {
    StepResult result{.id = input.items[0].id};
    for (const TokenId target : input.items[0].targets) {
      result.scores.push_back({.token = target});
    }
    result.importance.attention.assign(size_, 0.5f);
    return std::vector<StepResult>{std::move(result)};
  }

 private:
  const size_t size_;
};

TEST_F(EngineAttentionTest, ImportanceOfTheWrongLengthIsInternal) {
  engine_ =
      Engine::Start(options_, std::make_unique<ProbeRunner>(3), nullptr, clock_).value();
  EXPECT_EQ(Run(Score({}, 5, true)).status,
            absl::InternalError(
                "the model runner gave the attention to 3 tokens; 4 were asked for"));
  EXPECT_EQ(Run(Score({}, 5, false)).status,
            absl::InternalError(
                "the model runner gave the attention to 3 tokens; 0 were asked for"));
}

TEST_F(EngineAttentionTest, TheObserversSumsAreTheReceipts) {
  class Observer final : public EngineObserver {
   public:
    void OnStep(const StepReport& step) override {
      for (size_t mode = 0; mode < kAttentionModes; ++mode) {
        AttentionStats sum = step.prefill[mode];
        sum += step.decode[mode];
        if (sum.work.dense_columns > 0) sums[static_cast<AttentionMode>(mode)] += sum;
      }
      prompt_tokens += step.prompt_tokens;
    }
    void OnFinished(const FinishReport& report) override {
      receipts += report.attention;
      ++finished;
    }
    std::map<AttentionMode, AttentionStats> sums;
    AttentionReceipt receipts;
    int64_t prompt_tokens = 0;
    int finished = 0;
  };
  Observer observer;
  model_.set_audit_error([](const AttentionOptions&) { return 0.25; });
  Start(&observer);
  AttentionReceipt told;
  told +=
      Run(Ask({.mode = AttentionMode::kFaithful, .max_error = 0.125f}, 250, 3)).attention;
  told += Run(Score({.mode = kRefined}, 250)).attention;
  engine_.reset();
  EXPECT_EQ(observer.finished, 2);
  EXPECT_EQ(observer.prompt_tokens, 250 + 249);
  // The first chunk had an error too large, and the rest was dense.
  EXPECT_EQ(observer.sums.size(), 3u);
  EXPECT_EQ(observer.sums[AttentionMode::kFaithful].work.dense_columns, 100 * 101 / 2);
  EXPECT_EQ(observer.sums[AttentionMode::kDense].work.columns,
            251 * 252 / 2 + 252 - 100 * 101 / 2);
  AttentionStats all;
  for (const auto& [mode, sum] : observer.sums) all += sum;
  ExpectSame(all, Sum({told.prefill, told.decode}));
  ExpectSame(observer.receipts.prefill, told.prefill);
  ExpectSame(observer.receipts.decode, told.decode);
}

TEST_F(EngineAttentionTest, ARequestThatNeverBeganIsToldOfAsSuch) {
  class Observer final : public EngineObserver {
   public:
    void OnStep(const StepReport&) override {}
    void OnFinished(const FinishReport& report) override {
      (report.started ? started : never_started) += 1;
      EXPECT_EQ(report.stage == RequestStage::kQueue, !report.started);
    }
    int started = 0, never_started = 0;
  };
  Observer observer;
  Start(&observer);
  model_.Block();
  const Submitted running = Submit(Ask({}, 1, 1));
  model_.WaitUntilBlocked();
  const Submitted waiting = Submit(Ask({}, 1, 1));
  engine_->Cancel(waiting.id);
  model_.Release();
  running.record->Wait();
  EXPECT_EQ(waiting.record->Wait().attention.prefill.work, AttentionWork());
  engine_.reset();
  EXPECT_EQ(observer.started, 1);
  EXPECT_EQ(observer.never_started, 1);
}

TEST_F(EngineAttentionTest, RefusesWhatCannotBe) {
  Start();
  const auto refusal = [&](const AttentionOptions& attention) {
    const absl::Status status = Refusal(Ask(attention, 20, 1));
    EXPECT_EQ(Refusal(Score(attention, 20)), status);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal({.eps = 1.5f}), "attention.eps is 1.5; it must be in [0, 1]");
  EXPECT_EQ(refusal({.mode = AttentionMode::kDense, .compact = true}),
            "attention.compact is true; it must be false when the mode is DENSE");
  EXPECT_EQ(refusal({.mode = AttentionMode::kFaithful, .compact = true}),
            "attention.compact is true; it must be false when the mode is FAITHFUL");
  EXPECT_EQ(model_.num_steps(), 0);
  EXPECT_EQ(Refusal(Ask({.compact = true}, 20, 1)), absl::OkStatus());
}

TEST(CheckFaithfulTextTest, AGroupIsNoLongerThanTheText) {
  AttentionOptions faithful{.mode = AttentionMode::kFaithful};
  faithful.faithful.group_tokens = 21;
  EXPECT_EQ(CheckFaithfulText(faithful, 21, 100), absl::OkStatus());
  EXPECT_EQ(CheckFaithfulText(faithful, 20, 100, "a"),
            absl::InvalidArgumentError(
                "a.faithful.group_tokens is 21; it must be at most 20, the text's "
                "tokens"));
  faithful.mode = kRefined;
  EXPECT_EQ(CheckFaithfulText(faithful, 20, 100), absl::OkStatus());
}

TEST(CheckFaithfulTextTest, AWholePromptIsOneWindow) {
  AttentionOptions faithful{.mode = AttentionMode::kFaithful};
  EXPECT_EQ(CheckFaithfulText(faithful, 101, 100), absl::OkStatus());
  faithful.faithful.whole_prompt = true;
  EXPECT_EQ(CheckFaithfulText(faithful, 100, 100), absl::OkStatus());
  EXPECT_EQ(CheckFaithfulText(faithful, 101, 100),
            absl::InvalidArgumentError(
                "attention.faithful.whole_prompt is true; the text must then have at "
                "most 100 tokens, one window, and it has 101"));
}

TEST(CheckAttentionTest, NamesThePath) {
  EXPECT_EQ(CheckAttention({.eps = 2}, "options.attention"),
            absl::InvalidArgumentError("options.attention.eps is 2; it must be in [0, "
                                       "1]"));
}

}  // namespace
}  // namespace quire
