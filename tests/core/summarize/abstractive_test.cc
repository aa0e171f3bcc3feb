#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/summarize/utf8.h"
#include "tests/core/summarize/summarizer_fixture.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class AbstractiveTest : public SummarizerFixture {};

TEST_F(AbstractiveTest, OnePassWhenTheDocumentFits) {
  const std::string text = "\n  One thing happened. Then another did.\n\n";
  const SummaryResult result = Run(Model(1000), text).value();
  EXPECT_THAT(prompts_,
              ElementsAre("Read:\nOne thing happened. Then another did.\n\nSummarize."));
  EXPECT_EQ(recorder_.text(), "It ends.");
  EXPECT_EQ(result.strategy, SummaryStrategy::kAbstractive);
  EXPECT_EQ(result.finish_reason, FinishReason::kStopToken);
  EXPECT_EQ(result.usage.prompt_tokens, Count(prompts_[0]) + 2);
  EXPECT_GE(result.usage.generated_tokens, Count("It ends."));

  ASSERT_EQ(recorder_.plans.size(), 1u);
  const SummaryPlan& plan = recorder_.plans[0];
  EXPECT_EQ(plan.strategy, SummaryStrategy::kAbstractive);
  EXPECT_EQ(plan.document_tokens, Count("One thing happened. Then another did."));
  const ByteSpan all{0, static_cast<int64_t>(text.size())};
  EXPECT_THAT(plan.parts, ElementsAre(all));
  EXPECT_EQ(plan.passes, 1);
  EXPECT_EQ(plan.levels, 0);
  EXPECT_THAT(recorder_.pieces[0].sources, ElementsAre(all));
  for (size_t i = 1; i < recorder_.pieces.size(); ++i) {
    EXPECT_THAT(recorder_.pieces[i].sources, IsEmpty());
  }
}

TEST_F(AbstractiveTest, QuestionAndWordsGoIntoTheInstruction) {
  ASSERT_TRUE(
      Run(Model(1000), "A text.", {.question = "Who is it?", .target_words = 96}).ok());
  EXPECT_THAT(prompts_, ElementsAre("Read:\nA text.\n\nWho is it? In 100 words."));
}

TEST_F(AbstractiveTest, SamplingIsThePromptSetsUnlessGiven) {
  const TextModel& model = Model(1000);
  ASSERT_TRUE(Run(model, "A text.").ok());
  EXPECT_EQ(fake_.steps().back().items[0].sampling.no_repeat_ngram, 5);
  recorder_ = SummaryRecorder();
  ASSERT_TRUE(Run(model, "A text.", {.sampling = SamplingParams{.top_k = 7}}).ok());
  EXPECT_EQ(fake_.steps().back().items[0].sampling.no_repeat_ngram, 0);
  EXPECT_EQ(fake_.steps().back().items[0].sampling.top_k, 7);
}

struct LimitCase {
  int32_t target_words;
  std::optional<int32_t> max_new_tokens;
  int64_t generated;
};
class LimitTest : public AbstractiveTest,
                  public ::testing::WithParamInterface<LimitCase> {};

TEST_P(LimitTest, AnswerEndsAtItsLimit) {
  answer_ = [](const std::string&) {
    std::string endless;
    for (int i = 0; i < 1000; ++i) endless += "on and ";
    return endless;
  };
  const SummaryResult result = Run(Model(2000), "A text.",
                                   {.target_words = GetParam().target_words,
                                    .max_new_tokens = GetParam().max_new_tokens})
                                   .value();
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  EXPECT_EQ(result.usage.generated_tokens, GetParam().generated);
}

INSTANTIATE_TEST_SUITE_P(
    Grid, LimitTest,
    ::testing::Values(LimitCase{0, std::nullopt, 40},  // the prompt set's
                      LimitCase{0, 7, 7},              // as asked
                      LimitCase{100, std::nullopt, 328}, LimitCase{10, std::nullopt, 148},
                      LimitCase{2000, std::nullopt, 500},  // context / 4
                      LimitCase{100, 9, 9}));

