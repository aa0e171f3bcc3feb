#pragma once

#include <cstdint>
#include <vector>

#include "core/config/model_config.h"
#include "core/dga/attention_stats.h"
#include "core/model/cuda_step.h"
#include "core/step/step.h"

// What the receipts say of attention on a GPU beyond its dense and refined work.
namespace quire {

// Rows of an item, from `first` on, whose error is wanted: the CPU's positions
// (IsAudited), but only of requests that set a limit to it. A row costs a dense one.
std::vector<int64_t> AuditedRows(const StepItem& item, int64_t first);

// Of a sequence that decodes, or whose rows were all read densely. counts: if it was read
// kRefinedDecode, its row of CudaDecoder::Result::counts.
AttentionStats DecodeOrDenseStats(const ModelConfig& config, const CudaSequence& sequence,
                                  const int64_t* counts);

// Of a prompt with refined rows. counts: its row of CudaDecoder::Result::prompt_counts.
AttentionStats RefinedPromptStats(const ModelConfig& config, const CudaSequence& sequence,
                                  const int64_t* counts);

// Of a sequence that was read kFaithful. grouped_share: CudaFaithful's.
AttentionStats FaithfulStats(const ModelConfig& config, const CudaSequence& sequence,
                             double grouped_share);

// Adds the audits of a sequence: errors [sequence.audited], sums over the layers.
void AddAudits(const ModelConfig& config, const CudaSequence& sequence,
               const float* errors, AttentionStats& stats);

}  // namespace quire
