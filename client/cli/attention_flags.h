#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "quire/v1/attention.pb.h"

namespace CLI {
class App;
}

namespace quire::cli {

// How the model reads its context, as far as the command line says.
struct AttentionFlags {
  std::string mode;  // "auto" and so on; empty: the server's own
  std::optional<float> eps;
  std::optional<float> max_error;
  std::optional<int32_t> min_sparse_tokens;
  std::string tail;  // "sampled", "group-means"
  bool compact = false;
  std::optional<int32_t> group_tokens;
  std::optional<float> focal_share;
  std::optional<int32_t> min_focal_tokens;
  std::optional<int32_t> sampled_queries;
  std::string group_bias;  // "none", "log-size", "entropy"
  bool unscaled_pooling = false;
  bool whole_prompt = false;

  // Only what was given.
  v1::AttentionOptions ToProto() const;
};

// Adds the flags to a command; they are written to `flags` when it is parsed.
void AddAttention(CLI::App& command, AttentionFlags& flags);

}  // namespace quire::cli
