#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/dga/group_plan.h"
#include "core/kernels/kernels.h"

namespace quire {

// Dynamic Group Attention as published for one sequence whose cache is on a GPU: the rule
// of core/attention/faithful_attention.h, by LibTorch's operators, all heads of a layer
// together. The plain path: which tokens are focal is decided on the host, so that a step
// waits for the device in every layer in which raw tokens are split. Works on tensors of
// any device. Not thread-safe.
class CudaFaithful {
 public:
  CudaFaithful(int32_t layers, int64_t kv_heads);

  // Before the layers of a step: which rows, and how they are read.
  void Begin(const kernels::SequenceRows& rows, const FaithfulOptions& options,
             at::Device device);

  // Attention of the step's rows in one layer; then their tokens join the layer's state.
  // q, out [T, H, D] of the whole step, k, v [num_blocks, G, B, D]; writes rows
  // [first_row, first_row + rows) of out.
  void Attend(int32_t layer, const at::Tensor& q, const at::Tensor& k,
              const at::Tensor& v, float scale, at::Tensor& out);

  // Since Begin, of all layers: work (all parts but dense and audit), sparse_rows and
  // coverage; from the last is still to be taken what the groups got, which is on the
  // device: [] float64.
  const AttentionStats& stats() const { return stats_; }
  const at::Tensor& grouped_share() const { return grouped_share_; }

 private:
  // One layer's state, see FaithfulLayer. Rows beyond the focal tokens and the groups are
  // room to grow.
  struct Layer {
    Position grouped_end = 0;
    std::vector<GroupPlan> plans;  // [G]
    at::Tensor focal;              // [>= focal, G] int64
    at::Tensor keys, values;       // [>= groups, G, D] float32
    at::Tensor bias;               // [>= groups, G] float32
    int64_t focal_count() const { return static_cast<int64_t>(plans[0].focal.size()); }
    int64_t group_count() const { return static_cast<int64_t>(plans[0].last.size()); }
  };
  // What a layer's heads read, in this order: groups, focal tokens, raw ones.
  struct Columns {
    at::Tensor keys, values;  // [G, C, D] float32
    at::Tensor bias;          // [G, 1, groups]
    int64_t groups = 0, focal = 0;
    // Of the last columns, whether the row at position p reads them: from <= p < until.
    // [G, some] int64; undefined if every row reads all.
    at::Tensor from, until;
  };
  // What the layer at hand is given.
  struct Tensors {
    const at::Tensor& q;
    const at::Tensor& k;
    const at::Tensor& v;
    float scale;
    at::Tensor& out;
  };

  Position End() const { return rows_.begin + static_cast<Position>(rows_.rows); }
  at::Tensor QueriesOf(const Tensors& t) const {  // [rows, H, D]
    return t.q.narrow(0, rows_.first_row, rows_.rows);
  }
  at::Tensor Send(absl::Span<const int64_t> values) const;
  at::Tensor Gather(const at::Tensor& side, const at::Tensor& positions) const;
  at::Tensor ByHead(const at::Tensor& q, float scale) const;
  void Count(const GroupPlan& plan, absl::Span<const RawColumn> raw, const Tensors& t);
  Columns ColumnsOf(const Layer& layer, const Tensors& t);
  void HideAhead(const Layer& layer, Columns& columns) const;
  void Hide(const Columns& columns, int64_t first, int64_t count,
            at::Tensor& scores) const;
  void Read(const Layer& layer, const Tensors& t);
  void Split(Layer& layer, const Tensors& t);
  std::vector<float> LastQueryAttention(const Layer& layer, const Tensors& t);
  std::vector<float> TokenImportance(const Layer& layer, const Tensors& t);
  void AppendGroups(Layer& layer, const std::vector<std::vector<Position>>& members,
                    const Tensors& t);

  const int64_t kv_heads_;
  std::vector<Layer> layers_;
  // Of the step:
  kernels::SequenceRows rows_;
  FaithfulOptions options_;
  at::Device device_ = at::kCPU;
  at::Tensor blocks_;     // [blocks] int64
  at::Tensor positions_;  // [rows] int64
  at::Tensor heads_;      // [G] int64: 0, 1, ...
  AttentionStats stats_;
  at::Tensor grouped_share_;
};

}  // namespace quire
