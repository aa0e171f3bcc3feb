#include "core/runner/cuda_choices.h"

#include <algorithm>
#include <type_traits>

#include "ATen/ops/empty.h"
#include "c10/cuda/CUDAStream.h"
#include "core/model/cuda_check.h"
#include "core/runner/pinned.h"
#include "core/sampling/counter_random.h"

namespace quire {
namespace {

namespace cuda = kernels::cuda;
static_assert(std::is_same_v<TokenId, int32_t>);

template <typename T>
const T* At(const at::Tensor& bytes, int64_t offset) {
  return reinterpret_cast<const T*>(bytes.const_data_ptr<uint8_t>() + offset);
}

}  // namespace

size_t CudaChoices::AddSample(int64_t row, const SamplingParams& params,
                              absl::Span<const TokenId> history, int64_t step,
                              bool rank) {
  cuda::SampledRow sample = {.row = static_cast<int32_t>(row),
                             .top_k = params.top_k,
                             .temperature = params.temperature,
                             .top_p = params.top_p,
                             .min_p = params.min_p,
                             .repetition_penalty = params.repetition_penalty,
                             .presence_penalty = params.presence_penalty,
                             .frequency_penalty = params.frequency_penalty,
                             .point = UniformAt(params.seed, step),
                             .no_repeat_ngram = params.no_repeat_ngram,
                             .count_larger = rank ? 1 : 0};
  if (params.UsesHistory() && !history.empty()) {
    sample.adjusted = static_cast<int32_t>(histories_.size());
    sample.history_begin = history_size_;
    sample.history_size = static_cast<int32_t>(history.size());
    histories_.push_back(history);
    history_size_ += sample.history_size;
  }
  samples_.push_back(sample);
  return samples_.size() - 1;
}

size_t CudaChoices::AddList(int64_t row, int32_t count) {
  lists_.push_back({static_cast<int32_t>(row), count});
  longest_list_ = std::max(longest_list_, count);
  return lists_.size() - 1;
}

int64_t CudaChoices::ListBytes() const {
  return static_cast<int64_t>(lists_.size() * sizeof(cuda::ListedToken)) * longest_list_;
}

at::Tensor CudaChoices::SendHistories(at::Device device) const {
  const at::Tensor host = Pinned({history_size_}, at::kInt);
  int32_t* to = host.data_ptr<int32_t>();
  for (const absl::Span<const TokenId> history : histories_) {
    to = std::copy(history.begin(), history.end(), to);
  }
  return host.to(device, at::kInt, /*non_blocking=*/true);
}

void CudaChoices::Launch(const at::Tensor& logits) {
  if (samples_.empty() && lists_.empty()) return;
  vocab_ = logits.size(1);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const auto sample_count = static_cast<int64_t>(samples_.size());
  results_ = Pinned(
      {ListBytes() + sample_count * static_cast<int64_t>(sizeof(cuda::SampledToken))},
      at::kByte);
  const at::Tensor out = at::empty(results_.sizes(), logits.options().dtype(at::kByte));
  uint8_t* const out_bytes = out.data_ptr<uint8_t>();
  const cuda::ListArgs list = {.logits = logits.const_data_ptr<float>(),
                               .vocab = vocab_,
                               .rows = lists_.data(),
                               .count = static_cast<int32_t>(lists_.size()),
                               .stride = longest_list_,
                               .out = reinterpret_cast<cuda::ListedToken*>(out_bytes)};
  ThrowIfError(cuda::ListLargest(list, stream));
  at::Tensor histories, adjusted;
  cuda::SampleArgs sample = {
      .logits = list.logits,
      .vocab = vocab_,
      .rows = samples_.data(),
      .count = static_cast<int32_t>(sample_count),
      .out = reinterpret_cast<cuda::SampledToken*>(out_bytes + ListBytes())};
  if (!histories_.empty()) {
    histories = SendHistories(logits.device());
    adjusted =
        at::empty({static_cast<int64_t>(histories_.size()), vocab_}, logits.options());
    sample.history = histories.const_data_ptr<int32_t>();
    sample.adjusted = adjusted.data_ptr<float>();
  }
  ThrowIfError(cuda::SampleRows(sample, stream));
  results_.copy_(out, /*non_blocking=*/true);
}

const cuda::SampledToken& CudaChoices::sample(size_t number) const {
  return At<cuda::SampledToken>(results_, ListBytes())[number];
}

absl::Span<const cuda::ListedToken> CudaChoices::list(size_t number) const {
  const auto count = std::min<int64_t>(lists_[number].count, vocab_);
  return {At<cuda::ListedToken>(results_, 0) + number * longest_list_,
          static_cast<size_t>(count)};
}

}  // namespace quire
