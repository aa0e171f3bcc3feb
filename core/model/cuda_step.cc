#include "core/model/cuda_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ATen/ops/empty.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/refined.h"

namespace quire {
namespace {

using kernels::SequenceRows;
using kernels::cuda::kPageTokens;
using Reading = CudaSequence::Reading;

// Blocks [first, last) of a sequence.
void AppendBlocks(const SequenceRows& s, int64_t first, int64_t last,
                  std::vector<int32_t>& to) {
  for (int64_t i = first; i < last; ++i) to.push_back(static_cast<int32_t>(s.blocks[i]));
}

// Blocks that positions [0, end of the rows) need.
int64_t PagesOf(const SequenceRows& s) {
  return (s.begin + s.rows + kPageTokens - 1) / kPageTokens;
}

}  // namespace

CudaStep::CudaStep(absl::Span<const TokenId> tokens,
                   absl::Span<const CudaSequence> sequences,
                   absl::Span<const int32_t> blocks, int32_t layers, int32_t kv_heads,
                   at::Device device)
    : rows_(static_cast<int64_t>(tokens.size())),
      kv_heads_(kv_heads),
      index_blocks_(static_cast<int64_t>(blocks.size())),
      pages_at_(sequences.size(), 0) {
  AppendRows(tokens, sequences);
  AppendDecodes(sequences);
  AppendDraws(sequences, layers);
  index_at_ = static_cast<int64_t>(host_.size());
  host_.insert(host_.end(), blocks.begin(), blocks.end());
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].reading != Reading::kPrefill) continue;
    pages_at_[i] = static_cast<int64_t>(host_.size());
    AppendBlocks(sequences[i].rows, 0, PagesOf(sequences[i].rows), host_);
  }
  // Pinned, so that the copy does not wait; ATen keeps the memory until it is done.
  const at::Tensor pinned = at::empty({static_cast<int64_t>(host_.size())},
                                      at::TensorOptions(at::kInt).pinned_memory(true));
  std::copy(host_.begin(), host_.end(), pinned.data_ptr<int32_t>());
  table_ = pinned.to(device, at::kInt, /*non_blocking=*/true);
  host_ = {};
}

void CudaStep::AppendRows(absl::Span<const TokenId> tokens,
                          absl::Span<const CudaSequence> sequences) {
  const size_t rows = tokens.size();
  host_.assign(tokens.begin(), tokens.end());
  host_.resize(3 * rows);
  for (const CudaSequence& sequence : sequences) {
    const SequenceRows& s = sequence.rows;
    for (int64_t i = 0; i < s.rows; ++i) {
      const int64_t position = s.begin + i;
      host_[rows + s.first_row + i] = static_cast<int32_t>(position);
      host_[2 * rows + s.first_row + i] = static_cast<int32_t>(
          static_cast<int64_t>(s.blocks[position / kPageTokens]) * kPageTokens +
          position % kPageTokens);
    }
  }
}

CudaStep::Place CudaStep::Append(const std::vector<Run>& runs) {
  Place place = {static_cast<int32_t>(runs.size()), 0,
                 static_cast<int64_t>(host_.size())};
  for (const Run& run : runs) {
    host_.push_back(static_cast<int32_t>(run.rows->first_row));
  }
  for (const Run& run : runs) host_.push_back(run.length);
  for (const Run& run : runs) {
    host_.push_back(static_cast<int32_t>(place.pages));
    place.pages += static_cast<int64_t>(run.pages.size());
  }
  host_.push_back(static_cast<int32_t>(place.pages));
  for (const Run& run : runs) {
    host_.insert(host_.end(), run.pages.begin(), run.pages.end());
  }
  return place;
}

CudaStep::Decode CudaStep::Make(const Place& p) const {
  return {p.sequences,
          p.pages,
          At(p.at),
          At(p.at + p.sequences),
          At(p.at + 2 * p.sequences),
          At(p.at + 3 * p.sequences + 1)};
}

void CudaStep::AppendDecodes(absl::Span<const CudaSequence> sequences) {
  std::vector<Run> dense, near, far;
  for (const CudaSequence& sequence : sequences) {
    const SequenceRows& s = sequence.rows;
    const int32_t length = s.begin + 1;
    if (sequence.reading == Reading::kDenseDecode) {
      dense.push_back({&s, {}, length});
      AppendBlocks(s, 0, PagesOf(s), dense.back().pages);
    } else if (sequence.reading == Reading::kRefinedDecode) {
      const int64_t window = sequence.far_pages() + 1;
      near.push_back(
          {&s, {}, static_cast<int32_t>(length - sequence.far_pages() * kPageTokens)});
      AppendBlocks(s, 0, 1, near.back().pages);
      AppendBlocks(s, window, PagesOf(s), near.back().pages);
      far.push_back({&s, {}, 0});
      AppendBlocks(s, 1, window, far.back().pages);
    }
  }
  dense_ = Append(dense);
  near_ = Append(near);
  far_ = Append(far);
}

void CudaStep::AppendDraws(absl::Span<const CudaSequence> sequences, int32_t layers) {
  tau_at_ = static_cast<int64_t>(host_.size());
  for (const CudaSequence& sequence : sequences) {
    if (sequence.reading != Reading::kRefinedDecode) continue;
    const float log2_tau = 2 * std::log2(sequence.eps);
    host_.emplace_back();
    std::memcpy(&host_.back(), &log2_tau, sizeof log2_tau);
  }
  starts_at_ = static_cast<int64_t>(host_.size());
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (const CudaSequence& sequence : sequences) {
      if (sequence.reading != Reading::kRefinedDecode) continue;
      for (int32_t head = 0; head < kv_heads_; ++head) {
        host_.push_back(
            static_cast<int32_t>(kernels::DrawStart(layer, head, sequence.rows.begin)));
      }
    }
  }
}

}  // namespace quire
