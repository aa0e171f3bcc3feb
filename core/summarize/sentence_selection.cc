#include "core/summarize/sentence_selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "core/base/check.h"
#include "core/summarize/sentence_importance.h"
#include "core/summarize/utf8.h"

namespace quire {
namespace {

// Han, kana and their neighbours, Thai to Khmer: written without spaces.
bool WritesNoSpaces(char32_t c) {
  return (c >= 0x2E80 && c <= 0x9FFF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x20000 && c <= 0x3FFFF) || (c >= 0xE00 && c <= 0xEFF) ||
         (c >= 0x1000 && c <= 0x109F) || (c >= 0x1780 && c <= 0x17FF);
}

// Calls on_word(span) for each word in text[begin, end).
template <typename OnWord>
void ForEachWord(std::string_view text, ByteSpan range, OnWord on_word) {
  int64_t word = -1;
  int64_t at = range.begin;
  while (at < range.end) {
    const CodePoint c = CodePointAt(text, at);
    const bool alone = WritesNoSpaces(c.value) && IsWordCharacter(c.value);
    if (word >= 0 && (alone || !IsWordCharacter(c.value))) {
      on_word(ByteSpan{word, at});
      word = -1;
    }
    if (alone) {
      on_word(ByteSpan{at, at + c.length});
    } else if (word < 0 && IsWordCharacter(c.value)) {
      word = at;
    }
    at += c.length;
  }
  if (word >= 0) on_word(ByteSpan{word, range.end});
}

std::string Key(std::string_view text, ByteSpan word) {
  std::string key(text.substr(word.begin, word.end - word.begin));
  absl::AsciiStrToLower(&key);
  return key;
}

// A word of the text: all its occurrences together.
struct Word {
  int64_t count = 0;
  double first = 0;       // nats, of the first occurrence
  double total = 0;       // nats, of all
  int64_t sentences = 0;  // that hold it
  int64_t chosen = 0;     // of these, chosen
  double weight = 0;
};

class Selector {
 public:
  Selector(std::string_view text, absl::Span<const Sentence> sentences,
           absl::Span<const TokenReading> readings, const SelectionWeights& weights)
      : text_(text), sentences_(sentences), readings_(readings), weights_(weights) {
    sets_.resize(sentences.size());
    lengths_.resize(sentences.size());
    relevance_.assign(sentences.size(), 1.0);
    importance_ = RankByImportance(sentences, readings);
    for (double& rank : importance_) rank = 1 + weights_.importance * (rank - 0.5);
    for (size_t i = 0; i < sentences.size(); ++i) ReadSentence(i);
    for (Word& word : words_) {
      const double taught = static_cast<double>(word.count) * word.first - word.total;
      word.weight = std::max(0.0, taught) + weights_.prior * word.first;
    }
  }

  void Focus(std::string_view question) {
    const size_t count = sets_.size();
    const std::vector<double> match = Matches(question);
    std::vector<double> spread = match;
    double decay = 1;
    for (int64_t step = 1; step <= weights_.relevance_spread; ++step) {
      decay *= weights_.relevance_decay;
      for (size_t i = static_cast<size_t>(step); i < count; ++i) {
        spread[i] += decay * match[i - step];
        spread[i - step] += decay * match[i];
      }
    }
    const double largest = *std::max_element(spread.begin(), spread.end());
    if (largest <= 0) return;  // it shares no word with the text: summarise everything
    for (size_t i = 0; i < count; ++i) {
      relevance_[i] = weights_.relevance_floor + spread[i] / largest;
    }
  }

