#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/request_limits.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// Thousands of requests of all kinds through the engine's public functions, with little
// memory, tenants, priorities, cancels, deadlines and faults. The fake model checks every
// cache position that a step reads; its answers depend on all tokens before them.
namespace quire {
namespace {

constexpr int kRequests = 2000;

struct Setting {
  uint32_t seed;
  PrefixCaching caching;
  AdmissionMode admission;
  bool device;  // the runner has one that computes by itself
};

struct Sent {
  RequestId id{};
  std::shared_ptr<SinkRecord> record;
  std::vector<TokenId> wanted;  // that is reported if nothing goes wrong
  int64_t prompt_tokens = 0;
  FinishReason reason{};
};

// True for about one in `n` of all values, by a hash.
bool OneIn(uint64_t n, uint64_t value) {
  return (value * 0x9e3779b97f4a7c15u >> 33) % n == 0;
}

class EngineRandomTest : public BatchingFixture,
                         public testing::WithParamInterface<Setting> {
 protected:
  EngineRandomTest() : random_(GetParam().seed) {
    options_.kv.num_blocks = 70;
    options_.model.max_positions = 400;
    options_.long_prompt_tokens = 60;
    options_.max_long_prefills = 1;
    options_.max_waiting = 40;
    options_.prefix_caching = GetParam().caching;
    options_.admission = GetParam().admission;
    model_.set_next(NextOfAll);
    model_.set_audit_error([](const AttentionOptions& options) { return options.eps; });
    model_.set_drop([](const StepItem& item) {
      return item.begin + item.tokens.size() > 12 ? std::vector<int32_t>{1}
                                                  : std::vector<int32_t>{};
    });
    const auto compute = [this](const StepInput&) {
      clock_.Advance(absl::Seconds(1));
      if (OneIn(200, model_.num_steps())) throw std::runtime_error("bad kernel");
    };
    if (GetParam().device) {
      model_.set_on_step([this](const StepInput&) {
        if (OneIn(3, model_.num_steps())) clock_.Advance(absl::Milliseconds(1));
        if (OneIn(100, model_.num_steps())) throw std::runtime_error("not launched");
      });
      model_.LaunchSteps(compute);
    } else {
      model_.set_on_step(compute);
    }
    model_.set_fail_step([this](const StepInput& input) {
      return OneIn(70, model_.num_steps() + input.items.size())
                 ? absl::ResourceExhaustedError("device memory")
                 : absl::OkStatus();
    });
    model_.set_fail_item([](const StepItem& item) {
      return OneIn(700, static_cast<uint64_t>(item.id) * 1000 + item.begin)
                 ? absl::DataLossError("bits")
                 : absl::OkStatus();
    });
    Start(&observer_);
  }

  int Pick(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }

  // Many texts begin alike; a few are long enough to be read sparsely.
  std::vector<TokenId> RandomTokens() {
    std::vector<TokenId> tokens = Tokens(2 + Pick(40), 30 * Pick(3));
    if (Pick(25) == 0) tokens = Tokens(195 + Pick(20), 5);
    if (Pick(2) == 0) tokens.back() = 97;
    return tokens;
  }
  AttentionOptions RandomAttention() {
    switch (Pick(8)) {
      case 0:
        return {.mode = AttentionMode::kFaithful,
                .faithful = {.whole_prompt = Pick(2) == 0}};
      case 1:
        return {.mode = AttentionMode::kRefined, .compact = true};
      case 2:
        return {.mode = AttentionMode::kRefined, .eps = 0.5f, .max_error = 0.2f};
      case 3:
        return {.mode = AttentionMode::kRefined, .eps = 0.25f};
      case 4:
        return {.mode = AttentionMode::kDense};
      default:
        return {};
    }
  }
  EngineRequest RandomRequest(Sent& sent) {
    std::vector<TokenId> tokens = RandomTokens();
    EngineRequest request;
    if (Pick(4) == 0) {
      ScoreRequest score{.first = 1 + Pick(static_cast<int>(tokens.size()) - 1)};
      sent.wanted.assign(tokens.begin() + score.first, tokens.end());
      sent.prompt_tokens = static_cast<int64_t>(tokens.size()) - 1;
      sent.reason = FinishReason::kScored;
      score.importance = Pick(8) == 0;
      score.tokens = std::move(tokens);
      request.work = std::move(score);
    } else {
      request.work = RandomGenerate(std::move(tokens), sent);
    }
    request.scheduling = {.priority = Pick(5) - 2, .tenant = std::string(Pick(4), 't')};
    if (Pick(4) == 0) request.deadline = clock_.Now() + absl::Seconds(Pick(150));
    return WithAttention(std::move(request), RandomAttention());
  }
  GenerateRequest RandomGenerate(std::vector<TokenId> prompt, Sent& sent) {
    GenerateRequest generate{.max_new_tokens = 1 + Pick(60)};
    if (Pick(4) == 0) generate.stop_tokens = {Pick(97), Pick(97), Pick(97)};
    sent.prompt_tokens = static_cast<int64_t>(prompt.size());
    sent.reason = FinishReason::kLength;
    for (const TokenId token : AnswerOfAll(prompt, generate.max_new_tokens)) {
      const auto& stops = generate.stop_tokens;
      if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
        sent.reason = FinishReason::kStopToken;
        break;
      }
      sent.wanted.push_back(token);
    }
    generate.prompt = std::move(prompt);
    return generate;
  }

