#include "core/summarize/sentence_selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/summarize/utf8.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

// One token for each run of letters; costs by the word and whether it was seen before.
struct Costs {
  float first = 1, later = 1;
};

std::vector<TokenReading> Readings(const std::string& text,
                                   const std::map<std::string, Costs>& costs) {
  std::vector<TokenReading> tokens;
  std::map<std::string, int> seen;
  int64_t at = 0;
  const int64_t size = static_cast<int64_t>(text.size());
  while (at < size) {
    int64_t end = at;
    while (end < size && IsWordCharacter(CodePointAt(text, end).value)) {
      end += CodePointAt(text, end).length;
    }
    if (end == at) {
      ++at;
      continue;
    }
    const std::string word = text.substr(at, end - at);
    const auto found = costs.find(word);
    const Costs cost = found == costs.end() ? Costs{} : found->second;
    tokens.push_back({{at, end}, seen[word]++ == 0 ? cost.first : cost.later});
    at = end;
  }
  return tokens;
}

std::vector<int64_t> Select(const std::string& text,
                            const std::map<std::string, Costs>& costs,
                            const std::string& question, int64_t words,
                            const SelectionWeights& weights = {}) {
  return SelectSentences(text, SplitSentences(text, 1000), Readings(text, costs),
                         question, words, weights);
}

constexpr char kStory[] =
    "Rain fell on roofs. Zorg met Ann today. Cats sat there then. Zorg hid from Ann. "
    "Zorg left Ann alone.";

TEST(SelectSentencesTest, TakesWordsTheDocumentTaught) {
  // "Zorg" was surprising once and then expected, "roofs" never came back.
  const std::map<std::string, Costs> costs = {{"Zorg", {12, 1}}, {"roofs", {14, 14}}};
  EXPECT_THAT(Select(kStory, costs, "", 4), ElementsAre(1));
  EXPECT_THAT(Select(kStory, costs, "", 8), ElementsAre(1, 3));
}

TEST(SelectSentencesTest, WordsThatStaySurprisingWeighLittle) {
  const std::map<std::string, Costs> costs = {{"Zorg", {6, 9}}, {"roofs", {14, 14}}};
  EXPECT_THAT(Select(kStory, costs, "", 4), ElementsAre(0));
}

TEST(SelectSentencesTest, AvoidsRepeatingItself) {
  const std::string text =
      "Zorg met Ann. Zorg met Ann. Bo met Cy. Zorg and Ann and Bo and Cy slept on and "
      "on.";
  const std::map<std::string, Costs> costs = {
      {"Zorg", {9, 1}}, {"Ann", {9, 1}}, {"Bo", {12, 1}}, {"Cy", {12, 1}}};
  EXPECT_THAT(Select(text, costs, "", 6, {.redundancy = 0.5}), ElementsAre(0, 2));
  EXPECT_THAT(Select(text, costs, "", 6, {.redundancy = 1.0}), ElementsAre(0, 1));
}

TEST(SelectSentencesTest, QuestionDrawsSentencesThatShareItsWords) {
  const std::map<std::string, Costs> costs = {{"Zorg", {12, 1}}};
  EXPECT_THAT(Select(kStory, costs, "Where were the CATS?", 4,
                     {.relevance_floor = 0.01, .relevance_spread = 0}),
              ElementsAre(2));
  // A word that every sentence has, or none, says nothing.
  EXPECT_THAT(Select(kStory, costs, "Why, O why?", 4), Select(kStory, costs, "", 4));
}

TEST(SelectSentencesTest, NeighboursOfAMatchAreRelevantToo) {
  const std::string text =
      "Aa ab ac. Ba bb bc. Ca cb cc. Da db dc. Ea eb ec. Fa fb fc. Ga gb gc.";
  const SelectionWeights weights{.relevance_floor = 0.01, .relevance_spread = 1};
  EXPECT_THAT(Select(text, {}, "da", 9, weights), ElementsAre(2, 3, 4));
}

