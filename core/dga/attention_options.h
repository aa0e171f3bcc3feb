#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/status/status.h"

namespace quire {

// How a request reads its context. docs/dga-findings.md says what each choice costs.
enum class AttentionMode : uint8_t {
  kAuto,      // dense while a token sees few tokens, refined beyond where that is faster
  kDense,     // every token reads every earlier one
  kFaithful,  // Dynamic Group Attention as published (Wu et al., arXiv 2505.22107)
  kRefined,   // sinks and window exactly; of the rest, tokens drawn by their weight
};

// What stands for the far tokens that a refined row does not read for certain.
enum class TailEstimate : uint8_t {
  kSampled,     // tokens drawn with a known probability p, weighted 1 / p: no bias
  kGroupMeans,  // the mean of what is left of each group, weighted by its size
};

// What tells a far token's share of the attention.
enum class KeyIndex : uint8_t {
  kFourBit,    // a copy of every key in 4 bits a channel
  kPageMeans,  // the mean key of its page: 64 times cheaper, and far worse
};

// What is added to a faithful group's score (dga.md section 2).
enum class GroupBias : uint8_t { kNone, kLogSize, kEntropy };

// The published method's parameters; its own values are the defaults.
struct FaithfulOptions {
  int32_t group_tokens = 16;        // m, >= 1
  float focal_share = 0.1f;         // gamma, (0, 1]
  int32_t min_focal_tokens = 1024;  // >= 0
  int32_t sampled_queries = 128;    // >= 1; half the most recent ones, half at random
  GroupBias bias = GroupBias::kNone;
  bool scaled_pooling = true;  // the pooling softmax divides by sqrt(head size)
  // Focal tokens are chosen over the whole prompt, which is then read in one step, as
  // published: the choice, but no value, depends on later tokens. False: chunk by chunk.
  bool whole_prompt = false;
};

// Plain value; the defaults are the service's.
struct AttentionOptions {
  AttentionMode mode = AttentionMode::kAuto;

  // Refined. A far token with a share p of a head's attention is read with probability
  // min(1, p / eps^2), so that an estimate's standard error is at most
  // eps * sqrt(share of the uncertain tokens) of the spread of the values. 0: dense.
  float eps = 0.04f;  // [0, 1]
  // Largest audited error (relative L2 error of the attention output) before the request
  // lowers eps, then goes dense. 1: never.
  float max_error = 1.0f;  // [0, 1]
  // A token that sees fewer tokens than this reads them all. Negative: kAuto 4096,
  // kRefined sinks + window, below which it is dense anyway.
  int32_t min_sparse_tokens = -1;
  TailEstimate tail = TailEstimate::kSampled;
  KeyIndex index = KeyIndex::kFourBit;
  // Drops the keys and values of pages that hardly matter once the prompt is read, and
  // keeps their means. Saves memory, not exactness. kRefined and kAuto.
  bool compact = false;
  // The runner's choice, not the request's: kAuto reads a token densely that sees fewer
  // tokens than this, whatever min_sparse_tokens is, since refined would take longer
  // there. kNeverPays: every token. Not with `compact`, which only refined can give.
  int32_t refined_pays_from = 0;

  FaithfulOptions faithful;

  // kInvalidArgument names the field below `path`, its limit and its value.
  absl::Status Validate(std::string_view path = "attention") const;
  // The least number of visible tokens at which a row is read sparsely; refined only.
  // kNeverPays: none is.
  int32_t SparseFrom() const;
};

inline constexpr int32_t kSinkTokens = 64;     // S: the first page
inline constexpr int32_t kWindowTokens = 128;  // W, before page alignment
inline constexpr int32_t kGroupTokens = 64;    // m of refined: a page of the cache
inline constexpr int32_t kAutoSparseTokens = 4096;
inline constexpr int32_t kNeverPays = std::numeric_limits<int32_t>::max();

std::string_view AttentionModeName(AttentionMode mode);  // "AUTO", ...

}  // namespace quire
