#include "core/summarize/summary_estimate.h"

#include "tests/core/summarize/summarizer_fixture.h"
#include "tests/support/scheduling_recorder.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

class SummaryEstimateTest : public SummarizerFixture {
 protected:
  // Tokens of the prompt around the document, "combine" being no longer than "summarize".
  int64_t Around() const { return Count("Read:\n") + Count("\n\nSummarize.") + 2; }
};

TEST_F(SummaryEstimateTest, ADocumentThatFitsIsOnePass) {
  const TextModel& model = Model(1000);
  EXPECT_THAT(
      EstimateSummary(model, 100, {}).value(),
      ElementsAre(SummaryPasses{.prompt_tokens = 100 + Around(), .new_tokens = 40}));
  EXPECT_THAT(
      EstimateSummary(model, 100, {.max_new_tokens = 7}).value(),
      ElementsAre(SummaryPasses{.prompt_tokens = 100 + Around(), .new_tokens = 7}));
}

TEST_F(SummaryEstimateTest, PartsAndTheirSummariesSummary) {
  const TextModel& model = Model(300);
  // 260 - around tokens fit; nine tenths of it are filled.
  const int64_t room = 260 - Around();
  const auto passes = EstimateSummary(model, 3 * room * 9 / 10, {}).value();
  EXPECT_THAT(
      passes,
      ElementsAre(SummaryPasses{.prompt_tokens = Around() + (3 * room * 9 / 10 + 2) / 3,
                                .new_tokens = 40,
                                .count = 3},
                  SummaryPasses{.prompt_tokens = Around() + 3 * 42, .new_tokens = 40}));
}

TEST_F(SummaryEstimateTest, TellsAsManyPassesAsTheSummaryPlans) {
  answer_ = [](const std::string&) {
    std::string endless;
    for (int i = 0; i < 300; ++i) endless += "on and ";
    return endless;
  };
  const std::string text = Paragraphs(150);
  ASSERT_TRUE(Run(Model(200), text).ok());
  const SummaryPlan& plan = recorder_.plans.at(0);
  const auto estimate = EstimateSummary(*model_, plan.document_tokens, {}).value();
  int64_t passes = 0;
  for (const SummaryPasses& alike : estimate) {
    passes += alike.count;
    EXPECT_LE(alike.prompt_tokens + alike.new_tokens, 200);
  }
  EXPECT_EQ(passes, plan.passes);
}

TEST_F(SummaryEstimateTest, ExtractiveReadsWindows) {
  const TextModel& model = Model(100);
  EXPECT_THAT(
      EstimateSummary(model, 176, {.strategy = SummaryStrategy::kExtractive}).value(),
      ElementsAre(SummaryPasses{.prompt_tokens = 99, .count = 2},
                  SummaryPasses{.prompt_tokens = 25}));
}

TEST_F(SummaryEstimateTest, RefusesAsTheSummaryDoes) {
  const TextModel& model = Model(100);
  EXPECT_EQ(EstimateSummary(model, 10, {.max_new_tokens = 99}).status().code(),
            absl::StatusCode::kInvalidArgument);
  model_->prompts.reset();
  EXPECT_EQ(EstimateSummary(model, 10, {.strategy = SummaryStrategy::kAbstractive})
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(EstimateSummary(model, 10, {}).value().size(), 1u);  // extractive
}

TEST_F(SummaryEstimateTest, TheFirstPassTellsOfTheOthersWhichAreAdmitted) {
  Model(300);
  std::vector<Scheduling> seen;
  const std::unique_ptr<Engine> engine = std::move(model_->engine);
  model_->engine = std::make_unique<SchedulingRecorder>(*engine, seen);
  const std::string text = Paragraphs(40);
  ASSERT_TRUE(
      Run(*model_, text, {.scheduling = {.priority = -1, .tenant = "acme"}}).ok());
  ASSERT_EQ(seen.size(), prompts_.size());
  ASSERT_GE(seen.size(), 5u);
  const auto passes = static_cast<int64_t>(seen.size());
  EXPECT_EQ(seen[0].later_new_tokens, (passes - 1) * 40);
  EXPECT_GT(seen[0].later_prompt_tokens, recorder_.plans[0].document_tokens / 2);
  for (size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].priority, -1);
    EXPECT_EQ(seen[i].tenant, "acme");
    EXPECT_EQ(seen[i].admitted, i > 0) << i;
    EXPECT_EQ(seen[i].later_prompt_tokens > 0, i == 0);
  }
  model_.reset();  // before the engine it refers to
}

TEST_F(SummaryEstimateTest, ALongIntervalJoinsThePiecesOfText) {
  answer_ = [](const std::string&) { return "It ends, after a while, as all does."; };
  SummaryOptions options{.text_interval = [] { return absl::Seconds(10); }};
  ASSERT_TRUE(Run(Model(1000), "A text.", options).ok());
  EXPECT_EQ(recorder_.text(), "It ends, after a while, as all does.");
  // The first at once, with what was there by then; the rest with the end.
  EXPECT_LE(recorder_.pieces.size(), 3u);
  EXPECT_EQ(recorder_.pieces[0].sources.size(), 1u);
  recorder_ = SummaryRecorder();
  ASSERT_TRUE(Run(*model_, "A text.").ok());
  EXPECT_GE(recorder_.pieces.size(), 8u);
}

}  // namespace
}  // namespace quire
