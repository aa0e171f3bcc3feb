#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// Choosing the next token on the GPU, and listing the most probable ones. Device pointers
// but for what is asked, which goes along with the launch, and a stream; each function
// only launches, and returns the first error. Logits are [any rows, V] float32 with V <=
// kMaxSampledVocab; a NaN counts as -inf, ties go to the smaller id.
//
// A row has a cluster of up to eight blocks, as many as there is room for (of sm_90; else
// one block), of 1,024 threads and 41 KB of shared memory each; it is read from the L2
// cache two to four times. The k best tokens, the smallest set that weighs top_p, and the
// token under the random point are all found alike, by selection from the most
// significant digit on (radix selection, Alabi et al., "Fast k-selection algorithms for
// graphics processing units", ACM JEA 2012, here of sums of weights, too): a digit's
// 1,024 bins are summed, and the bin that holds the border is divided by the next digit.
// Sums of weights are sums of integers: no order of additions plays a part, and results
// repeat to the bit.
namespace quire::kernels::cuda {

inline constexpr int64_t kMaxSampledVocab = 1 << 19;

// What is asked of one row; see SamplingParams in core/sampling/sampler.h, whose fields
// and order of steps these are. Of 64 bytes.
struct SampledRow {
  int32_t row = 0;  // of the logits
  int32_t top_k = 0;
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  double point = 0;  // uniform in [0, 1): where to draw
  // What penalties and n-grams look at: part of SampleArgs::history.
  int32_t history_begin = 0;
  int32_t history_size = 0;
  int32_t no_repeat_ngram = 0;
  // The row's place in SampleArgs::adjusted; -1: no penalty and no n-gram is applied.
  int32_t adjusted = -1;
  int32_t count_larger = 0;  // whether SampledToken::larger is wanted
};

struct SampledToken {
  int32_t token;
  float logit;     // the model's own
  int32_t larger;  // own logits above it: its rank less one; 0 if not wanted
};

// Chooses a token for each of `count` rows: the one that core/sampling's Sample chooses
// from the same logits, unless the random point is within 1e-8 of the border between two
// tokens, as a share of what may be drawn, or a sum within 1e-8 of top_p, or a weight
// within 1e-15 of min_p. (Weights are exp((logit - best) / temperature), rounded to
// 2^-44.)
struct SampleArgs {
  const float* logits = nullptr;
  int64_t vocab = 0;
  const SampledRow* rows = nullptr;  // [count], on the host; read before the call is over
  int32_t count = 0;
  const int32_t* history = nullptr;  // tokens outside of [0, V) are ignored
  float* adjusted = nullptr;         // [rows that are adjusted, V]: workspace
  SampledToken* out = nullptr;       // [count]
};
cudaError_t SampleRows(const SampleArgs& args, cudaStream_t stream);

struct ListedToken {
  int32_t token;
  float logit;
};
struct ListedRow {
  int32_t row;  // of the logits
  int32_t count;
};

inline constexpr int32_t kMaxListedTokens = 1024;
// Of each of `rows` rows the `count` largest logits, the largest first: into
// out[i * stride] and after; V of them if there are no more. 0 <= count <=
// kMaxListedTokens, count <= stride.
struct ListArgs {
  const float* logits = nullptr;
  int64_t vocab = 0;
  const ListedRow* rows = nullptr;  // [count], on the host; read before the call is over
  int32_t count = 0;
  int32_t stride = 0;
  ListedToken* out = nullptr;
};
cudaError_t ListLargest(const ListArgs& args, cudaStream_t stream);

}  // namespace quire::kernels::cuda
