#include "core/model/cuda_step.h"

#include <algorithm>

#include "ATen/ops/empty.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace quire {
namespace {

using kernels::SequenceRows;
using kernels::cuda::kPageTokens;

// Blocks that positions [0, end of the rows) need.
int64_t PagesOf(const SequenceRows& s) {
  return (s.begin + s.rows + kPageTokens - 1) / kPageTokens;
}

void AppendPages(const SequenceRows& s, std::vector<int32_t>& table) {
  for (int64_t i = 0; i < PagesOf(s); ++i) {
    table.push_back(static_cast<int32_t>(s.blocks[i]));
  }
}

void AppendRows(absl::Span<const TokenId> tokens,
                absl::Span<const SequenceRows> sequences, std::vector<int32_t>& table) {
  const auto rows = tokens.size();
  table.assign(tokens.begin(), tokens.end());
  table.resize(3 * rows);
  for (const SequenceRows& s : sequences) {
    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t position = s.begin + i;
      table[rows + s.first_row + i] = static_cast<int32_t>(position);
      table[2 * rows + s.first_row + i] = static_cast<int32_t>(
          static_cast<int64_t>(s.blocks[position / kPageTokens]) * kPageTokens +
          position % kPageTokens);
    }
  }
}

}  // namespace

CudaStep::CudaStep(absl::Span<const TokenId> tokens,
                   absl::Span<const SequenceRows> sequences,
                   absl::Span<const bool> decodes, at::Device device)
    : rows_(static_cast<int64_t>(tokens.size())), pages_at_(sequences.size(), 0) {
  std::vector<int32_t> table;
  AppendRows(tokens, sequences, table);
  std::vector<const SequenceRows*> decoding;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (decodes[i]) decoding.push_back(&sequences[i]);
  }
  decodes_ = static_cast<int32_t>(decoding.size());
  decode_at_ = static_cast<int64_t>(table.size());
  for (const SequenceRows* s : decoding) {
    table.push_back(static_cast<int32_t>(s->first_row));
  }
  for (const SequenceRows* s : decoding) table.push_back(s->begin + 1);
  int64_t pages = 0;
  for (const SequenceRows* s : decoding) {
    table.push_back(static_cast<int32_t>(pages));
    pages += PagesOf(*s);
  }
  table.push_back(static_cast<int32_t>(pages));
  for (const SequenceRows* s : decoding) AppendPages(*s, table);
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (decodes[i]) continue;
    pages_at_[i] = static_cast<int64_t>(table.size());
    AppendPages(sequences[i], table);
  }
  // Pinned, so that the copy does not wait; ATen keeps the memory until it is done.
  const at::Tensor host = at::empty({static_cast<int64_t>(table.size())},
                                    at::TensorOptions(at::kInt).pinned_memory(true));
  std::copy(table.begin(), table.end(), host.data_ptr<int32_t>());
  table_ = host.to(device, at::kInt, /*non_blocking=*/true);
}

}  // namespace quire
