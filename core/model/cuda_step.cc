#include "core/model/cuda_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ATen/ops/empty.h"
#include "c10/cuda/CUDAStream.h"
#include "core/base/check.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/refined.h"
#include "core/model/cuda_check.h"

namespace quire {
namespace {

using kernels::SequenceRows;
using kernels::cuda::kPageTokens;
using Reading = CudaSequence::Reading;

// Blocks that positions up to the end of so many rows need.
int64_t PagesOf(const SequenceRows& s, int64_t rows) {
  return (s.begin + rows + kPageTokens - 1) / kPageTokens;
}
int64_t PagesOf(const SequenceRows& s) { return PagesOf(s, s.rows); }

}  // namespace

CudaStep::Shape CudaStep::Shape::Of(absl::Span<const CudaSequence> sequences) {
  Shape shape;
  for (const CudaSequence& sequence : sequences) {
    const int64_t pages = PagesOf(sequence.rows);
    shape.rows += sequence.rows.rows;
    switch (sequence.reading) {
      case Reading::kPrefill:
      case Reading::kFaithful:
        shape.prompt_pages += pages;
        break;
      case Reading::kDenseDecode:
        ++shape.dense;
        shape.dense_pages += pages;
        break;
      case Reading::kRefinedDecode:
        ++shape.refined;
        shape.near_pages += pages - sequence.far_pages();
        shape.far_pages += sequence.far_pages();
        break;
    }
    for (const int64_t row : sequence.audited) {
      ++shape.audits;
      shape.audit_pages += PagesOf(sequence.rows, row + 1);
    }
  }
  return shape;
}

CudaStep::Memory CudaStep::Memory::Make(int64_t entries, at::Device device) {
  const auto ints = at::TensorOptions(at::kInt);
  return {at::empty({entries}, ints.pinned_memory(true)),
          at::empty({entries}, ints.device(device))};
}

CudaStep::Memory CudaStep::Memory::MakeLasting(int64_t entries, at::Device device) {
  Memory memory = Make(entries, device);
  cudaEvent_t event = nullptr;
  ThrowIfError(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  memory.sent = {event, [](cudaEvent_t e) { cudaEventDestroy(e); }};
  return memory;
}

int64_t CudaStep::Entries(const Shape& shape) { return Places(shape).end; }

CudaStep::Places::Places(const Shape& s) {
  targets = 3 * s.rows;
  dense = targets + s.targets;     // rows, lengths, first pages
  near = dense + 3 * s.dense + 1;  // the same
  far = near + 3 * s.refined + 1;  // first pages
  tau = far + s.refined + 1;
  audits = tau + s.refined;  // as dense
  near_pages = audits + 3 * s.audits + 1;
  dense_pages = near_pages + s.near_pages;
  far_pages = dense_pages + s.dense_pages;
  prompt_pages = far_pages + s.far_pages;
  audit_pages = prompt_pages + s.prompt_pages;
  end = audit_pages + s.audit_pages;
}

CudaStep::Decode CudaStep::Make(int32_t sequences, int64_t page_count, int64_t at,
                                int64_t pages) const {
  return {sequences, page_count, At(at), At(at + sequences), At(at + 2 * sequences),
          At(pages)};
}

CudaStep::Decode CudaStep::dense() const {
  return Make(shape_.dense, shape_.dense_pages, at_.dense, at_.dense_pages);
}

CudaStep::Decode CudaStep::near() const {
  return Make(shape_.refined, shape_.near_pages, at_.near, at_.near_pages);
}

CudaStep::Decode CudaStep::audits() const {
  return Make(shape_.audits, shape_.audit_pages, at_.audits, at_.audit_pages);
}

CudaStep::Decode CudaStep::far() const {
  return {.sequences = shape_.refined,
          .page_count = shape_.far_pages,
          .first_page = At(at_.far),
          .pages = At(at_.far_pages)};
}

// Fills the tables on the host.
class CudaStep::Writer {
 public:
  Writer(const Shape& shape, const Places& at, int32_t* to)
      : shape_(shape),
        at_(at),
        to_(to),
        near_pages_(to + at.near_pages),
        dense_pages_(to + at.dense_pages),
        far_pages_(to + at.far_pages),
        prompt_pages_(to + at.prompt_pages),
        audit_pages_(to + at.audit_pages) {}

  void PutRows(absl::Span<const TokenId> tokens,
               absl::Span<const CudaSequence> sequences) {
    const int64_t rows = shape_.rows;
    std::copy(tokens.begin(), tokens.end(), to_);
    std::fill(to_ + tokens.size(), to_ + 2 * rows, 0);
    std::fill_n(to_ + 2 * rows, rows + shape_.targets, -1);
    for (const CudaSequence& sequence : sequences) {
      const SequenceRows& s = sequence.rows;
      for (int64_t i = 0; i < s.rows; ++i) {
        const int64_t position = s.begin + i;
        to_[rows + s.first_row + i] = static_cast<int32_t>(position);
        to_[2 * rows + s.first_row + i] = static_cast<int32_t>(
            static_cast<int64_t>(s.blocks[position / kPageTokens]) * kPageTokens +
            position % kPageTokens);
      }
      if (shape_.targets > 0) to_[at_.targets + s.first_row] = sequence.target;
    }
  }

  // Sequences come as they come in the step.
  void PutDense(const SequenceRows& s) {
    const int64_t n = shape_.dense, i = dense_++;
    to_[at_.dense + i] = static_cast<int32_t>(s.first_row);
    to_[at_.dense + n + i] = s.begin + 1;
    to_[at_.dense + 2 * n + i] = Pages(dense_pages_, at_.dense_pages);
    PutBlocks(s, 0, PagesOf(s), dense_pages_);
  }

  void PutAudit(const SequenceRows& s, int64_t row) {
    const int64_t n = shape_.audits, i = audits_++;
    to_[at_.audits + i] = static_cast<int32_t>(s.first_row + row);
    to_[at_.audits + n + i] = static_cast<int32_t>(s.begin + row + 1);
    to_[at_.audits + 2 * n + i] = Pages(audit_pages_, at_.audit_pages);
    PutBlocks(s, 0, PagesOf(s, row + 1), audit_pages_);
  }

  void PutRefined(const CudaSequence& sequence) {
    const SequenceRows& s = sequence.rows;
    const int64_t n = shape_.refined, i = refined_++, far = sequence.far_pages();
    to_[at_.near + i] = static_cast<int32_t>(s.first_row);
    to_[at_.near + n + i] = static_cast<int32_t>(s.begin + 1 - far * kPageTokens);
    to_[at_.near + 2 * n + i] = Pages(near_pages_, at_.near_pages);
    PutBlocks(s, 0, 1, near_pages_);
    PutBlocks(s, far + 1, PagesOf(s), near_pages_);
    to_[at_.far + i] = Pages(far_pages_, at_.far_pages);
    PutBlocks(s, 1, far + 1, far_pages_);
    const float log2_tau = 2 * std::log2(sequence.eps);
    std::memcpy(to_ + at_.tau + i, &log2_tau, sizeof log2_tau);
  }

  // Returns the index of the block table.
  int64_t PutPrompt(const SequenceRows& s) {
    const int64_t at = prompt_pages_ - to_;
    PutBlocks(s, 0, PagesOf(s), prompt_pages_);
    return at;
  }

  // The ends of the lists, for sequences in excess as for the last one. Returns how many
  // entries are in use, from the first on.
  int64_t Finish() {
    const int64_t dense = shape_.dense, refined = shape_.refined;
    std::fill(to_ + at_.dense + 2 * dense + dense_, to_ + at_.near,
              Pages(dense_pages_, at_.dense_pages));
    std::fill(to_ + at_.near + 2 * refined + refined_, to_ + at_.far,
              Pages(near_pages_, at_.near_pages));
    std::fill(to_ + at_.far + refined_, to_ + at_.tau, Pages(far_pages_, at_.far_pages));
    to_[at_.near_pages - 1] = Pages(audit_pages_, at_.audit_pages);
    int64_t used = at_.near_pages;
    for (const auto& [end, begin] :
         {std::pair(near_pages_, at_.near_pages),
          std::pair(dense_pages_, at_.dense_pages), std::pair(far_pages_, at_.far_pages),
          std::pair(prompt_pages_, at_.prompt_pages),
          std::pair(audit_pages_, at_.audit_pages)}) {
      if (Pages(end, begin) > 0) used = end - to_;
    }
    return used;
  }

 private:
  int32_t Pages(const int32_t* end, int64_t begin) const {
    return static_cast<int32_t>(end - to_ - begin);
  }
  // Blocks [first, last) of a sequence.
  static void PutBlocks(const SequenceRows& s, int64_t first, int64_t last,
                        int32_t*& to) {
    for (int64_t i = first; i < last; ++i) *to++ = static_cast<int32_t>(s.blocks[i]);
  }

  const Shape& shape_;
  const Places& at_;
  int32_t* const to_;
  int32_t *near_pages_, *dense_pages_, *far_pages_, *prompt_pages_,
      *audit_pages_;                              // where the next one goes
  int64_t dense_ = 0, refined_ = 0, audits_ = 0;  // so far
};

CudaStep::CudaStep(absl::Span<const TokenId> tokens,
                   absl::Span<const CudaSequence> sequences, at::Device device)
    : CudaStep(Shape::Of(sequences), tokens, sequences,
               Memory::Make(Entries(Shape::Of(sequences)), device)) {}

CudaStep::CudaStep(const Shape& shape, absl::Span<const TokenId> tokens,
                   absl::Span<const CudaSequence> sequences, const Memory& memory)
    : shape_(shape), at_(shape), prompts_(sequences.size(), 0), device_(memory.device) {
  QUIRE_CHECK(at_.end <= memory.host.numel());
  if (memory.sent != nullptr) ThrowIfError(cudaEventSynchronize(memory.sent.get()));
  Writer writer(shape_, at_, memory.host.data_ptr<int32_t>());
  writer.PutRows(tokens, sequences);
  for (size_t i = 0; i < sequences.size(); ++i) {
    switch (sequences[i].reading) {
      case Reading::kPrefill:
      case Reading::kFaithful:
        prompts_[i] = writer.PutPrompt(sequences[i].rows);
        break;
      case Reading::kDenseDecode:
        writer.PutDense(sequences[i].rows);
        break;
      case Reading::kRefinedDecode:
        writer.PutRefined(sequences[i]);
        break;
    }
    for (const int64_t row : sequences[i].audited) {
      writer.PutAudit(sequences[i].rows, row);
    }
  }
  const int64_t used = writer.Finish();
  // ATen keeps memory of a step's own until the copy is done.
  const at::Tensor to = device_.narrow(0, 0, used);
  to.copy_(memory.host.narrow(0, 0, used), /*non_blocking=*/true);
  if (memory.sent == nullptr) return;
  ThrowIfError(cudaEventRecord(memory.sent.get(), c10::cuda::getCurrentCUDAStream()));
}

}  // namespace quire
