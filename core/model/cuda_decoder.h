#pragma once

#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/config/model_config.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/kernels.h"
#include "core/model/cuda_kv_cache.h"
#include "core/model/cuda_linear.h"
#include "core/model/cuda_step.h"
#include "core/weights/weight_source.h"

namespace quire {

// Decoder on a GPU: the same model in bfloat16, with activations of a step on the device
// from its tokens to its logits. Nothing waits for the device here. Immutable but for its
// workspace; not thread-safe. Errors of CUDA and ATen are thrown.
class CudaDecoder {
 public:
  // A sequence of a step whose attention some rows are asked about.
  struct Probe {
    size_t sequence = 0;        // index
    std::vector<int64_t> rows;  // of the sequence, ascending
    at::Tensor attention;  // out: [begin + last row + 1] float32 on the device, summed
                           // over rows and layers, mean over heads
  };

  // kUnimplemented names a head size or a share of query heads for which there is no
  // kernel; other errors are WeightMap's.
  static absl::StatusOr<std::unique_ptr<CudaDecoder>> Load(const ModelConfig& config,
                                                           const WeightSource& source,
                                                           at::Device device);

  struct Result {
    at::Tensor hidden;  // [T, E] float32, before the final norm
    // [refined sequences, 3] int64, see kernels::cuda::RefinedDecodeArgs::Counts: of all
    // layers. Undefined if there are none.
    at::Tensor counts;
    int64_t indexed_pages = 0;  // whose index was made, in every layer
  };
  // Runs the rows of all sequences through every layer; their keys and values are in the
  // cache afterwards. A probed sequence is read kPrefill.
  Result Forward(absl::Span<const TokenId> tokens,
                 absl::Span<const CudaSequence> sequences, absl::Span<Probe> probes,
                 CudaKvCache& cache);

  // hidden [R, E], rows of Forward's result -> [R, vocab] float32.
  at::Tensor Logits(const at::Tensor& hidden) const;

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  int64_t weight_bytes() const;

 private:
  struct Layer {
    at::Tensor attention_norm, mlp_norm;  // [E] float32
    at::Tensor q_norm, k_norm;            // [D] float32, or undefined
    CudaLinear qkv, output, gate_up, down;
  };
  struct Rows;

  CudaDecoder(const ModelConfig& config, at::Device device);
  void GrowWorkspace(int32_t sequences, int64_t far_pages);
  absl::Status LoadWeights(const WeightSource& source);
  absl::Status LoadLayer(const WeightSource& source, int32_t index);
  at::Tensor Normed(at::Tensor& residual, const at::Tensor& update,
                    const at::Tensor& weight) const;
  void RunLayer(int32_t index, Rows& rows, CudaKvCache& cache) const;
  at::Tensor RotateAndStore(const Layer& layer, const at::Tensor& qkv, const Rows& rows,
                            const CudaKvCache::Layer& kv) const;
  at::Tensor Attend(int32_t layer, const at::Tensor& q, const Rows& rows,
                    const CudaKvCache::Layer& kv) const;
  kernels::cuda::DecodeArgs DecodeArgsOf(const CudaStep::Decode& tables,
                                         const at::Tensor& q,
                                         const CudaKvCache::Layer& kv,
                                         at::Tensor& out) const;
  void DecodeRefined(int32_t layer, const at::Tensor& q, const Rows& rows,
                     const CudaKvCache::Layer& kv, at::Tensor& out) const;

  const ModelConfig config_;
  const at::Device device_;
  int32_t multiprocessors_ = 0;
  at::Tensor inverse_frequencies_;  // [D / 2] float32
  at::Tensor draws_;                // kernels::DrawTable
  // Of DenseDecode and RefinedDecode, for so much:
  at::Tensor workspace_, refined_workspace_;
  int32_t workspace_sequences_ = 0;
  int64_t workspace_far_pages_ = 0;
  CudaLinear embedding_;  // [vocab, E]; also the head when they are tied
  CudaLinear head_;
  at::Tensor final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace quire