TEST_F(AbstractiveTest, PiecesNeverSplitACharacter) {
  answer_ = [](const std::string&) { return " \n\u65E5\u672C\u8A9E \u2603 \U0001F600!"; };
  ASSERT_TRUE(Run(Model(1000), "A text.").ok());
  for (const SummaryRecorder::Piece& piece : recorder_.pieces) {
    EXPECT_EQ(FirstInvalidUtf8(piece.text), -1) << piece.text;
  }
  EXPECT_EQ(recorder_.text(),
            "\u65E5\u672C\u8A9E \u2603 \U0001F600!");  // no space at its start
}

TEST_F(AbstractiveTest, LongDocumentsAreSummarisedInParts) {
  answer_ = [](const std::string& prompt) {
    return absl::StrContains(prompt, "Combine.")
               ? std::string("All of it.")
               : " Part of " + prompt.substr(6, 13) + "\n";
  };
  const std::string text = "\n" + Paragraphs(40);
  const SummaryResult result = Run(Model(300), text).value();
  const SummaryPlan& plan = recorder_.plans.at(0);
  const size_t parts = plan.parts.size();
  ASSERT_GE(parts, 4u);
  EXPECT_EQ(plan.passes, static_cast<int32_t>(parts) + 1);
  EXPECT_EQ(plan.levels, 1);

  // The parts cover the document; each prompt holds its part's text, cut between
  // paragraphs.
  ASSERT_EQ(prompts_.size(), parts + 1);
  int64_t covered = 0;
  std::string joined;
  for (size_t i = 0; i < parts; ++i) {
    EXPECT_EQ(plan.parts[i].begin, covered);
    covered = plan.parts[i].end;
    std::string part = text.substr(plan.parts[i].begin, covered - plan.parts[i].begin);
    const size_t begin = part.find_first_not_of('\n');
    part = part.substr(begin, part.find_last_not_of('\n') + 1 - begin);
    EXPECT_TRUE(absl::StartsWith(part, "Paragraph ")) << part;
    EXPECT_EQ(prompts_[i], "Read:\n" + part + "\n\nSummarize.");
    joined += (i == 0 ? "Part of " : "\n\nPart of ") + part.substr(0, 13);
    while (joined.back() == ' ') joined.pop_back();
  }
  EXPECT_EQ(covered, static_cast<int64_t>(text.size()));
  EXPECT_EQ(prompts_.back(), "Read:\n" + joined + "\n\nCombine.");
  EXPECT_EQ(recorder_.text(), "All of it.");  // of the last pass only
  EXPECT_THAT(recorder_.pieces[0].sources,
              ElementsAre(ByteSpan{0, static_cast<int64_t>(text.size())}));

  int64_t prompt_tokens = 0;
  for (const std::string& prompt : prompts_) prompt_tokens += Count(prompt) + 2;
  EXPECT_EQ(result.usage.prompt_tokens, prompt_tokens);
}

TEST_F(AbstractiveTest, PassesAreCountedInProgress) {
  ASSERT_TRUE(Run(Model(300), Paragraphs(40)).ok());
  const int32_t passes = recorder_.plans.at(0).passes;
  std::set<int32_t> seen;
  for (const SummaryProgress& progress : recorder_.progress) {
    seen.insert(progress.pass);
    EXPECT_EQ(progress.passes, passes);
    EXPECT_LE(progress.done_tokens, progress.total_tokens);
  }
  EXPECT_EQ(static_cast<int32_t>(seen.size()), passes);
  EXPECT_EQ(recorder_.progress.front().phase, SummaryPhase::kQueued);
  EXPECT_EQ(recorder_.progress.back().pass, passes);
}

TEST_F(AbstractiveTest, PartsAreAskedForAShareOfTheWords) {
  answer_ = [](const std::string&) { return "Short."; };
  ASSERT_TRUE(Run(Model(300), Paragraphs(60), {.target_words = 100}).ok());
  ASSERT_GE(prompts_.size(), 7u);
  for (size_t i = 0; i + 1 < prompts_.size(); ++i) {
    EXPECT_TRUE(absl::EndsWith(prompts_[i], "Summarize. In 50 words.")) << prompts_[i];
  }
  EXPECT_TRUE(absl::EndsWith(prompts_.back(), "Combine. In 100 words."));
}