  std::vector<int64_t> Choose(int64_t target_words) {
    int64_t total = 0;
    for (const int64_t length : lengths_) total += length;
    if (total <= target_words) return All();
    // Gains only fall as sentences are chosen, so one that is still the largest when
    // computed afresh is the largest of all, and the others need not be computed.
    std::priority_queue<Candidate> heap;
    for (size_t i = 0; i < sets_.size(); ++i)
      heap.push(MakeCandidate(static_cast<int64_t>(i)));
    const int64_t best = heap.top().sentence;
    std::vector<int64_t> chosen;
    while (!heap.empty()) {
      const Candidate top = heap.top();
      heap.pop();
      const int64_t length = lengths_[top.sentence];
      if (length > target_words || length < weights_.min_words) continue;
      const Candidate fresh = MakeCandidate(top.sentence);
      if (!heap.empty() && fresh < heap.top()) {
        heap.push(fresh);
        continue;
      }
      chosen.push_back(top.sentence);
      target_words -= length;
      for (const int32_t word : sets_[top.sentence]) ++words_[word].chosen;
    }
    if (chosen.empty()) chosen.push_back(best);
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  struct Candidate {
    double gain = 0;
    int64_t sentence = 0;
    // Ties go to the earlier sentence.
    bool operator<(const Candidate& other) const {
      return gain != other.gain ? gain < other.gain : sentence > other.sentence;
    }
  };

  void ReadSentence(size_t index) {
    std::vector<int32_t>& set = sets_[index];
    ForEachWord(text_, sentences_[index].span, [&](ByteSpan span) {
      const auto [found, added] =
          ids_.try_emplace(Key(text_, span), static_cast<int32_t>(words_.size()));
      if (added) words_.emplace_back();
      Word& word = words_[found->second];
      const double nats = SurprisalOf(span);
      if (word.count++ == 0) word.first = nats;
      word.total += nats;
      set.push_back(found->second);
    });
    lengths_[index] = static_cast<int64_t>(set.size());
    std::sort(set.begin(), set.end());
    set.erase(std::unique(set.begin(), set.end()), set.end());
    for (const int32_t word : set) ++words_[word].sentences;
  }

  // Of all tokens that share a byte with the word. Words are asked for in text order.
  double SurprisalOf(ByteSpan word) {
    const size_t count = readings_.size();
    while (next_token_ < count && readings_[next_token_].span.end <= word.begin)
      ++next_token_;
    double nats = 0;
    for (size_t i = next_token_; i < count && readings_[i].span.begin < word.end; ++i) {
      nats += readings_[i].nats;
    }
    return nats;
  }

  std::vector<double> Matches(std::string_view question) const {
    std::vector<double> weight(words_.size(), 0.0);
    const double count = static_cast<double>(sets_.size());
    ForEachWord(question, {0, static_cast<int64_t>(question.size())}, [&](ByteSpan span) {
      const auto found = ids_.find(Key(question, span));
      if (found == ids_.end()) return;
      const Word& word = words_[found->second];
      weight[found->second] = word.total / static_cast<double>(word.count) *
                              std::log(count / static_cast<double>(word.sentences));
    });
    std::vector<double> match(sets_.size(), 0.0);
    for (size_t i = 0; i < sets_.size(); ++i) {
      for (const int32_t word : sets_[i]) match[i] += weight[word];
    }
    return match;
  }

  Candidate MakeCandidate(int64_t sentence) const {
    double gain = 0;
    for (const int32_t id : sets_[sentence]) {
      const Word& word = words_[id];
      gain +=
          word.weight * std::pow(weights_.redundancy, static_cast<double>(word.chosen));
    }
    const double length = static_cast<double>(std::max<int64_t>(1, lengths_[sentence]));
    return {gain * relevance_[sentence] * importance_[sentence] /
                std::pow(length, weights_.length_power),
            sentence};
  }

  std::vector<int64_t> All() const {
    std::vector<int64_t> all(sets_.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    return all;
  }

  std::string_view text_;
  absl::Span<const Sentence> sentences_;
  absl::Span<const TokenReading> readings_;
  const SelectionWeights& weights_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<Word> words_;
  std::vector<std::vector<int32_t>> sets_;  // of each sentence: its distinct words
  std::vector<int64_t> lengths_;            // of each sentence: all its words
  std::vector<double> relevance_;           // of each sentence
  std::vector<double> importance_;          // of each sentence, a factor
  size_t next_token_ = 0;
};

}  // namespace

std::vector<int64_t> SelectSentences(std::string_view text,
                                     absl::Span<const Sentence> sentences,
                                     absl::Span<const TokenReading> readings,
                                     std::string_view question, int64_t target_words,
                                     const SelectionWeights& weights) {
  QUIRE_CHECK(!sentences.empty() && target_words >= 1);
  Selector selector(text, sentences, readings, weights);
  if (!question.empty()) selector.Focus(question);
  return selector.Choose(target_words);
}

}  // namespace quire
