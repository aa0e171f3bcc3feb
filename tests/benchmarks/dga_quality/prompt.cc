#include "tests/benchmarks/dga_quality/prompt.h"

#include <algorithm>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tokenizer/chat_template.h"

namespace quire::quality {
namespace {

constexpr const char* kAdjectives[] = {"blue",  "old",   "silver", "wooden",
                                       "green", "quiet", "broken", "iron"};
constexpr const char* kNouns[] = {"lantern", "anchor",  "kettle", "bridge",
                                  "parrot",  "harbour", "mirror", "key"};
constexpr std::string_view kSystem = "You are a careful reader of long documents.";
constexpr size_t kDigits = 5;

struct Fact {
  std::string thing;
  std::string code;
  std::string Sentence() const {
    return absl::StrCat("secret code of the ", thing, " is ", code);
  }
};

std::vector<Fact> DrawFacts(int count, std::mt19937_64& random) {
  std::vector<Fact> facts;
  for (const char* adjective : kAdjectives) {
    for (const char* noun : kNouns) {
      facts.push_back({absl::StrCat(adjective, " ", noun),
                       std::to_string(10'000 + random() % 90'000)});
    }
  }
  std::shuffle(facts.begin(), facts.end(), random);
  facts.resize(std::min<size_t>(facts.size(), count));
  return facts;
}

class Builder {
 public:
  Builder(const ModelFiles& files, const Tokenizer& tokenizer,
          const PromptOptions& options)
      : tokenizer_(tokenizer), options_(options), random_(options.seed) {
    if (!files.chat_template.empty()) {
      auto parsed =
          ChatTemplate::Parse(files.chat_template, files.bos_token, files.eos_token);
      if (parsed.ok()) template_ = *std::move(parsed);
    }
    facts_ = DrawFacts(options.facts, random_);
    asked_ = facts_;
    std::shuffle(asked_.begin(), asked_.end(), random_);
    places_.resize(facts_.size());
    for (double& place : places_) place = static_cast<double>(random_() % 1000) / 1024;
  }

  absl::StatusOr<Prompt> Build(std::string_view text) const {
    return Fit<Prompt>(text, [this](std::string_view piece) { return Assemble(piece); });
  }
  absl::StatusOr<Questions> BuildQuestions(std::string_view text) const {
    return Fit<Questions>(text, [this](std::string_view piece) { return Ask(piece); });
  }

 private:
  static int64_t Size(const Prompt& prompt) {
    return static_cast<int64_t>(prompt.tokens.size());
  }
  static int64_t Size(const Questions& asked) {
    size_t longest = 0;
    for (const auto& q : asked.questions) longest = std::max(longest, q.tokens.size());
    return static_cast<int64_t>(asked.text.size() + longest);
  }

  // What is made of the longest piece of the text with which it fits.
  template <typename Made, typename Make>
  absl::StatusOr<Made> Fit(std::string_view text, const Make& make) const {
    QUIRE_ASSIGN_OR_RETURN(const Made empty, make(""));
    int64_t budget = options_.tokens - Size(empty);
    while (budget > 0) {
      QUIRE_ASSIGN_OR_RETURN(const std::string_view piece, Cut(text, budget));
      QUIRE_ASSIGN_OR_RETURN(Made made, make(piece));
      const int64_t over = Size(made) - options_.tokens;
      if (over <= 0) return made;
      budget -= over;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("a prompt of ", options_.tokens, " tokens has no room for ",
                     facts_.size(), " facts and their questions"));
  }

  // Whole words of the text, at most `budget` tokens.
  absl::StatusOr<std::string_view> Cut(std::string_view text, int64_t budget) const {
    const size_t bytes =
        std::min(text.size(), static_cast<size_t>(budget) * kBytesPerTokenAtMost);
    std::string_view piece = text.substr(0, bytes);
    piece = piece.substr(0, piece.rfind(' '));  // no part of a character
    QUIRE_ASSIGN_OR_RETURN(const Encoding encoding,
                           tokenizer_.EncodeWithSpans(piece, false, false));
    if (static_cast<int64_t>(encoding.ids.size()) <= budget) {
      return absl::InvalidArgumentError(absl::StrCat("the text has ", encoding.ids.size(),
                                                     " tokens from there on; ", budget,
                                                     " are needed"));
    }
    piece = piece.substr(0, encoding.spans[budget].begin);
    return piece.substr(0, piece.find_last_of(" \n"));
  }

  // The facts between lines of the text, anywhere in it.
  std::string Hide(std::string_view text) const {
    std::vector<std::pair<size_t, std::string>> lines;
    for (size_t i = 0; i < facts_.size(); ++i) {
      const size_t wanted =
          static_cast<size_t>(places_[i] * static_cast<double>(text.size()));
      const size_t line_end = text.find('\n', wanted);
      lines.emplace_back(line_end == text.npos ? text.size() : line_end + 1,
                         absl::StrCat("\nThe ", facts_[i].Sentence(), ".\n"));
    }
    std::sort(lines.begin(), lines.end());
    std::string document;
    size_t done = 0;
    for (const auto& [at, line] : lines) {
      absl::StrAppend(&document, std::string(text.substr(done, at - done)), line);
      done = at;
    }
    return absl::StrCat(document, std::string(text.substr(done)));
  }

