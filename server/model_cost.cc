#include "server/model_cost.h"

#include <algorithm>

#include "core/dga/expected_attention.h"

namespace quire::server {
namespace {

constexpr double kFlopsPerMac = 2;

// Of one token, without the head.
double LinearMacs(const ModelConfig& c) {
  const double hidden = c.hidden_size;
  const double q = double{1} * c.num_heads * c.head_dim;
  const double kv = double{1} * c.num_kv_heads * c.head_dim;
  const double layer =
      hidden * (q + 2 * kv) + q * hidden + 3 * hidden * c.intermediate_size;
  return layer * c.num_layers;
}

double HeadMacs(const ModelConfig& c) { return double{1} * c.hidden_size * c.vocab_size; }

}  // namespace

ModelFlops CountFlops(const ModelConfig& config, const AttentionOptions& attention,
                      absl::Span<const PassShape> passes) {
  const double channels = double{1} * config.num_layers * config.num_heads *
                          config.head_dim;  // of all queries of a token
  ModelFlops flops;
  for (const PassShape& pass : passes) {
    const int64_t rows = pass.prompt_tokens + std::max<int64_t>(0, pass.new_tokens - 1);
    const int64_t heads = pass.new_tokens > 0 ? pass.new_tokens : pass.prompt_tokens;
    const ExpectedColumns columns = ExpectColumns(attention, 0, rows);
    const auto count = static_cast<double>(pass.count);
    flops.attention += count * kFlopsPerMac * 2 * channels * columns.read;
    flops.selection += count * kFlopsPerMac * channels * columns.scanned;
    flops.total += count * kFlopsPerMac *
                   (LinearMacs(config) * static_cast<double>(rows) +
                    HeadMacs(config) * static_cast<double>(heads));
  }
  flops.total += flops.attention + flops.selection;
  return flops;
}

int64_t PromptTokensOf(absl::Span<const PassShape> passes) {
  int64_t sum = 0;
  for (const PassShape& pass : passes) sum += pass.prompt_tokens * pass.count;
  return sum;
}

int64_t NewTokensOf(absl::Span<const PassShape> passes) {
  int64_t sum = 0;
  for (const PassShape& pass : passes) sum += pass.new_tokens * pass.count;
  return sum;
}

int64_t CountPasses(absl::Span<const PassShape> passes) {
  int64_t sum = 0;
  for (const PassShape& pass : passes) sum += pass.count;
  return sum;
}

}  // namespace quire::server
