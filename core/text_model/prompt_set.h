#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/sampling/sampler.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace quire {

// How a model is asked about a document: the document first and the instruction last, so
// that every later question can reuse the document's keys. Read from the folder's
// prompts.json:
//   {"prefix": "...", "between": "\n\n", "suffix": "...",      around document and
//   instruction
//    "summarize": "Summarize the document.",
//    "combine": "Summarize the document.",         over the joined summaries of a long
//    text's parts "words": " Use about {words} words.", "words_step": 10,   appended when
//    a length is asked for "max_new_tokens": 420, "sampling":
//    {"repetition_penalty": 1.15, "no_repeat_ngram": 5}}    fields of SamplingParams
// where prefix, suffix and summarize are required; or made from a chat template, with one
// user message of the document, a blank line and the instruction. Immutable; safe to use
// concurrently.
class PromptSet {
 public:
  // kInvalidArgument names the field that is missing, unknown or of the wrong type.
  static absl::StatusOr<PromptSet> FromJson(std::string_view json);
  // kInvalidArgument: the template does not repeat the user's message as it is.
  static absl::StatusOr<PromptSet> FromChatTemplate(const ChatTemplate& chat_template);

  // "Summarize the document.", or the question; with the wanted number of words, rounded
  // to words_step, if > 0.
  std::string Instruction(std::string_view question, int32_t target_words,
                          bool combine) const;

  // prefix + document + between + instruction + suffix. Only the prompt's own pieces may
  // hold special tokens: the document and the instruction are plain text, whatever they
  // say.
  // Prefix, document and what follows are tokenised apart, so that a document's tokens do
  // not depend on the prompt. With the bundled models that gives what the whole string
  // gives, for every document that neither begins nor ends with white space. Tokenizers
  // that join a full stop with the line breaks behind it (Llama 3, Qwen) would make one
  // token of ".\n\n" where this makes two; a seam like that one moved quire-135m's
  // log-probability of human summaries by less than 0.05 %.
  // kInvalidArgument: the instruction is not UTF-8.
  absl::StatusOr<std::vector<TokenId>> Build(const Tokenizer& tokenizer,
                                             absl::Span<const TokenId> document,
                                             std::string_view instruction) const;

  int32_t max_new_tokens() const { return max_new_tokens_; }
  const SamplingParams& sampling() const { return sampling_; }

 private:
  std::string prefix_, between_, suffix_;
  std::string summarize_, combine_, words_;
  int32_t words_step_ = 1;
  int32_t max_new_tokens_ = 512;
  SamplingParams sampling_;
};

}  // namespace quire