TEST(SelectSentencesTest, OfEqualsTheOneLookedBackAt) {
  const std::string text = "Aa ab ac. Ba bb bc. Ca cb cc.";
  std::vector<TokenReading> readings = Readings(text, {});
  for (size_t i = 0; i < readings.size(); ++i) {
    readings[i].importance = i / 3 == 1 ? 2.0f : 1.0f;
  }
  const std::vector<Sentence> sentences = SplitSentences(text, 1000);
  EXPECT_THAT(SelectSentences(text, sentences, readings, "", 3), ElementsAre(1));
  EXPECT_THAT(SelectSentences(text, sentences, readings, "", 3, {.importance = 0}),
              ElementsAre(0));
}

TEST(SelectSentencesTest, EverythingIfItFits) {
  EXPECT_THAT(Select(kStory, {}, "", 20), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Select("One.", {}, "", 10), ElementsAre(0));
}

TEST(SelectSentencesTest, TheBestOneIfNoneFits) {
  EXPECT_THAT(Select(kStory, {{"roofs", {50, 50}}}, "", 2), ElementsAre(0));
}

TEST(SelectSentencesTest, ScrapsAreNotChosen) {
  const std::string text =
      "\"\n\n\u2014\n\nHe left. Ann saw Zorg go. It rained and rained there.";
  EXPECT_THAT(Select(text, {{"left", {30, 30}}}, "", 8), ElementsAre(3));
  EXPECT_THAT(Select("Go. Run!", {{"Run", {9, 9}}}, "", 1), ElementsAre(1));
}

TEST(SelectSentencesTest, WithoutScoresTheEarliestOfEquals) {
  const std::string text = "Aa ab ac. Ba bb bc. Ca cb cc.";
  EXPECT_THAT(SelectSentences(text, SplitSentences(text, 100), {}, "", 6),
              ElementsAre(0, 1));
}

TEST(SelectSentencesTest, CountsCharactersWhereNoSpacesAreWritten) {
  const std::string text = "今天很好。我们走吧。他来了。";
  EXPECT_THAT(Select(text, {}, "", 8), ElementsAre(0, 1));
  EXPECT_THAT(Select(text, {}, "", 11), ElementsAre(0, 1, 2));
}

TEST(SelectSentencesTest, ACharactersSplitTokensAddUp) {
  const std::string text = "Aa ab. Qx ac.";
  const std::vector<Sentence> sentences = SplitSentences(text, 100);
  const std::vector<TokenReading> tokens = {
      {{0, 2}, 3}, {{2, 5}, 1}, {{7, 8}, 3}, {{8, 9}, 3}};
  EXPECT_THAT(SelectSentences(text, sentences, tokens, "", 2), ElementsAre(1));
}

TEST(SelectSentencesTest, StaysUnderTheBudgetAndInOrder) {
  std::mt19937 random(5);
  const std::vector<std::string> words = {"Aa", "Bb", "Cc", "Dd", "Ee", "Ff", "Gg", "Hh"};
  for (int round = 0; round < 300; ++round) {
    std::string text;
    std::vector<int64_t> lengths;
    for (int i = 0; i < 20; ++i) {
      lengths.push_back(1 + static_cast<int64_t>(random() % 6));
      for (int64_t w = 0; w < lengths.back(); ++w) {
        text += words[random() % words.size()] + (w + 1 < lengths.back() ? " " : "! ");
      }
    }
    ASSERT_EQ(SplitSentences(text, 1000).size(), lengths.size());
    const int64_t budget = 6 + static_cast<int64_t>(random() % 40);
    const std::vector<int64_t> chosen = Select(text, {{"Aa", {9, 1}}, {"Bb", {7, 2}}},
                                               round % 2 == 0 ? "" : "cc?", budget);
    int64_t used = 0;
    std::vector<bool> taken(lengths.size());
    for (size_t i = 0; i < chosen.size(); ++i) {
      ASSERT_TRUE(i == 0 || chosen[i - 1] < chosen[i]);
      used += lengths[chosen[i]];
      taken[chosen[i]] = true;
    }
    ASSERT_LE(used, budget);
    for (size_t i = 0; i < lengths.size(); ++i) {
      ASSERT_TRUE(taken[i] || lengths[i] < 3 || used + lengths[i] > budget)
          << "one more would have fitted";
      ASSERT_FALSE(taken[i] && lengths[i] < 3);
    }
  }
}

}  // namespace
}  // namespace quire
