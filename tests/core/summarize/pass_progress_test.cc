#include "core/summarize/pass_progress.h"

#include <gtest/gtest.h>

#include "core/summarize/summary_lengths.h"
#include "tests/support/fake_clock.h"

namespace quire {
namespace {

TEST(PassProgressTest, CountsPassesAndEstimatesOverAllOfThem) {
  FakeClock clock;
  PassProgress progress(clock);
  SummaryProgress now = progress.BeginPass(
      1000, 100, {.passes = 2, .prefill_tokens = 1500, .decode_tokens = 200});
  EXPECT_EQ(now.phase, SummaryPhase::kQueued);
  EXPECT_EQ(now.total_tokens, 1000);
  EXPECT_EQ(now.pass, 1);
  EXPECT_EQ(now.passes, 3);
  EXPECT_FALSE(now.eta.has_value());

  clock.Advance(absl::Seconds(60));  // in the queue: not counted
  now = progress.OnPrefill(200);
  EXPECT_EQ(now.phase, SummaryPhase::kPrefill);
  EXPECT_EQ(now.done_tokens, 200);
  EXPECT_FALSE(now.eta.has_value());
  clock.Advance(absl::Seconds(2));
  now = progress.OnPrefill(600);  // 200 tokens a second; 400 + 1500 are left
  EXPECT_EQ(now.eta, absl::Milliseconds(9500));

  clock.Advance(absl::Seconds(1));
  now = progress.OnToken();
  EXPECT_EQ(now.phase, SummaryPhase::kDecode);
  EXPECT_EQ(now.done_tokens, 1);
  EXPECT_EQ(now.total_tokens, 100);
  EXPECT_FALSE(now.eta.has_value());
  clock.Advance(absl::Milliseconds(100));
  now = progress.OnToken();  // 98 + 200 are left
  EXPECT_EQ(now.eta, absl::Milliseconds(29800));

  clock.Advance(absl::Seconds(60));
  now = progress.BeginPass(500, 100,
                           {.passes = 1, .prefill_tokens = 700, .decode_tokens = 100});
  EXPECT_EQ(now.pass, 2);
  EXPECT_EQ(now.passes, 3);
  now = progress.OnPrefill(250);  // at the rate measured so far
  EXPECT_EQ(now.eta, absl::Milliseconds(4750));
  now = progress.OnToken();
  EXPECT_EQ(now.eta, absl::Milliseconds(19900));
}

PassLengths Lengths(int32_t context, int64_t prompt, std::optional<int32_t> requested,
                    int32_t words) {
  return PlanPassLengths({context, prompt, 420, requested, words}).value();
}

TEST(PassLengthsTest, AnswersLimit) {
  EXPECT_EQ(Lengths(32768, 50, std::nullopt, 0).new_tokens, 420);  // the prompt set's
  EXPECT_EQ(Lengths(32768, 50, std::nullopt, 200).new_tokens,
            528);  // two for each word + 128
  EXPECT_EQ(Lengths(32768, 50, std::nullopt, 10).new_tokens, 148);
  EXPECT_EQ(Lengths(32768, 50, std::nullopt, 2000).new_tokens, 4128);
  EXPECT_EQ(Lengths(32768, 50, 7, 200).new_tokens, 7);  // asked for
  EXPECT_EQ(Lengths(1000, 50, std::nullopt, 0).new_tokens,
            250);  // a quarter of the context
  EXPECT_EQ(Lengths(1000, 50, 900, 0).new_tokens, 900);
}

TEST(PassLengthsTest, RestIsTheDocuments) {
  const PassLengths lengths = Lengths(32768, 50, std::nullopt, 0);
  EXPECT_EQ(lengths.document_tokens, 32768 - 50 - 420);
  EXPECT_EQ(lengths.part_new_tokens, 420);
  EXPECT_EQ(Lengths(1000, 50, 800, 0).part_new_tokens, 37);  // a quarter of 150
}

TEST(PassLengthsTest, RefusesWhatLeavesNoRoom) {
  EXPECT_TRUE(PlanPassLengths({1000, 50, 420, 934, 0}).ok());
  const absl::Status status = PlanPassLengths({1000, 50, 420, 935, 0}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "max_new_tokens is 935 and the prompt around the document takes 50 tokens; "
            "they must "
            "leave at least 16 of the model's context of 1000 tokens for the document");
}

TEST(PassLengthsTest, WordsOfAPart) {
  EXPECT_EQ(PartWords(0, 4), 0);
  EXPECT_EQ(PartWords(200, 2), 200);
  EXPECT_EQ(PartWords(200, 4), 150);
  EXPECT_EQ(PartWords(200, 100), 50);
  EXPECT_EQ(PartWords(30, 100), 30);
}

TEST(PassLengthsTest, EstimatesPassesAndLevels) {
  const PassLengths lengths{
      .new_tokens = 100, .part_new_tokens = 100, .document_tokens = 1000};
  const auto estimate = [&](int64_t parts) {
    const PassEstimate found = EstimatePasses(parts, lengths);
    return std::pair(found.passes, found.levels);
  };
  EXPECT_EQ(estimate(1), std::pair(1, 0));
  EXPECT_EQ(estimate(2), std::pair(3, 1));
  EXPECT_EQ(estimate(9), std::pair(10, 1));
  EXPECT_EQ(estimate(10), std::pair(13, 2));  // 1,020 tokens: two parts, then one
  const PassLengths tight{.new_tokens = 64, .part_new_tokens = 4, .document_tokens = 16};
  EXPECT_EQ(EstimatePasses(1'000'000, tight).levels, 17);  // it ends
}

}  // namespace
}  // namespace quire
