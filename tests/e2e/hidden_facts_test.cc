#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/e2e/service.h"
#include "tests/support/sanitizer.h"

// Does the default model find what is written once in a long text? The wording is that of
// its card, models/quire-135m/README.md. 16 prompts of about 4,000 tokens.
namespace quire::e2e {
namespace {

constexpr int kFactsPerText = 8;
constexpr size_t kStoryBytes = 15'600;  // with the facts about 4,000 tokens
constexpr int kWanted = 15;             // of 16

const std::vector<std::string> kThings = {
    "blue lantern",  "old anchor",    "silver kettle", "wooden bridge",
    "green parrot",  "quiet harbour", "broken mirror", "iron key",
    "white rabbit",  "tall tower",    "red umbrella",  "dusty piano",
    "golden button", "empty garden",  "small drum",    "winter coat"};

struct Fact {
  std::string thing;
  std::string code;
};

struct Document {
  std::string text;
  std::vector<Fact> facts;
};

// The ends of the paragraphs, where a fact may stand.
std::vector<size_t> Borders(const std::string& story) {
  std::vector<size_t> borders;
  for (size_t at = 0; (at = story.find("\n\n", at)) != std::string::npos; at += 2) {
    borders.push_back(at + 1);
  }
  return borders;
}

// One fact in each eighth of the story, at a paragraph drawn from it.
Document Hide(const std::string& story, std::vector<Fact> facts,
              std::mt19937_64& random) {
  Document document{.facts = std::move(facts)};
  const std::vector<size_t> borders = Borders(story);
  size_t done = 0;
  for (size_t i = 0; i < document.facts.size(); ++i) {
    const Fact& fact = document.facts[i];
    const size_t first = borders.size() * i / document.facts.size();
    const size_t after = borders.size() * (i + 1) / document.facts.size();
    const size_t at = borders[first + random() % (after - first)];
    absl::StrAppend(&document.text, story.substr(done, at - done),
                    "\nThe secret code of the ", fact.thing, " is ", fact.code, ".\n");
    done = at;
  }
  document.text += story.substr(done);
  return document;
}

std::vector<Document> MakeDocuments() {
  std::mt19937_64 random(20240701);
  std::vector<Fact> facts;
  for (const std::string& thing : kThings) {
    facts.push_back({thing, std::to_string(10'000 + random() % 90'000)});
  }
  const std::string story = SampleText();
  const size_t paragraph = story.find("\n\n", story.size() - kStoryBytes);
  return {Hide(SampleText(kStoryBytes), {facts.begin(), facts.begin() + kFactsPerText},
               random),
          Hide(story.substr(paragraph), {facts.begin() + kFactsPerText, facts.end()},
               random)};
}

TEST(HiddenFactsTest, TheDefaultModelFindsThemAtFourThousandTokens) {
  if (kSanitized) GTEST_SKIP() << "the 135M model is far too slow with a sanitizer";
  // Alone on the machine: all cores.
  Server server({ModelFolder("quire-135m")},
                {"--kv-cache-bytes", "200000000", "--threads", "0"});
  ASSERT_TRUE(server.ready()) << server.log();
  int asked = 0, found = 0;
  for (const Document& document : MakeDocuments()) {
    const TemporaryFile file(document.text);
    const ProcessResult count = RunQuire(server, {"tokens", file.path()});
    int tokens = 0;
    ASSERT_TRUE(absl::SimpleAtoi(count.out, &tokens)) << count.err;
    EXPECT_GE(tokens, 3700);
    EXPECT_LE(tokens, 4300);
    for (const Fact& fact : document.facts) {
      const ProcessResult answer = RunQuire(
          server, {"ask", file.path(),
                   absl::StrCat("What is the secret code of the ", fact.thing, "?"),
                   "--max-tokens", "32"});
      ASSERT_EQ(answer.exit_code, 0) << answer.err;
      ++asked;
      const bool right = absl::StrContains(answer.out, fact.code);
      found += right ? 1 : 0;
      if (!right) std::cerr << fact.thing << " " << fact.code << ": " << answer.out;
    }
  }
  EXPECT_EQ(asked, 16);
  EXPECT_GE(found, kWanted);
  RecordProperty("found", found);
  std::cerr << found << " of " << asked << " facts found\n";
  EXPECT_EQ(server.Stop(), 0) << server.log();
}

}  // namespace
}  // namespace quire::e2e
