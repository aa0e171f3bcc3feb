#include <algorithm>

#include "core/kernels/cuda/cluster.cuh"
#include "core/kernels/cuda/sample.h"
#include "core/kernels/cuda/sample_select.cuh"

namespace quire::kernels::cuda {
namespace {

// The best token's weight; the sum of a row's is below 2^63.
constexpr int kWeightBits = 44;
constexpr uint64_t kBestWeight = uint64_t{1} << kWeightBits;
static_assert(kWeightBits < kMeasureBits && kMaxSampledVocab <= 1 << (63 - kWeightBits));
// Below this exponent a weight is rounded to 0.
constexpr double kLeastExponent = -31.5;

// A token's probability is its weight up to a common factor. If the best logit is
// infinite, its equals share everything.
struct Weight {
  float best;
  float temperature;
  double inverse_temperature;
  double least_share = 0;  // of the best token's weight

  __device__ Weight(float best, float temperature)
      : best(best), temperature(temperature), inverse_temperature(1.0 / temperature) {}

  // Lower logits weigh nothing, by half an exponent at least.
  __device__ float least() const { return best - 32 * temperature; }

  __device__ uint64_t operator()(float logit) const {
    if (logit == best) return kBestWeight;
    const double exponent = (static_cast<double>(logit) - best) * inverse_temperature;
    if (!(exponent > kLeastExponent)) return 0;
    const double weight = exp(exponent);
    return weight >= least_share
               ? __double2ull_rn(weight * static_cast<double>(kBestWeight))
               : 0;
  }
};

// In the host's order of operations: none becomes a fused multiplication and addition.
__device__ float Penalized(float logit, int32_t count, const SampledRow& r) {
  logit = logit > 0 ? __fdiv_rn(logit, r.repetition_penalty)
                    : __fmul_rn(logit, r.repetition_penalty);
  return __fsub_rn(logit,
                   __fadd_rn(r.presence_penalty,
                             __fmul_rn(r.frequency_penalty, static_cast<float>(count))));
}

// Tokens [begin, end) of the row after penalties, in `out`, which has each token's count
// meanwhile.
__device__ void ApplyPenalties(const float* logits, int begin, int end,
                               const SampledRow& r, const int32_t* history, float* out) {
  auto* const counts = reinterpret_cast<int32_t*>(out);
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = begin + thread; i < end; i += kSelectThreads) counts[i] = 0;
  __syncthreads();
  for (int i = thread; i < r.history_size; i += kSelectThreads) {
    const int32_t token = history[i];
    if (token >= begin && token < end) atomicAdd(&counts[token], 1);
  }
  __syncthreads();
#pragma unroll 4
  for (int i = begin + thread; i < end; i += kSelectThreads) {
    const int32_t count = counts[i];
    out[i] = count == 0 ? logits[i] : Penalized(logits[i], count, r);
  }
  __syncthreads();
}

// Forbids each token that followed an earlier occurrence of the last n - 1 tokens.
__device__ void BanRepeatedNgrams(int begin, int end, const SampledRow& r,
                                  const int32_t* history, float* out) {
  const int n = r.no_repeat_ngram;
  const int32_t* const tail = history + r.history_size - (n - 1);
  for (int i = static_cast<int>(threadIdx.x); i <= r.history_size - n;
       i += kSelectThreads) {
    const int32_t token = history[i + n - 1];
    if (token < begin || token >= end) continue;
    int equal = 0;
    while (equal < n - 1 && history[i + equal] == tail[equal]) ++equal;
    if (equal == n - 1) out[token] = -INFINITY;
  }
  __syncthreads();
}

__device__ bool BansSomething(const SampledRow& r) {
  return r.adjusted >= 0 && r.no_repeat_ngram > 0 && r.no_repeat_ngram <= r.history_size;
}

__device__ void Adjust(const SampleArgs& a, const SampledRow& r, int begin, int end,
                       bool ban) {
  float* const out = a.adjusted + r.adjusted * a.vocab;
  const int32_t* const history = a.history + r.history_begin;
  ApplyPenalties(a.logits + r.row * a.vocab, begin, end, r, history, out);
  if (ban) BanRepeatedNgrams(begin, end, r, history, out);
}

__device__ int Draw(Selection& selection, int vocab, const SampledRow& r) {
  Weight weight(selection.best(), r.temperature);
  if (r.top_k > 0 && r.top_k < vocab) selection.KeepBest(r.top_k);
  if (r.top_p < 1) {
    selection.KeepFirst(weight, [&r](uint64_t sum) {
      const auto needed = static_cast<uint64_t>(ceil(static_cast<double>(sum) * r.top_p));
      return needed > 0 ? needed : 1;
    });
  }
  weight.least_share = r.min_p;
  return selection.TokenAt(weight, [&r](uint64_t sum) {
    const auto below = static_cast<uint64_t>(static_cast<double>(sum) * r.point);
    return (below < sum ? below : sum - 1) + 1;
  });
}

// The first thread of the cluster gets it.
__device__ int32_t CountLarger(const float* logits, const Selection& selection,
                               float than, int blocks, int32_t& count) {
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  int larger = 0;
#pragma unroll 8
  for (int i = selection.begin() + static_cast<int>(threadIdx.x); i < selection.end();
       i += kSelectThreads) {
    larger += logits[i] > than ? 1 : 0;
  }
  larger = __reduce_add_sync(kAll, larger);
  if (threadIdx.x % kWarp == 0) atomicAdd(&count, larger);
  ClusterBarrier();
  larger = 0;
  for (int i = 0; i < blocks; ++i) larger += OfBlock(count, i);
  ClusterBarrier();  // before a block and its memory go
  return larger;
}

// Rows that one launch has room for in its arguments.
template <typename Row>
struct Rows {
  static constexpr int kMost = 4096 / sizeof(Row);
  Row row[kMost];
};

__global__ void __launch_bounds__(kSelectThreads)
    SampleKernel(SampleArgs a, int blocks,
                 const __grid_constant__ Rows<SampledRow> rows) {
  __shared__ SelectMemory memory;
  const int number = static_cast<int>(blockIdx.x) / blocks;
  const int rank = static_cast<int>(blockIdx.x) % blocks;
  const SampledRow r = rows.row[number];
  const int vocab = static_cast<int>(a.vocab);
  // The logits that are chosen from: the model's own, or adjusted ones.
  const float* const logits = a.logits + r.row * a.vocab;
  const float* const row = r.adjusted < 0 ? logits : a.adjusted + r.adjusted * a.vocab;
  Selection selection(memory, row, vocab, rank, blocks);
  // A ban on everything that was possible is lifted: some token must be chosen.
#pragma unroll 1
  for (bool ban = BansSomething(r);; ban = false) {
    if (r.adjusted >= 0) Adjust(a, r, selection.begin(), selection.end(), ban);
    selection.FindBest();
    if (!ban || selection.best() > -INFINITY) break;
  }
  const bool draws = r.temperature > 0 && selection.best() > -INFINITY;
  const int token = draws ? Draw(selection, vocab, r) : selection.best_token();
  const float logit = Selection::Ordered(logits[token]);
  int32_t larger = 0;
  if (r.count_larger != 0) {
    larger = CountLarger(logits, selection, logit, blocks, memory.listed);
  }
  if (rank == 0 && threadIdx.x == 0) a.out[number] = {token, logit, larger};
}

__global__ void __launch_bounds__(kSelectThreads)
    ListKernel(ListArgs a, int blocks, const __grid_constant__ Rows<ListedRow> rows) {
  __shared__ SelectMemory memory;
  const int number = static_cast<int>(blockIdx.x) / blocks;
  const ListedRow r = rows.row[number];
  const int vocab = static_cast<int>(a.vocab);
  const int count = r.count < vocab ? r.count : vocab;
  if (count <= 0) return;
  Selection selection(memory, a.logits + r.row * a.vocab, vocab,
                      static_cast<int>(blockIdx.x) % blocks, blocks);
  selection.FindBest();
  selection.KeepBest(count);
  ListedToken* const out = a.out + static_cast<int64_t>(number) * a.stride;
  selection.ForEachKept([out](int token, float logit, int before) {
    out[before] = {token, logit};
  });
}

// A cluster a row, of as many blocks as there is room for, while a block has enough to
// do. stride: of a row's results.
template <typename Row, typename Args>
cudaError_t Launch(void (*kernel)(Args, int, Rows<Row>), Args args, int64_t stride,
                   cudaStream_t stream) {
  if (args.vocab < 1 || args.vocab > kMaxSampledVocab) return cudaErrorInvalidValue;
  for (int left = args.count; left > 0;) {
    const int count = std::min(left, Rows<Row>::kMost);
    Rows<Row> rows = {};
    std::copy_n(args.rows, count, rows.row);
    int blocks = BlocksOfCluster(count);
    while (blocks > 1 && args.vocab < blocks * tuning::kSelectSlice) blocks /= 2;
    const cudaError_t error =
        LaunchClusters(kernel, count, blocks, kSelectThreads, stream, args, blocks, rows);
    if (error != cudaSuccess) return error;
    left -= count;
    args.rows += count;
    args.out += count * stride;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t SampleRows(const SampleArgs& args, cudaStream_t stream) {
  return Launch(SampleKernel, args, 1, stream);
}

cudaError_t ListLargest(const ListArgs& args, cudaStream_t stream) {
  static_assert(kMaxListedTokens <= tuning::kSelectListed &&
                kMaxListedTokens <= kSelectThreads);
  return Launch(ListKernel, args, args.stride, stream);
}

}  // namespace quire::kernels::cuda
