#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/summarize/summarizer.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_runner.h"

namespace quire {

// Everything that a summary reported; fails on demand.
class SummaryRecorder : public SummaryObserver {
 public:
  struct Piece {
    std::string text;
    std::vector<ByteSpan> sources;
  };

  absl::Status OnPlan(const SummaryPlan& reported) override {
    EXPECT_TRUE(progress.empty() && pieces.empty()) << "the plan comes first";
    plans.push_back(reported);
    return fail_on_plan ? absl::DataLossError("plan") : absl::OkStatus();
  }
  absl::Status OnProgress(const SummaryProgress& reported) override {
    progress.push_back(reported);
    return progress.size() == fail_at_progress ? absl::DataLossError("progress")
                                               : absl::OkStatus();
  }
  absl::Status OnText(std::string_view text,
                      const std::vector<ByteSpan>& sources) override {
    pieces.push_back({std::string(text), sources});
    return pieces.size() == fail_at_text ? absl::DataLossError("text") : absl::OkStatus();
  }

  std::string text() const {
    std::string all;
    for (const Piece& piece : pieces) all += piece.text;
    return all;
  }

  std::vector<SummaryPlan> plans;
  std::vector<SummaryProgress> progress;
  std::vector<Piece> pieces;
  bool fail_on_plan = false;
  size_t fail_at_progress = 0;
  size_t fail_at_text = 0;
};

// A model with the tokenizer of quire-19m whose answers the test writes: a function from
// the prompt's text (without special tokens) to the answer, which ends with the stop
// token.
class SummarizerFixture : public ::testing::Test {
 protected:
  static constexpr TokenId kMark =
      0;  // "<|endoftext|>": before and after the user's turn
  static constexpr TokenId kStop = 8191;
  static constexpr char kPrompts[] =
      R"({"prefix": "<|endoftext|>Read:\n", "between": "\n\n", "suffix": "<|endoftext|>",
          "summarize": "Summarize.", "combine": "Combine.", "words": " In {words} words.",
          "words_step": 10, "max_new_tokens": 40, "sampling": {"no_repeat_ngram": 5}})";

  SummarizerFixture() {
    ModelFiles files;
    files.name = "fake";
    files.config.vocab_size = kVocab;
    files.config.eos_tokens = {kStop};
    files.tokenizer_path = std::string(QUIRE_MODELS_DIR) + "/quire-19m/tokenizer.json";
    files.prompts_json = kPrompts;
    files_ = files;
    fake_.set_next([this](absl::Span<const TokenId> sequence) { return Next(sequence); });
  }

  // Starts the engine, after the fake is set up.
  const TextModel& Model(int32_t context_tokens) {
    files_.config.max_positions = context_tokens;
    model_ = std::make_unique<TextModel>(TextModel::FromFiles(files_).value());
    EngineOptions options;
    options.kv = {.num_blocks = 1000, .tokens_per_block = 64};
    options.model = {kVocab, context_tokens};
    options.chunk_tokens = 64;
    options.max_running = 4;
    model_->engine = Engine::Start(options, fake_.MakeRunner(), nullptr, clock_).value();
    return *model_;
  }

  absl::StatusOr<SummaryResult> Run(const TextModel& model, std::string_view text,
                                    const SummaryOptions& options = {}) {
    return Summarize(model, text, options, clock_, &cancellation_, recorder_);
  }

  int64_t Count(std::string_view text) const {
    return static_cast<int64_t>(model_->tokenizer.Encode(text, false, false)->size());
  }

  // Two sentences a paragraph, all different.
  static std::string Paragraphs(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      const std::string n = std::to_string(i);
      text += "Paragraph " + n + " tells of many things and people. It ends with " + n +
              ".\n\n";
    }
    return text;
  }

  FakeClock clock_;
  FakeModel fake_{kVocab, 64};
  ModelFiles files_;
  std::unique_ptr<TextModel> model_;
  Cancellation cancellation_;
  SummaryRecorder recorder_;
  std::function<std::string(const std::string& prompt)> answer_ = [](const std::string&) {
    return "It ends.";
  };
  std::vector<std::string> prompts_;  // in order; written by the engine thread

 private:
  static constexpr int32_t kVocab = 8192;

  TokenId Next(absl::Span<const TokenId> sequence) {
    const auto mark = std::find(sequence.begin() + 1, sequence.end(), kMark);
    const size_t prompt_size = static_cast<size_t>(mark - sequence.begin()) + 1;
    const size_t generated = sequence.size() - prompt_size;
    if (generated == 0) {
      prompts_.push_back(
          model_->tokenizer.Decode(sequence.subspan(0, prompt_size), true).value());
      answer_tokens_ =
          model_->tokenizer.Encode(answer_(prompts_.back()), false, false).value();
    }
    return generated < answer_tokens_.size() ? answer_tokens_[generated] : kStop;
  }

  std::vector<TokenId> answer_tokens_;
};

}  // namespace quire
