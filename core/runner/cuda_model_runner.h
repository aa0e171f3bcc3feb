#pragma once

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "core/model/cuda_decoder.h"
#include "core/model/cuda_faithful.h"
#include "core/model/cuda_kv_cache.h"
#include "core/runner/cuda_readout.h"
#include "core/runner/group_budget.h"
#include "core/runner/runner.h"

namespace quire {

// ModelRunner over a decoder on a GPU. A step waits for the device once, at its end,
// after StepInput::meanwhile. Beside what ModelRunner says: kDataLoss if the device is
// lost (a fault of a kernel, of the driver or of the card): every step after it fails
// alike, and only a new process can use the device again.
class CudaModelRunner final : public ModelRunner {
 public:
  // group_bytes: what groups of sequences read FAITHFUL may take, see GroupBudget.
  CudaModelRunner(std::unique_ptr<CudaDecoder> decoder,
                  std::unique_ptr<CudaKvCache> cache, const KvGeometry& geometry,
                  int64_t group_bytes = std::numeric_limits<int64_t>::max())
      : decoder_(std::move(decoder)),
        cache_(std::move(cache)),
        geometry_(geometry),
        groups_(decoder_->config(), group_bytes) {}

  // cuDNN's plans for dense prompts.
  void Prepare() override;
  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override;

 private:
  using Items = absl::Span<const StepItem* const>;
  // What is wanted of an item's rows: numbers in the readout.
  struct Wanted {
    std::vector<size_t> scores;
    std::optional<size_t> sample;
  };

  // What the device counted, on its way to the host; undefined where there is nothing.
  struct Counted {
    at::Tensor refined;         // CudaDecoder::Result::counts
    at::Tensor prompts;         // CudaDecoder::Result::prompt_counts
    at::Tensor audit_errors;    // CudaDecoder::Result::audit_errors
    at::Tensor grouped_shares;  // [faithful sequences] float64
  };

  absl::Status Check(const StepItem& item) const;
  absl::Status CheckAttention(const AttentionOptions& attention) const;
  absl::StatusOr<std::vector<StepResult>> ComputeOrError(const StepInput& input,
                                                         Items items);
  std::vector<StepResult> Compute(Items items, const std::function<void()>& meanwhile);
  std::vector<CudaDecoder::Probe> Probes(Items items,
                                         std::vector<StepResult>& results) const;
  static std::vector<Wanted> Want(Items items, CudaReadout& readout);
  static void Finish(const Wanted& wanted, const CudaReadout& readout,
                     StepResult& result);
  CudaFaithful* BeginFaithful(const StepItem& item, const kernels::SequenceRows& rows);
  CudaSequence SequenceOf(const StepItem& item, int64_t first_row);
  AttentionWork IndexWork(int64_t pages) const;
  void TakeImportance(absl::Span<const CudaDecoder::Probe> probes,
                      std::vector<StepResult>& results) const;
  static Counted CountedBy(const CudaDecoder::Result& result,
                           absl::Span<const CudaSequence> sequences);
  void TakeStats(absl::Span<const CudaSequence> sequences, const Counted& counted,
                 int64_t indexed_pages, std::vector<StepResult>& results) const;

  const std::unique_ptr<CudaDecoder> decoder_;
  const std::unique_ptr<CudaKvCache> cache_;
  const KvGeometry geometry_;
  GroupBudget groups_;                          // of faithful_
  std::map<RequestId, CudaFaithful> faithful_;  // of sequences read FAITHFUL
  absl::Status lost_;                           // not OK: the device is
};

}  // namespace quire
