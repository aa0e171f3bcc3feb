#include "core/summarize/summarizer.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <set>

#include "absl/strings/str_split.h"
#include "tests/core/summarize/summarizer_fixture.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SummarizerTest : public SummarizerFixture {};

TEST_F(SummarizerTest, RefusesBadInputAndNamesTheField) {
  const TextModel& model = Model(1000);
  SamplingParams bad_sampling;
  bad_sampling.top_p = std::numeric_limits<float>::quiet_NaN();
  const auto refuses = [&](std::string_view text, const SummaryOptions& options,
                           const std::string& message) {
    const absl::Status status = Run(model, text, options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  refuses("", {}, "input.text is empty");
  refuses(" \n\t\u00A0\u3000 ", {}, "input.text holds nothing but white space");
  refuses("abc\xC3", {}, "input.text is not UTF-8: the byte at offset 3");
  refuses("a", {.question = std::string(2001, 'q')}, "question has 2001 bytes");
  refuses("a", {.question = "w\xFF"}, "question is not UTF-8: the byte at offset 1");
  refuses("a", {.target_words = 9}, "target_words is 9");
  refuses("a", {.target_words = 2001}, "target_words is 2001");
  refuses("a", {.target_words = -1}, "target_words is -1");
  refuses("a", {.max_new_tokens = 0}, "max_new_tokens is 0");
  refuses("a", {.max_new_tokens = 990}, "max_new_tokens is 990");
  refuses("a", {.sampling = bad_sampling}, "sampling.top_p");
  EXPECT_TRUE(recorder_.plans.empty());
  EXPECT_EQ(fake_.num_steps(), 0);
}

TEST_F(SummarizerTest, BaseModelsAreExtractive) {
  files_.prompts_json.reset();
  const TextModel& model = Model(1000);
  EXPECT_EQ(Run(model, "One. Two.", {.strategy = SummaryStrategy::kAbstractive})
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Run(model, "One. Two.")->strategy, SummaryStrategy::kExtractive);
  EXPECT_EQ(recorder_.text(), "One. Two.");
}

TEST_F(SummarizerTest, ObserversErrorsStop) {
  const TextModel& model = Model(300);
  for (const SummaryStrategy strategy :
       {SummaryStrategy::kAbstractive, SummaryStrategy::kExtractive}) {
    for (const std::string where : {"plan", "progress", "text"}) {
      recorder_ = SummaryRecorder();
      recorder_.fail_on_plan = where == "plan";
      recorder_.fail_at_progress = where == "progress" ? 3 : 0;
      recorder_.fail_at_text = where == "text" ? 2 : 0;
      const absl::Status status =
          Run(model, Paragraphs(40), {.strategy = strategy}).status();
      EXPECT_EQ(status, absl::DataLossError(where));
      EXPECT_LE(recorder_.pieces.size(), 2u);
    }
  }
}

TEST_F(SummarizerTest, RunnersErrorPassesThrough) {
  fake_.FailStep(7, absl::DataLossError("bad memory"));
  const absl::Status status = Run(Model(300), Paragraphs(40)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("bad memory"));
}

TEST_F(SummarizerTest, EnginesRefusalPassesThrough) {
  const TextModel& model = Model(300);
  model.engine->Drain(absl::InfinitePast());
  EXPECT_EQ(Run(model, "A text.").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(SummarizerTest, CancelStopsBetweenTwoSteps) {
  for (const SummaryStrategy strategy :
       {SummaryStrategy::kAbstractive, SummaryStrategy::kExtractive}) {
    FakeModel fake(8192, 64);
    Cancellation cancellation;
    fake.set_on_step([&, steps = 0](const StepInput&) mutable {
      if (++steps == 6) cancellation.Cancel();
    });
    TextModel model = TextModel::FromFiles(files_).value();
    model.config.max_positions = 300;
    EngineOptions options;
    options.kv = {.num_blocks = 100, .tokens_per_block = 64};
    options.model = {8192, 300};
    options.chunk_tokens = 64;
    options.max_running = 4;
    model.engine = Engine::Start(options, fake.MakeRunner(), nullptr, clock_).value();
    const absl::Status status = Summarize(model, Paragraphs(300), {.strategy = strategy},
                                          clock_, &cancellation, recorder_)
                                    .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
    EXPECT_LE(fake.num_steps(), 60);  // the pass at hand may come to its end
    EXPECT_TRUE(recorder_.pieces.empty());
    recorder_ = SummaryRecorder();
  }
}

TEST_F(SummarizerTest, DeadlineStops) {
  fake_.set_on_step([&](const StepInput&) { clock_.Advance(absl::Seconds(1)); });
  const absl::Status status =
      Run(Model(300), Paragraphs(40), {.deadline = clock_.Now() + absl::Seconds(20)})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LE(fake_.num_steps(), 21);
  recorder_ = SummaryRecorder();
  EXPECT_EQ(Run(*model_, "A text.", {.deadline = clock_.Now()}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(SummarizerTest, EstimatesTheTimeThatIsLeft) {
  fake_.set_on_step([&](const StepInput&) { clock_.Advance(absl::Seconds(1)); });
  answer_ = [](const std::string&) {
    return "Zorg left and Ann stayed; Bo and Cy and Di and Ed and Flo came later, but "
           "not all stayed.";
  };
  ASSERT_TRUE(Run(Model(300), Paragraphs(40)).ok());
  bool estimated = false;
  for (const SummaryProgress& progress : recorder_.progress) {
    if (progress.eta.has_value()) {
      estimated = true;
      EXPECT_GE(*progress.eta, absl::ZeroDuration());
      EXPECT_LE(*progress.eta, absl::Hours(1));
    }
  }
  EXPECT_TRUE(estimated);
}

// ------------------------------------------------------------------------- extractive

class ExtractiveTest : public SummarizerFixture {
 protected:
  ExtractiveTest() { options_.strategy = SummaryStrategy::kExtractive; }
  // Sentences exactly as they stand, in order, with separators that come from nowhere.
  void ExpectQuotes(const std::string& text) {
    int64_t last = 0;
    for (size_t i = 0; i < recorder_.pieces.size(); ++i) {
      const SummaryRecorder::Piece& piece = recorder_.pieces[i];
      if (i % 2 == 1) {
        EXPECT_THAT(piece.text, ::testing::AnyOf(" ", "\n\n"));
        EXPECT_THAT(piece.sources, IsEmpty());
        continue;
      }
      ASSERT_EQ(piece.sources.size(), 1u);
      const ByteSpan span = piece.sources[0];
      EXPECT_EQ(piece.text, text.substr(span.begin, span.end - span.begin));
      EXPECT_GE(span.begin, last);
      last = span.end;
    }
    EXPECT_EQ(recorder_.pieces.size() % 2, 1u);
  }
  static int64_t Words(const std::string& text) {
    int64_t words = 0;
    bool inside = false;
    for (const char c : text) {
      const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
      words += letter && !inside;
      inside = letter;
    }
    return words;
  }

  SummaryOptions options_;
};

TEST_F(ExtractiveTest, QuotesSentencesInOrder) {
  const std::string text = Paragraphs(60);
  const SummaryResult result = Run(Model(4000), text, options_).value();
  ExpectQuotes(text);
  EXPECT_GT(recorder_.pieces.size(), 5u);
  EXPECT_LE(Words(recorder_.text()), 150);  // the default
  EXPECT_GT(Words(recorder_.text()), 130);
  EXPECT_EQ(result.strategy, SummaryStrategy::kExtractive);
  EXPECT_EQ(result.finish_reason, FinishReason::kScored);
  EXPECT_EQ(result.usage.prompt_tokens, Count(text) - 1);
  EXPECT_EQ(result.usage.generated_tokens, 0);
  const SummaryPlan& plan = recorder_.plans.at(0);
  EXPECT_EQ(plan.strategy, SummaryStrategy::kExtractive);
  EXPECT_EQ(plan.document_tokens, Count(text));
  EXPECT_THAT(plan.parts, ElementsAre(ByteSpan{0, static_cast<int64_t>(text.size())}));
  EXPECT_EQ(plan.passes, 1);
}

TEST_F(ExtractiveTest, KeepsToTheWantedWords) {
  options_.target_words = 40;
  const std::string text = Paragraphs(60);
  ASSERT_TRUE(Run(Model(4000), text, options_).ok());
  ExpectQuotes(text);
  EXPECT_LE(Words(recorder_.text()), 40);
  EXPECT_GT(Words(recorder_.text()), 30);
}

TEST_F(ExtractiveTest, ShortTextsComeBackWhole) {
  const std::string text = " A first one. A second.\n\nAnd \u201Ca third\u201D!\n";
  ASSERT_TRUE(Run(Model(1000), text, options_).ok());
  ExpectQuotes(text);
  EXPECT_EQ(recorder_.text(), "A first one. A second.\n\nAnd \u201Ca third\u201D!");
}

TEST_F(ExtractiveTest, OneToken) {
  ASSERT_TRUE(Run(Model(1000), "a", options_).ok());
  EXPECT_EQ(recorder_.text(), "a");
}

TEST_F(ExtractiveTest, LongTextsAreReadInWindows) {
  const std::string text = Paragraphs(60);
  ASSERT_TRUE(Run(Model(4000), text, options_).ok());
  const std::string whole = recorder_.text();
  recorder_ = SummaryRecorder();
  ASSERT_TRUE(Run(Model(300), text, options_).ok());
  // The fake's scores do not depend on the window, nor does the importance of its tokens
  // but for rounding, which decides between sentences that are alike.
  const std::set<std::string> in_one = absl::StrSplit(whole, "\n\n"),
                              in_many = absl::StrSplit(recorder_.text(), "\n\n");
  std::vector<std::string> both;
  std::set_intersection(in_one.begin(), in_one.end(), in_many.begin(), in_many.end(),
                        std::back_inserter(both));
  EXPECT_EQ(in_one.size(), in_many.size());
  EXPECT_GE(both.size() + 2, in_one.size());
  const int32_t passes = recorder_.plans.at(0).passes;
  EXPECT_GE(passes, 5);
  EXPECT_EQ(recorder_.progress.front().phase, SummaryPhase::kQueued);
  EXPECT_EQ(recorder_.progress.back().pass, passes);
  for (const SummaryProgress& progress : recorder_.progress)
    EXPECT_EQ(progress.passes, passes);
}

TEST_F(ExtractiveTest, QuestionChoosesWhatItIsAbout) {
  options_.target_words = 20;
  options_.question = "What happens in paragraph 37?";
  ASSERT_TRUE(Run(Model(4000), Paragraphs(60), options_).ok());
  EXPECT_THAT(recorder_.text(), HasSubstr("37"));
  options_.question = "What happens in paragraph 12?";
  recorder_ = SummaryRecorder();
  ASSERT_TRUE(Run(*model_, Paragraphs(60), options_).ok());
  EXPECT_THAT(recorder_.text(), HasSubstr("12"));
}

TEST_F(ExtractiveTest, WhatTheModelLearntDecides) {
  // "Zorg" is surprising until it was read, all else is not.
  const TokenId zorg =
      TextModel::FromFiles(files_)->tokenizer.Encode(" Zorg", false, false)->front();
  fake_.set_logprob([zorg](absl::Span<const TokenId> prefix, TokenId target) {
    if (target != zorg) return -1.0f;
    return std::count(prefix.begin(), prefix.end(), zorg) == 0 ? -20.0f : -1.0f;
  });
  std::string text;
  for (int i = 0; i < 30; ++i) {
    text += i % 10 == 7 ? "The king Zorg came here. " : "The rain fell on them. ";
  }
  options_.target_words = 15;
  ASSERT_TRUE(Run(Model(4000), text, options_).ok());
  EXPECT_EQ(recorder_.text(),
            "The king Zorg came here. The king Zorg came here. The king Zorg came here.");
}

// All words cost the same; those of the second sentence are looked back at more.
TEST_F(ExtractiveTest, ImportanceDecidesBetweenEquals) {
  const Tokenizer tokenizer = std::move(TextModel::FromFiles(files_)->tokenizer);
  fake_.set_logprob([](absl::Span<const TokenId>, TokenId) { return -1.0f; });
  std::multimap<double, std::string> words;
  for (const char* word :
       {" man", " house", " day", " night", " hand", " time", " head", " room", " door",
        " water", " wind", " light", " face", " road", " wall", " fire"}) {
    const std::vector<TokenId> ids = tokenizer.Encode(word, false, false).value();
    if (ids.size() == 1) words.emplace(FakeWeight(ids[0]), word);
  }
  ASSERT_GE(words.size(), 12u);
  std::string first = "The", second = "The";
  auto light = words.begin();
  auto heavy = words.rbegin();
  for (int i = 0; i < 6; ++i) {
    first += (light++)->second;
    second += (heavy++)->second;
  }
  options_.target_words = 10;  // there is room for one
  ASSERT_TRUE(Run(Model(4000), first + ". " + second + ".", options_).ok());
  EXPECT_EQ(recorder_.text(), second + ".");
}

TEST_F(ExtractiveTest, ImpossibleTokensDoNotSpoilTheScores) {
  fake_.set_logprob([](absl::Span<const TokenId> prefix, TokenId) {
    return prefix.size() % 3 == 0 ? -std::numeric_limits<float>::infinity() : -1.0f;
  });
  const std::string text = Paragraphs(60);
  ASSERT_TRUE(Run(Model(4000), text, options_).ok());
  ExpectQuotes(text);
  EXPECT_GT(Words(recorder_.text()), 130);
}

}  // namespace
}  // namespace quire
