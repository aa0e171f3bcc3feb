#include "server/model_cost.h"

#include <algorithm>

#include "core/dga/expected_attention.h"

namespace quire::server {
namespace {

constexpr double kFlopsPerMac = 2;

}  // namespace

RowMacs MacsOfRow(const ModelConfig& c) {
  const int64_t hidden = c.hidden_size;
  const int64_t q = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  return {.mlp = 3 * hidden * c.intermediate_size * c.num_layers,
          .other = (hidden * (q + 2 * kv) + q * hidden) * c.num_layers,
          .lm_head = hidden * c.vocab_size};
}

ModelFlops CountFlops(const ModelConfig& config, const AttentionOptions& attention,
                      absl::Span<const PassShape> passes) {
  const double channels = double{1} * config.num_layers * config.num_heads *
                          config.head_dim;  // of all queries of a token
  const RowMacs row = MacsOfRow(config);
  ModelFlops flops;
  for (const PassShape& pass : passes) {
    const int64_t rows = pass.prompt_tokens + std::max<int64_t>(0, pass.new_tokens - 1);
    const int64_t heads = pass.new_tokens > 0 ? pass.new_tokens : pass.prompt_tokens;
    const ExpectedColumns columns = ExpectColumns(attention, 0, rows);
    const auto count = static_cast<double>(pass.count);
    flops.attention += count * kFlopsPerMac * 2 * channels * columns.read;
    flops.selection += count * kFlopsPerMac * channels * columns.scanned;
    flops.total += count * kFlopsPerMac *
                   (static_cast<double>(row.mlp + row.other) * static_cast<double>(rows) +
                    static_cast<double>(row.lm_head) * static_cast<double>(heads));
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
