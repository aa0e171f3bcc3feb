#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "core/model/cuda_decoder.h"
#include "core/runner/cuda_choices.h"
#include "core/step/step.h"

namespace quire {

// What is wanted of rows of a step's result: probabilities of given tokens, tokens to
// come after, alternatives. All of it is computed on the device, so that but a few
// numbers of each row come to the host.
class CudaReadout {
 public:
  // Both must outlive it.
  CudaReadout(const CudaDecoder& decoder, const CudaDecoder::Result& result)
      : decoder_(decoder), result_(result) {}

  // The score of the token `target` after a row of the item, which must outlive this. If
  // the result has its numbers already, the target must be that of the row's sequence.
  // Returns its number in here.
  size_t WantScore(int64_t row, const StepItem& item, TokenId target);
  // The token to come after a row of the item, and its score.
  size_t WantSample(int64_t row, const StepItem& item);

  // Launches all of it, in order.
  void Launch();

  // After the stream was waited for.
  TokenScore Score(size_t number) const;

 private:
  struct Wanted {
    int64_t row;
    const StepItem* item;
    TokenId target;  // kNoTarget: one is chosen
    // Places among the results, once launched.
    size_t part = 0;
    int64_t column = 0;  // of the part's numbers
    size_t sample = 0;   // of its choices, unless the best token is taken
    size_t list = 0;     // of its choices, if alternatives are asked for
  };
  // Of rows whose logits exist at the same time.
  struct Part {
    at::Tensor numbers;  // [kRowNumbers, columns] int32, pinned
    CudaChoices choices;
  };
  // Of the part's numbers, see kernels::cuda::RowSummary.
  struct Summary {
    float log_sum;
    TokenId best;
    float best_logit;
    float target_logit;
    int32_t larger;
  };
  void LaunchPart(size_t first, size_t count);
  // Of the last part, whose logits these are; row: of them.
  void Choose(Wanted& wanted, int64_t row);
  Summary SummaryOf(const Wanted& wanted) const;

  const CudaDecoder& decoder_;
  const CudaDecoder::Result& result_;
  std::vector<Wanted> wanted_;
  std::vector<Part> parts_;
};

}  // namespace quire