TEST_F(AbstractiveTest, SummariesThatDoNotFitAreSummarisedAgain) {
  answer_ = [](const std::string& prompt) {
    return absl::StrCat("A rather long answer of many words that says little about ",
                        prompt.size(), " bytes of text, once more.");
  };
  ASSERT_TRUE(Run(Model(200), Paragraphs(150)).ok());
  const SummaryPlan& plan = recorder_.plans.at(0);
  EXPECT_GE(plan.levels, 2);
  size_t first_level = 0;
  for (const std::string& prompt : prompts_)
    first_level += absl::EndsWith(prompt, "Summarize.");
  EXPECT_EQ(first_level, plan.parts.size());
  EXPECT_GE(prompts_.size(),
            first_level + 3);  // two parts of the summaries, and the last pass
  EXPECT_LE(static_cast<int32_t>(prompts_.size()), plan.passes);
  for (const SummaryProgress& progress : recorder_.progress) {
    EXPECT_LE(progress.pass, progress.passes);
    EXPECT_LE(progress.passes, plan.passes);
  }
  EXPECT_EQ(recorder_.progress.back().passes, static_cast<int32_t>(prompts_.size()));
}

TEST_F(AbstractiveTest, EndlessAnswersStillComeToAnEnd) {
  answer_ = [](const std::string&) {
    std::string endless;
    for (int i = 0; i < 300; ++i) endless += "on and ";
    return endless;
  };
  const SummaryResult result =
      Run(Model(150), Paragraphs(150), {.max_new_tokens = 100}).value();
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  EXPECT_GE(recorder_.plans.at(0).levels, 3);
}

TEST_F(AbstractiveTest, EmptyAnswersOfPartsAreSkipped) {
  answer_ = [](const std::string& prompt) {
    return std::string(absl::StrContains(prompt, "Paragraph 0") ? "Begin." : " \n");
  };
  ASSERT_TRUE(Run(Model(300), Paragraphs(40)).ok());
  EXPECT_EQ(prompts_.back(), "Read:\nBegin.\n\nCombine.");
}

TEST_F(AbstractiveTest, NothingButEmptyAnswers) {
  answer_ = [](const std::string&) { return ""; };
  const SummaryResult result = Run(Model(300), Paragraphs(40)).value();
  EXPECT_EQ(recorder_.text(), "");
  EXPECT_EQ(prompts_.size(), recorder_.plans.at(0).parts.size());
  EXPECT_EQ(result.finish_reason, FinishReason::kStopToken);
}

TEST_F(AbstractiveTest, PartsWithoutParagraphsOrSentencesCoverTheText) {
  std::string text;
  for (int i = 0; i < 500; ++i) text += "\u4E2D\u6587";
  ASSERT_TRUE(Run(Model(300), text).ok());
  int64_t covered = 0;
  for (const ByteSpan part : recorder_.plans.at(0).parts) {
    EXPECT_EQ(part.begin, covered);
    EXPECT_EQ(part.end % 3, 0);  // between characters
    covered = part.end;
  }
  EXPECT_EQ(covered, static_cast<int64_t>(text.size()));
}

TEST_F(AbstractiveTest, DocumentThatJustFitsTakesOnePass) {
  const std::string text = Paragraphs(8);
  Model(300);
  const int64_t tokens = Count(text.substr(0, text.size() - 2));
  const int64_t around = Count("Read:\n") + Count("\n\nSummarize.") + 2;
  const int32_t limit = static_cast<int32_t>(300 - tokens - around);
  ASSERT_TRUE(Run(*model_, text, {.max_new_tokens = limit}).ok());
  EXPECT_EQ(recorder_.plans.at(0).parts.size(), 1u);
  recorder_ = SummaryRecorder();
  ASSERT_TRUE(Run(*model_, text, {.max_new_tokens = limit + 1}).ok());
  EXPECT_EQ(recorder_.plans.at(0).parts.size(), 2u);
}

}  // namespace
}  // namespace quire