  void SendOne() {
    Sent sent{.record = std::make_shared<SinkRecord>()};
    EngineRequest request = RandomRequest(sent);
    if (Pick(10) == 0) engine_->Estimate(ShapeOf(request));
    const absl::StatusOr<RequestId> id =
        engine_->Submit(std::move(request), std::make_unique<RecordingSink>(sent.record));
    if (!id.ok()) {
      EXPECT_TRUE(RefusalOf(id.status()) == quire::Refusal::kWaitingRoomFull ||
                  RefusalOf(id.status()) == quire::Refusal::kDeadlineTooClose ||
                  id.status().code() == absl::StatusCode::kDeadlineExceeded)
          << id.status();
      EXPECT_TRUE(sent.record->sink_destroyed());
      ++refused_;
      return;
    }
    sent.id = *id;
    sent_.push_back(std::move(sent));
  }
  void DoSomethingElse() {
    if (sent_.empty()) return;
    const size_t recent = std::min<size_t>(sent_.size(), 40);
    const Sent& some = sent_[sent_.size() - 1 - random_() % recent];
    if (Pick(6) == 0) engine_->Cancel(some.id);
    if (Pick(3) == 0) some.record->Wait();
    if (Pick(4) == 0) std::this_thread::sleep_for(std::chrono::microseconds(Pick(300)));
    const EngineStats stats = engine_->stats();
    EXPECT_LE(stats.running, options_.max_running);
    EXPECT_LE(stats.waiting, options_.max_running + options_.max_waiting);
    EXPECT_GE(stats.free_blocks, 0);
  }

  void CheckOutput(const Sent& sent, const Finished& finished) {
    const std::vector<TokenId> reported = ReportedTokens(*sent.record);
    ASSERT_LE(reported.size(), sent.wanted.size());
    EXPECT_TRUE(std::equal(reported.begin(), reported.end(), sent.wanted.begin()));
    if (sent.reason != FinishReason::kScored) {
      EXPECT_EQ(finished.usage.generated_tokens, static_cast<int64_t>(reported.size()));
    }
    if (!finished.status.ok()) return;
    EXPECT_EQ(reported.size(), sent.wanted.size());
    EXPECT_EQ(finished.reason, sent.reason);
    EXPECT_EQ(finished.usage.prompt_tokens, sent.prompt_tokens);
  }
  void CheckEvents(const Sent& sent) {
    int64_t done = 0;
    for (const std::string& progress : ProgressOf(*sent.record)) {
      EXPECT_GT(std::stoi(progress), done);
      done = std::stoi(progress);
    }
    for (const std::string& event : sent.record->events()) {
      EXPECT_EQ(event.find("after the end"), std::string::npos);
      EXPECT_NE(event, "finished again");
    }
    EXPECT_TRUE(sent.record->sink_destroyed());
  }
  void CheckSums(const Usage& usage) {
    int64_t prompt = 0, generated = 0, recomputed = 0;
    for (const auto& step : observer_.steps()) {
      prompt += step.report.prompt_tokens;
      generated += step.report.generated_tokens;
      recomputed += step.report.recomputed_tokens;
    }
    EXPECT_EQ(prompt, usage.prompt_tokens - usage.cached_tokens);
    EXPECT_EQ(generated, usage.generated_tokens);
    EXPECT_GT(recomputed, 0);
    Usage reported;
    for (const auto& end : observer_.ends()) reported += end.report.usage;
    EXPECT_EQ(reported, usage);
    EXPECT_EQ(observer_.ends().size(), sent_.size());
    const bool caches = GetParam().caching != PrefixCaching::kOff;
    EXPECT_EQ(usage.cached_tokens > 0, caches);
    EXPECT_GT(engine_->stats().preemptions, 0);
    EXPECT_EQ(engine_->stats().cached_tokens, usage.cached_tokens);
    EXPECT_EQ(engine_->stats().plans_ahead > 100, GetParam().device);
  }

  std::mt19937 random_;
  RecordingObserver observer_;
  std::vector<Sent> sent_;
  int refused_ = 0;
};

TEST_P(EngineRandomTest, EveryRequestEndsOnceAsItWouldAlone) {
  for (int i = 0; i < kRequests; ++i) {
    SendOne();
    while (Pick(2) == 0) DoSomethingElse();
  }
  engine_->Drain(absl::InfiniteFuture());
  std::map<absl::StatusCode, int> ends;
  Usage usage;
  for (const Sent& sent : sent_) {
    ASSERT_TRUE(sent.record->finished());
    const Finished finished = sent.record->Wait();
    ++ends[finished.status.code()];
    usage += finished.usage;
    CheckOutput(sent, finished);
    CheckEvents(sent);
  }
  EXPECT_EQ(static_cast<int>(sent_.size()) + refused_, kRequests);
  EXPECT_GT(ends[absl::StatusCode::kOk], kRequests / 3);
  EXPECT_GT(ends[absl::StatusCode::kCancelled], 0);
  EXPECT_GT(ends[absl::StatusCode::kDataLoss], 0);
  CheckSums(usage);
  ExpectAllBlocksBack();
  EXPECT_EQ(engine_->stats().tenants, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Seeds, EngineRandomTest,
    testing::Values(Setting{1, PrefixCaching::kPerTenant, AdmissionMode::kOff, false},
                    Setting{2, PrefixCaching::kShared, AdmissionMode::kReport, false},
                    Setting{3, PrefixCaching::kOff, AdmissionMode::kEnforce, false},
                    Setting{4, PrefixCaching::kShared, AdmissionMode::kEnforce, false},
                    Setting{5, PrefixCaching::kPerTenant, AdmissionMode::kEnforce, true},
                    Setting{6, PrefixCaching::kShared, AdmissionMode::kReport, true},
                    Setting{7, PrefixCaching::kOff, AdmissionMode::kOff, true}));

}  // namespace
}  // namespace quire
