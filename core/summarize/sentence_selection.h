#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/summarize/sentence_splitter.h"

namespace quire {

// The constants of the extractive score. Set on the 25 stories of SQuALITY's development
// half with quire-19m; every value between half and twice as much scored within 0.01
// ROUGE-1.
struct SelectionWeights {
  double prior = 0.1;  // share of a word's first surprisal that counts by itself
  double length_power =
      0.3;  // a sentence's gain is divided by words^this; 0: prefer long ones
  double redundancy = 0.6;  // factor on a word's weight for each chosen sentence with it
  double relevance_floor = 0.05;  // of a sentence that shares nothing with the question
  int64_t relevance_spread = 2;   // sentences on each side that a match also counts for,
  double relevance_decay = 0.5;   // by this factor a step
};

// What one token cost the model: -ln P(token | all before it) in nats; 0 where it has
// none.
struct TokenSurprisal {
  ByteSpan span;
  float nats = 0;
};

// Chooses the sentences that summarise a text in at most target_words words, by the
// scores of the model that read it. Returns their indices, ascending; never none.
//
// A word weighs what the document taught the model about it: how much less surprising it
// is, summed over its later occurrences, than it was when it first appeared (at least
// nothing), plus a share of that first surprisal. Words that the text is about start out
// surprising and become expected; common words never were surprising, and passing ones
// never return. So no list of stop words is needed, and no language is assumed. Sentences
// are taken one by one: always the one with the largest sum of its distinct words'
// weights, where a word loses weight for each sentence already taken that holds it
// (greedy maximisation of a submodular coverage, Lin and Bilmes 2011), divided by a power
// of its length.
//
// With a question, a sentence's gain is multiplied by its relevance: the words it shares
// with the question, each weighted by its mean surprisal times ln(sentences / sentences
// with it); neighbours' matches count too, and the best sentence has 1 + floor.
//
// If all sentences fit the budget all are returned; if none does, the best one is.
// surprisals: in text order. Words are runs of letters and digits, without ASCII case; in
// scripts that write no spaces each character is one. Pure; about linear in the text.
// REQUIRES: sentences not empty and in order; target_words >= 1.
std::vector<int64_t> SelectSentences(std::string_view text,
                                     absl::Span<const Sentence> sentences,
                                     absl::Span<const TokenSurprisal> surprisals,
                                     std::string_view question, int64_t target_words,
                                     const SelectionWeights& weights = {});

}  // namespace quire
