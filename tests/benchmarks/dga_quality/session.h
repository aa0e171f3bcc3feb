#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/dga/attention_control.h"
#include "core/model/decoder.h"
#include "core/model/kv_cache.h"
#include "core/runner/runner.h"
#include "core/weights/model_files.h"

namespace quire::quality {

// A prompt read once: what it took and what came of it.
struct Reading {
  at::Tensor hidden;                // [tokens, E] float32, before the final norm
  std::vector<float> logprobs;      // [tokens - 1]: of each next token, natural log
  double prefill_seconds = 0;       // the decoder's layers, prompt
  double prefill_head_seconds = 0;  // logits of every row, as a Score request has them
  double decode_seconds = 0;
  AttentionReceipt receipt;
};

// One model and a cache for one sequence; steps as the engine makes them, but with the
// hidden states in sight. Not thread-safe.
class Session {
 public:
  static absl::StatusOr<std::unique_ptr<Session>> Load(const ModelFiles& files,
                                                       ComputeType compute,
                                                       int64_t most_tokens);

  // Tokens [0, prefill) in chunks, the others one a step. A chunk is the whole prompt if
  // the options read it so.
  Reading Read(absl::Span<const TokenId> tokens, int64_t prefill, int64_t chunk,
               const AttentionOptions& options);

  // hidden [R, E] -> [R, vocab] natural logs of probabilities.
  at::Tensor LogProbs(const at::Tensor& hidden) const;

  double IndexShare() const;  // bytes of groups and index over bytes of keys and values
  int64_t KvBytes(int64_t tokens) const;

 private:
  Session() = default;
  at::Tensor Step(absl::Span<const TokenId> tokens, Position begin, int64_t prefill,
                  AttentionControl& control);
  void Drop(const SequenceAttention& sequence, AttentionControl& control);
  void Score(absl::Span<const TokenId> next, const at::Tensor& hidden,
             std::vector<float>& logprobs) const;

  ModelConfig config_;
  at::ScalarType type_ = at::kFloat;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<KvCache> cache_;
  std::vector<BlockId> blocks_;  // kNoBlock: dropped
  SequenceState state_;
};

}  // namespace quire::quality
