#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/summarize/sentence_splitter.h"

namespace quire {

// The constants of the extractive score, chosen with quire-19m on the 25 stories of
// SQuALITY's development half (200 words, best of 4 references): a flat optimum, within
// 0.005 ROUGE-1 for redundancy 0.5 to 0.8, length_power 0 to 0.6, prior 0 to 0.1 and
// relevance_floor 0.02 to 0.4. ROUGE-1 / 2 / L there, for "What is the plot of the
// story?" (not used as a question) and for the 100 other questions:
//   these weights                        .329 .069 .158    .345 .064 .168
//   the same, question not looked at                       .325 .055 .160
//   word counts without stop words       .316 .063 .153    .314 .053 .157
//   random sentences                     .295 .046 .138    .300 .040 .143
//   the first 200 words                  .278 .047 .129    .291 .041 .142
//   sentences of lowest mean surprisal   .281 .045 .136    .289 .039 .141
//   of highest                           .266 .034 .128    .277 .029 .133
// Relevance by P(question | six sentences) under the same model was no better than none
// (14 of the stories: ROUGE-1 .325 at best, .321 without looking at the question, .341 as
// it is here) and reads the text twice.
struct SelectionWeights {
  // Share of a word's first surprisal that counts by itself.
  double prior = 0.1;
  // A sentence's gain is divided by words^this; 0: long ones win.
  double length_power = 0.3;
  // Factor on a word's weight for each chosen sentence that has it.
  double redundancy = 0.7;
  // Relevance of a sentence that shares nothing with the question.
  double relevance_floor = 0.1;
  // Sentences on each side that a match also counts for, by this factor a step.
  int64_t relevance_spread = 2;
  double relevance_decay = 0.5;
  // A sentence's gain is multiplied by 1 + this * (rank by importance - 0.5). Importance
  // alone chooses little better than chance (.307 .052 .142; questions .310 .047 .149).
  // As a factor it helps a little without a question and does nothing with one; beyond
  // 0.5 pairs of words suffer. 0, 0.25, 0.5, 1, measured again in one run:
  //   .326 .068 .157    .334 .071 .159    .332 .070 .160    .336 .067 .157
  //   .346 .064 .168    .345 .064 .168    .346 .064 .168    .343 .062 .166
  double importance = 0.5;
  // Shorter ones ("He nodded.") say nothing out of their place and are not chosen.
  int64_t min_words = 3;
};

// What one token cost the model: -ln P(token | all before it) in nats; 0 where it has
// none. And how much what comes later looks back at it, TextScoreObserver::OnImportance;
// 0: not known.
struct TokenReading {
  ByteSpan span;
  float nats = 0;
  float importance = 0;
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
// of its length. Sentences that the model looks back at count somewhat more.
//
// With a question, a sentence's gain is multiplied by its relevance: the words it shares
// with the question, each weighted by its mean surprisal times ln(sentences / sentences
// with it); neighbours' matches count too, and the best sentence has 1 + floor.
//
// If all sentences fit the budget all are returned; if none can be chosen, the best one.
// readings: in text order. Words are runs of letters and digits, without ASCII case; in
// scripts that write no spaces each character is one. Pure; about linear in the text.
// REQUIRES: sentences not empty and in order; target_words >= 1.
std::vector<int64_t> SelectSentences(std::string_view text,
                                     absl::Span<const Sentence> sentences,
                                     absl::Span<const TokenReading> readings,
                                     std::string_view question, int64_t target_words,
                                     const SelectionWeights& weights = {});

}  // namespace quire