  absl::StatusOr<std::string> Render(const std::string& document) const {
    if (!template_.has_value()) {
      std::string all = document;
      for (const Fact& fact : asked_) {
        absl::StrAppend(&all, "\nQuestion: what is the secret code of the ", fact.thing,
                        "? Answer: the ", fact.Sentence(), ".\n");
      }
      return all;
    }
    std::vector<ChatMessage> chat = {{"system", std::string(kSystem)}};
    for (const Fact& fact : asked_) {
      const std::string before = chat.size() == 1 ? document + "\n\n" : "";
      chat.push_back({"user", absl::StrCat(before, "What is the secret code of the ",
                                           fact.thing, "?")});
      chat.push_back({"assistant", absl::StrCat("The ", fact.Sentence(), ".")});
    }
    return template_->Render(chat, false);
  }

  absl::StatusOr<Prompt> Assemble(std::string_view text) const {
    const std::string document = Hide(text);
    QUIRE_ASSIGN_OR_RETURN(const std::string all, Render(document));
    const size_t begin = all.find(document);
    if (begin == std::string::npos) {
      return absl::InvalidArgumentError("the chat template changes the text");
    }
    QUIRE_ASSIGN_OR_RETURN(Encoding encoding,
                           tokenizer_.EncodeWithSpans(all, true, true));
    PutFirstToken(encoding);
    Prompt prompt;
    const auto token_at = [&](size_t byte) {
      return std::partition_point(encoding.spans.begin(), encoding.spans.end(),
                                  [&](const ByteSpan& span) {
                                    return span.end <= static_cast<int64_t>(byte);
                                  }) -
             encoding.spans.begin();
    };
    size_t at = begin + document.size();
    prompt.text_end = token_at(at);
    for (const Fact& fact : asked_) {
      at = all.find(fact.Sentence(), at) + fact.Sentence().size();
      std::vector<int64_t> digits;
      for (int64_t i = token_at(at - kDigits); i < token_at(at); ++i) digits.push_back(i);
      prompt.answers.push_back(std::move(digits));
    }
    prompt.tokens = std::move(encoding.ids);
    return prompt;
  }

  // Up to the answer, which is left to the model.
  absl::StatusOr<std::string> RenderOne(const std::string& document,
                                        const Fact& fact) const {
    if (!template_.has_value()) {
      return absl::StrCat(document, "\nQuestion: what is the secret code of the ",
                          fact.thing, "? Answer: the");
    }
    const std::vector<ChatMessage> chat = {
        {"system", std::string(kSystem)},
        {"user",
         absl::StrCat(document, "\n\nWhat is the secret code of the ", fact.thing, "?")}};
    return template_->Render(chat, /*add_generation_prompt=*/true);
  }

  absl::StatusOr<Questions> Ask(std::string_view text) const {
    const std::string document = Hide(text);
    Questions asked;
    size_t same = std::string::npos;
    for (const Fact& fact : asked_) {
      QUIRE_ASSIGN_OR_RETURN(const std::string all, RenderOne(document, fact));
      QUIRE_ASSIGN_OR_RETURN(Encoding encoding,
                             tokenizer_.EncodeWithSpans(all, true, true));
      PutFirstToken(encoding);
      std::vector<TokenId>& tokens = encoding.ids;
      if (asked.questions.empty()) asked.text = tokens;
      const auto differ = std::mismatch(asked.text.begin(), asked.text.end(),
                                        tokens.begin(), tokens.end());
      same = std::min({same, static_cast<size_t>(differ.first - asked.text.begin()),
                       tokens.size() - 1});
      asked.questions.push_back({fact.thing, fact.code, std::move(tokens)});
    }
    asked.text.resize(same);
    for (Questions::Question& q : asked.questions) {
      q.tokens.erase(q.tokens.begin(), q.tokens.begin() + static_cast<int64_t>(same));
    }
    return asked;
  }

  // A base model's texts begin with its end token, if its tokenizer does not say so.
  void PutFirstToken(Encoding& encoding) const {
    const TokenId first = tokenizer_.TokenToId("<|endoftext|>");
    if (template_.has_value() || first < 0 || encoding.ids[0] == first) return;
    encoding.ids.insert(encoding.ids.begin(), first);
    encoding.spans.insert(encoding.spans.begin(), ByteSpan{});
  }

  static constexpr size_t kBytesPerTokenAtMost = 8;  // of prose

  const Tokenizer& tokenizer_;
  const PromptOptions& options_;
  std::mt19937_64 random_;
  std::optional<ChatTemplate> template_;
  std::vector<Fact> facts_, asked_;
  std::vector<double> places_;  // of each fact, as a share of the text
};

// From the first line after options.start on.
std::string_view From(std::string_view text, const PromptOptions& options) {
  size_t begin = static_cast<size_t>(options.start * static_cast<double>(text.size()));
  if (begin > 0) begin = std::min(text.size(), text.find('\n', begin) + 1);
  return text.substr(begin);
}

}  // namespace

absl::StatusOr<Prompt> HideFacts(const ModelFiles& files, const Tokenizer& tokenizer,
                                 std::string_view text, const PromptOptions& options) {
  return Builder(files, tokenizer, options).Build(From(text, options));
}

absl::StatusOr<Questions> AskOneByOne(const ModelFiles& files, const Tokenizer& tokenizer,
                                      std::string_view text,
                                      const PromptOptions& options) {
  return Builder(files, tokenizer, options).BuildQuestions(From(text, options));
}

}  // namespace quire::quality
