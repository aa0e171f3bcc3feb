#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "core/config/model_config.h"
#include "core/dga/attention_options.h"

namespace quire::server {

// Multiply-adds of the linear layers, all layers of the model together; of one token.
struct RowMacs {
  int64_t mlp = 0;
  int64_t other = 0;    // queries, keys, values and attention's output
  int64_t lm_head = 0;  // only where the next token is chosen or scored
};
RowMacs MacsOfRow(const ModelConfig& config);

// Passes over a model that are alike.
struct PassShape {
  int64_t prompt_tokens = 1;
  int64_t new_tokens = 0;  // at most; 0: every token of the prompt is scored
  int64_t count = 1;
  friend bool operator==(const PassShape&, const PassShape&) = default;
};

// Floating-point operations, two for each multiply-add.
struct ModelFlops {
  double total = 0;      // linear layers and the two below
  double attention = 0;  // reading keys and values
  double selection = 0;  // choosing what to read
};

// Of a decoder that reads and writes so much: 2 for each parameter of its linear layers
// and token, the head's only for tokens that are chosen or scored; attention as
// ExpectColumns says. The last token of an answer is chosen, but never read. Linear in
// the tokens of one pass of each shape.
ModelFlops CountFlops(const ModelConfig& config, const AttentionOptions& attention,
                      absl::Span<const PassShape> passes);

// Prompt and new tokens of all passes.
int64_t PromptTokensOf(absl::Span<const PassShape> passes);
int64_t NewTokensOf(absl::Span<const PassShape> passes);
int64_t CountPasses(absl::Span<const PassShape> passes);

}  // namespace quire::server
