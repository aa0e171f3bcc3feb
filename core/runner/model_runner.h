#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/model/decoder.h"
#include "core/model/kv_cache.h"
#include "core/runner/runner.h"

namespace quire {

// ModelRunner over a decoder on this machine's CPU.
class CpuModelRunner final : public ModelRunner {
 public:
  CpuModelRunner(std::unique_ptr<Decoder> decoder, std::unique_ptr<KvCache> cache,
                 const KvGeometry& geometry, int32_t refined_pays_from)
      : decoder_(std::move(decoder)),
        cache_(std::move(cache)),
        geometry_(geometry),
        refined_pays_from_(refined_pays_from) {}

  absl::StatusOr<std::vector<StepResult>> Step(const StepInput& input) override;

 private:
  absl::Status Check(const StepItem& item) const;
  absl::Status CheckDropped(const StepItem& item) const;
  using Items = absl::Span<const StepItem* const>;
  absl::StatusOr<std::vector<StepResult>> ComputeOrError(const StepInput& input,
                                                         Items items);
  std::vector<StepResult> Compute(Items items);
  std::vector<SequenceAttention> Sequences(Items items, std::vector<StepResult>& results);
  // Compact mode: keeps the means of the pages that may go, and names those.
  void Compact(SequenceAttention& sequence, StepResult& result);
  void ScoreTargets(const StepItem& item, const at::Tensor& hidden,
                    StepResult& result) const;
  void SampleRows(Items items, const at::Tensor& hidden,
                  absl::Span<const int64_t> last_rows,
                  std::vector<StepResult>& results) const;

  const std::unique_ptr<Decoder> decoder_;
  const std::unique_ptr<KvCache> cache_;
  const KvGeometry geometry_;
  const int32_t refined_pays_from_;
  std::map<RequestId, SequenceState> states_;  // of sequences that have one
};

}  // namespace quire
