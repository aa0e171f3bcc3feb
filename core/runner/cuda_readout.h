#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/model/cuda_decoder.h"
#include "core/step/step.h"

namespace quire {

// Rows of a step's result whose logits are wanted: the device sums them up, so that but
// a few numbers of each come to the host. Whole rows come only where somebody must see
// them: to draw, to apply penalties, to list alternatives.
class CudaReadout {
 public:
  // Both must outlive it.
  CudaReadout(const CudaDecoder& decoder, const CudaDecoder::Result& result)
      : decoder_(decoder), result_(result) {}

  // target: kNoTarget if a token is to be chosen; if the result has its numbers already,
  // that of the row's sequence. Returns the row's number in here.
  size_t Want(int64_t row, TokenId target, bool whole);

  int64_t whole_rows() const { return whole_rows_; }

  // Launches all of it, in order.
  void Launch();

  // After the stream was waited for.
  struct Summary {
    float log_sum = 0;
    TokenId best = 0;  // ties go to the smaller id
    float best_logit = 0;
    float target_logit = 0;
    int32_t larger = 0;  // logits above the target's
  };
  Summary summary(size_t number) const;
  absl::Span<const float> logits(size_t number) const;  // REQUIRES: whole

 private:
  struct Wanted {
    int64_t row;
    TokenId target;
    int64_t whole;  // index among the whole rows, or -1
  };
  void LaunchPart(size_t first, size_t count);
  // Rows of logits, to places in rows_ from that of the first on.
  void SendWhole(const at::Tensor& logits, const std::vector<int32_t>& rows,
                 int64_t first);
  void SendNumbers();

  const CudaDecoder& decoder_;
  const CudaDecoder::Result& result_;
  std::vector<Wanted> wanted_;
  int64_t whole_rows_ = 0;
  at::Tensor numbers_;  // [kRowNumbers, wanted or rows of the step] int32, pinned
  at::Tensor rows_;     // [whole_rows_, vocab] float32, pinned
};

}  // namespace quire
