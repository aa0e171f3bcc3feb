#pragma once

#include <cmath>
#include <cstdint>

#include "core/kernels/cuda/cluster.cuh"
#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/warp.cuh"

// Selection among the tokens of one row of logits, by all threads of a cluster together:
// each of its blocks has a slice of the row.
namespace quire::kernels::cuda {

inline constexpr int kSelectThreads = 1024;
inline constexpr int kDigitBits = 10;
inline constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits == kSelectThreads, "a thread has a bin");

// Measures are integers below 2^kMeasureBits, and those of a row add up to below 2^64.
inline constexpr int kMeasureBits = 45;

struct SelectMemory {
  uint64_t list[tuning::kSelectListed];  // places
  uint32_t low[kDigits], high[kDigits];  // of sums
  uint64_t warps[kSelectThreads / kWarp];
  uint64_t best;  // place of the slice's best token
  uint64_t found[2];
  int found_digit;
  int listed;
};

// Adds the lanes' measures to their bins; digit -1: none. All lanes of the warp call it.
// There is no 64-bit addition in shared memory: the low half's carry goes to the high
// one. Where all have one bin, which is usual, they add once.
__device__ inline void AddToBins(SelectMemory& memory, int digit, uint64_t measure) {
  const bool adds = digit >= 0 && measure > 0;
  const unsigned adding = __ballot_sync(kAll, adds);
  if (adding == 0) return;
  const int leader = __ffs(static_cast<int>(adding)) - 1;
  const int common = __shfl_sync(kAll, digit, leader);
  bool writes = adds;
  if (__all_sync(kAll, !adds || digit == common)) {
    constexpr int kHalf = kMeasureBits / 2;
    const uint64_t mine = adds ? measure : 0;
    const unsigned low =
        __reduce_add_sync(kAll, static_cast<unsigned>(mine) & ((1u << kHalf) - 1));
    const unsigned high = __reduce_add_sync(kAll, static_cast<unsigned>(mine >> kHalf));
    measure = low + (static_cast<uint64_t>(high) << kHalf);
    writes = static_cast<int>(threadIdx.x % kWarp) == leader;
  }
  if (!writes) return;
  const auto low = static_cast<uint32_t>(measure);
  const uint32_t before = atomicAdd(&memory.low[digit], low);
  const uint32_t carry = before + low < before ? 1 : 0;
  const uint32_t high = static_cast<uint32_t>(measure >> 32) + carry;
  if (high > 0) atomicAdd(&memory.high[digit], high);
}

// The tokens of a row, or as many of its largest as were kept. Each token has a place in
// the order (logit descending, id ascending): the smaller the earlier. Tokens that are
// kept are those up to a place, and in the bins of distance up to one. All threads call
// every function alike.
class Selection {
 public:
  // rank: the block's in the cluster of so many.
  __device__ Selection(SelectMemory& memory, const float* row, int vocab, int rank,
                       int blocks)
      : memory_(memory),
        row_(row),
        vocab_(vocab),
        rank_(rank),
        blocks_(blocks),
        alone_(blocks == 1) {
    while (1 << id_bits_ < vocab) ++id_bits_;
    const int slice = (vocab + blocks - 1) / blocks;
    begin_ = min(rank * slice, vocab);
    end_ = min(begin_ + slice, vocab);
  }

  // The block's slice.
  __device__ int begin() const { return begin_; }
  __device__ int end() const { return end_; }

  // NaN becomes -inf, and -0 becomes 0.
  __device__ static float Ordered(float x) {
    return x == 0 ? 0.0f : x == x ? x : -INFINITY;
  }

  // First of all.
  __device__ void FindBest();
  __device__ float best() const { return best_; }  // the largest logit, or -inf
  __device__ int best_token() const { return best_token_; }

  // Keeps the first k. REQUIRES: 0 < k <= as many as there are.
  __device__ void KeepBest(int k);

  // Keeps the first tokens whose measures come to needed(sum of the measures of all that
  // are kept), and no more; `about`: perhaps some more. measure(logit) and needed give
  // uint64_t; 0 < needed <= sum. Logits below measure.least() have a measure of 0.
  template <typename Measure, typename Needed>
  __device__ void KeepFirst(const Measure& measure, const Needed& needed,
                            bool about = false);

  // The same by id: the token at which, from the smallest id of those that are kept
  // onwards, measures come to what is needed.
  template <typename Measure, typename Needed>
  __device__ int TokenAt(const Measure& measure, const Needed& needed);

  // use(token, logit, how many come before it) of all tokens that are kept, by single
  // threads of one block. REQUIRES: after KeepBest of at most tuning::kSelectListed.
  template <typename Use>
  __device__ void ForEachKept(const Use& use);

 private:
  struct One {  // counts tokens
    __device__ uint64_t operator()(float) const { return 1; }
    __device__ static float least() { return -INFINITY; }
  };
  struct Found {
    int digit;        // that the border is in
    uint64_t inside;  // sum of its bin
    uint64_t left;    // of what is needed: of the border's bin
    uint64_t border;  // what is needed
  };

  // The order of floats, descending, as that of integers; its own inverse.
  __device__ static uint32_t Key(uint32_t bits) {
    return static_cast<int32_t>(bits) < 0 ? bits : bits ^ 0x7fffffffu;
  }
  __device__ uint64_t Place(float logit, int token) const {
    return static_cast<uint64_t>(Key(__float_as_uint(logit))) << id_bits_ |
           static_cast<uint32_t>(token);
  }
  __device__ float Logit(uint64_t place) const {
    return __uint_as_float(Key(static_cast<uint32_t>(place >> id_bits_)));
  }
  __device__ int Token(uint64_t place) const {
    return static_cast<int>(place & ((uint64_t{1} << id_bits_) - 1));
  }

  // A logit's distance from the best one in steps of 1/32, as far as they go: floats'
  // own leading bits would put most logits into a handful of bins. It ascends with the
  // place.
  __device__ int Distance(float logit) const {
    if (logit == best_) return 0;
    return static_cast<int>(fminf((best_ - logit) * 32, kDigits - 1));
  }
  __device__ bool IsKept(float logit, uint64_t place) const {
    return place <= last_ && Distance(logit) <= last_distance_;
  }

  // A logit that is not above any that is kept. Differences are rounded, hence a step
  // more than the distance.
  __device__ float LeastKept() const {
    const float by_place = last_ == ~uint64_t{0} ? -INFINITY : Logit(last_);
    if (last_distance_ >= kDigits - 1) return by_place;
    const float by_distance = best_ - static_cast<float>(last_distance_ + 2) / 32;
    return fmaxf(by_place, by_distance);
  }
  __device__ bool IsFew() const {
    return in_list_ && alone_ && listed_ <= tuning::kSelectCompared;
  }
  // Of all who work on the same tokens.
  __device__ void Barrier() const {
    if (alone_) {
      __syncthreads();
    } else {
      ClusterBarrier();
    }
  }

  template <int kTogether, typename Use>
  __device__ void ForEach(int begin, int end, float least, const Use& use) const;
  template <typename Digit, typename Measure>
  __device__ void Sum(int begin, int end, const Digit& digit, const Measure& measure);
  template <typename Needed>
  __device__ Found Find(const Needed& needed);
  template <typename Order, typename Measure, typename Needed>
  __device__ uint64_t BorderOfFew(const Order& order, const Measure& measure,
                                  const Needed& needed);
  __device__ void ListKept();

  SelectMemory& memory_;
  const float* const row_;
  const int vocab_;
  const int rank_, blocks_;
  bool alone_;  // the list is the whole cluster's, and each block goes on by itself
  int begin_ = 0, end_ = 0;
  int id_bits_ = 0;
  float best_ = 0;
  int best_token_ = 0;
  uint64_t first_ = ~uint64_t{0};  // place of the thread's first token
  uint64_t last_ = ~uint64_t{0};
  int last_distance_ = kDigits;
  // Whether memory_.list has all tokens that are kept, and perhaps others; how many. If
  // the block is not alone, those of its slice.
  bool in_list_ = false;
  int listed_ = 0;
};

// use(logit, place, whether there is one) of tokens [begin, end) of the row, or of those
// in the list; all lanes of a warp together. It may leave out those of the row whose
// logits are below `least`. kTogether: loads that a thread has on their way.
template <int kTogether, typename Use>
__device__ void Selection::ForEach(int begin, int end, float least,
                                   const Use& use) const {
  begin = in_list_ ? 0 : max(begin, begin_);
  end = in_list_ ? listed_ : min(end, end_);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int start = begin + static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int first = start; first - lane < end; first += kSelectThreads * kTogether) {
    float x[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int i = first + j * kSelectThreads;
      x[j] = !in_list_ && i < end ? row_[i] : 0;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int i = first + j * kSelectThreads;
      if (i - lane >= end) break;
      if (!in_list_ && __all_sync(kAll, i >= end || x[j] < least)) continue;
      const float logit = Ordered(x[j]);
      uint64_t place = Place(logit, i);
      if (in_list_) place = i < end ? memory_.list[i] : 0;
      use(in_list_ ? Logit(place) : logit, place, i < end);
    }
  }
}

__device__ inline void Selection::FindBest() {
  constexpr int kTogether = 8;
  const int thread = static_cast<int>(threadIdx.x);
  float largest = -INFINITY;
  int token = begin_ + thread;
#pragma unroll 1
  for (int first = token; first < end_; first += kSelectThreads * kTogether) {
    float x[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int i = first + j * kSelectThreads;
      x[j] = i < end_ ? row_[i] : -INFINITY;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (!(x[j] > largest)) continue;  // NaN never is
      largest = x[j];
      token = first + j * kSelectThreads;
    }
  }
  first_ = token < end_ ? Place(Ordered(largest), token) : ~uint64_t{0};
  const auto earliest = [](uint64_t place) {  // of the lanes'
    for (int step = kWarp / 2; step > 0; step /= 2) {
      place = min(place, __shfl_xor_sync(kAll, place, step));
    }
    return place;
  };
  const uint64_t of_warp = earliest(first_);
  if (thread % kWarp == 0) memory_.warps[thread / kWarp] = of_warp;
  __syncthreads();
  uint64_t best = earliest(memory_.warps[thread % kWarp]);
  if (thread == 0) memory_.best = best;
  Barrier();
  for (int i = 0; i < blocks_; ++i) best = min(best, OfBlock(memory_, i).best);
  best_ = Logit(best);
  best_token_ = Token(best);
  Barrier();
}

// digit(logit, place): the token's bin, or -1 for none.
template <typename Digit, typename Measure>
__device__ void Selection::Sum(int begin, int end, const Digit& digit,
                               const Measure& measure) {
  memory_.low[threadIdx.x] = 0;
  memory_.high[threadIdx.x] = 0;
  __syncthreads();
  const float least = fmaxf(LeastKept(), measure.least());
  ForEach<4>(begin, end, least, [&](float logit, uint64_t place, bool there) {
    const int bin = there ? digit(logit, place) : -1;
    AddToBins(memory_, bin, bin >= 0 ? measure(logit) : 0);
  });
  Barrier();
}

// After Sum, needed(sum of all bins): where it is reached.
template <typename Needed>
__device__ Selection::Found Selection::Find(const Needed& needed) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const auto running = [lane](uint64_t x) {  // sum of the lanes up to this one
    for (int step = 1; step < kWarp; step *= 2) {
      const uint64_t other = __shfl_up_sync(kAll, x, static_cast<unsigned>(step));
      if (lane >= step) x += other;
    }
    return x;
  };
  uint64_t mine = 0;
  for (int i = 0; i < (alone_ ? 1 : blocks_); ++i) {
    const SelectMemory& from = alone_ ? memory_ : OfBlock(memory_, i);
    mine += static_cast<uint64_t>(from.high[threadIdx.x]) << 32 | from.low[threadIdx.x];
  }
  uint64_t sum = running(mine);
  if (lane == kWarp - 1) memory_.warps[warp] = sum;
  __syncthreads();
  const uint64_t warps = running(memory_.warps[lane]);
  const uint64_t total = __shfl_sync(kAll, warps, kWarp - 1);
  const uint64_t before = __shfl_sync(kAll, warps, warp == 0 ? 0 : warp - 1);
  if (warp > 0) sum += before;
  const uint64_t border = needed(total);
  if (sum >= border && sum - mine < border) {  // one thread
    memory_.found_digit = static_cast<int>(threadIdx.x);
    memory_.found[0] = mine;
    memory_.found[1] = border - (sum - mine);
  }
  Barrier();
  return {memory_.found_digit, memory_.found[0], memory_.found[1], border};
}

// The place, of those in a short list, at which measures come to needed(their sum) in the
// order that order(place) gives: each is compared with each.
template <typename Order, typename Measure, typename Needed>
__device__ uint64_t Selection::BorderOfFew(const Order& order, const Measure& measure,
                                           const Needed& needed) {
  static_assert(tuning::kSelectCompared <= kSelectThreads);
  const int i = static_cast<int>(threadIdx.x);
  uint64_t place = 0, mine = 0;
  if (i < listed_) {
    place = memory_.list[i];
    if (IsKept(Logit(place), place)) mine = measure(Logit(place));
    memory_.low[i] = static_cast<uint32_t>(mine);
    memory_.high[i] = static_cast<uint32_t>(mine >> 32);
  }
  __syncthreads();
  uint64_t sum = 0, before = 0;
  if (i < listed_) {
#pragma unroll 4
    for (int j = 0; j < listed_; ++j) {
      const uint64_t other =
          static_cast<uint64_t>(memory_.high[j]) << 32 | memory_.low[j];
      sum += other;
      before += order(memory_.list[j]) < order(place) ? other : 0;
    }
    const uint64_t border = needed(sum);
    if (before < border && before + mine >= border) memory_.found[0] = place;
  }
  __syncthreads();
  return memory_.found[0];
}

// Lists what is kept of the row, if there is room for all of it: then in every block.
__device__ inline void Selection::ListKept() {
  if (threadIdx.x == 0) memory_.listed = 0;
  __syncthreads();
  ForEach<8>(0, vocab_, LeastKept(), [&](float logit, uint64_t place, bool there) {
    const bool kept = there && IsKept(logit, place);
    const unsigned mask = __ballot_sync(kAll, kept);
    if (mask == 0) return;
    const unsigned lane = threadIdx.x % kWarp;
    int at = 0;
    if (lane == 0) at = atomicAdd(&memory_.listed, __popc(mask));
    at = __shfl_sync(kAll, at, 0) + __popc(mask & ((1u << lane) - 1));
    if (kept && at < tuning::kSelectListed) memory_.list[at] = place;
  });
  Barrier();
  int all = 0;
  for (int i = 0; i < blocks_; ++i) all += OfBlock(memory_, i).listed;
  in_list_ = all <= tuning::kSelectListed;
  if (in_list_) {
    listed_ = memory_.listed;
    for (int i = 0; i < blocks_; ++i) {  // the others' after the block's own
      if (i == rank_) continue;
      const SelectMemory& from = OfBlock(memory_, i);
      const int count = from.listed;
      for (int j = static_cast<int>(threadIdx.x); j < count; j += kSelectThreads) {
        memory_.list[listed_ + j] = from.list[j];
      }
      listed_ += count;
    }
  }
  Barrier();
  if (in_list_) alone_ = true;
}

// By distances first, then by the place itself, as far as needed: within the border's bin
// of distances, and all of a bin is kept if all of its sum is needed.
template <typename Measure, typename Needed>
__device__ void Selection::KeepFirst(const Measure& measure, const Needed& needed,
                                     bool about) {
  uint64_t prefix = 0, left = 0, border = 0;
  int above = 32 + id_bits_ + kDigitBits;  // the first digit is none of the place
  int shift = 32 + id_bits_;
  int distance = -1;
#pragma unroll 1
  while (true) {
    if (IsFew()) {
      last_ =
          BorderOfFew([](uint64_t place) { return place; }, measure,
                      [&](uint64_t sum) { return border > 0 ? border : needed(sum); });
      return;
    }
    Sum(
        0, vocab_,
        [&](float logit, uint64_t place) {
          const int far = Distance(logit);
          if (place > last_ || far > last_distance_) return -1;
          if (distance < 0) return far;
          if (far != distance || place >> above != prefix) return -1;
          return static_cast<int>(place >> shift & ((1u << (above - shift)) - 1));
        },
        measure);
    const Found found =
        Find([&](uint64_t sum) { return distance < 0 ? needed(sum) : left; });
    left = found.left;
    if (distance < 0) {
      distance = last_distance_ = found.digit;
      border = found.border;
      if (!in_list_) ListKept();
    } else {
      prefix = prefix << (above - shift) | static_cast<unsigned>(found.digit);
    }
    if (left == found.inside || shift == 0 || about) break;
    above = shift;
    shift = shift > kDigitBits ? shift - kDigitBits : 0;
  }
  if (above > 32 + id_bits_) return;
  const uint64_t last = ((prefix + 1) << shift) - 1;
  last_ = last < last_ ? last : last_;
}

// There are k tokens up to the k-th of the threads' first ones, and few more: those that
// are not the first of their thread. First these are listed, with what is about as near
// to the best as the k-th; should that be too much, only what comes up to its place.
__device__ inline void Selection::KeepBest(int k) {
#pragma unroll 1
  for (int round = k <= kSelectThreads ? 0 : 2;; ++round) {
    if (round < 2) {
      memory_.list[threadIdx.x] = first_;
      listed_ = min(end_ - begin_, kSelectThreads);
      in_list_ = true;
    }
    KeepFirst(
        One(), [k](uint64_t) { return static_cast<uint64_t>(k); }, round == 0);
    if (round == 2) return;
    in_list_ = false;
    ListKept();
    if (in_list_) round = 1;
  }
}

template <typename Measure, typename Needed>
__device__ int Selection::TokenAt(const Measure& measure, const Needed& needed) {
  if (IsFew()) {
    return Token(
        BorderOfFew([this](uint64_t place) { return Token(place); }, measure, needed));
  }
  int prefix = 0, begin = 0, end = vocab_, above = id_bits_;
  uint64_t left = 0;
#pragma unroll 1
  while (true) {
    const int shift = above > kDigitBits ? above - kDigitBits : 0;
    Sum(
        begin, end,
        [&](float logit, uint64_t place) {
          const int token = Token(place);
          return token >> above == prefix && IsKept(logit, place)
                     ? token >> shift & ((1 << (above - shift)) - 1)
                     : -1;
        },
        measure);
    const Found found =
        Find([&](uint64_t sum) { return above == id_bits_ ? needed(sum) : left; });
    left = found.left;
    prefix = prefix << (above - shift) | found.digit;
    if (shift == 0) return prefix;
    begin = prefix << shift;
    end = (prefix + 1) << shift;
    end = end < vocab_ ? end : vocab_;
    above = shift;
  }
}

template <typename Use>
__device__ void Selection::ForEachKept(const Use& use) {
  if (!in_list_) ListKept();
  if (rank_ > 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < listed_; i += kSelectThreads) {
    const uint64_t place = memory_.list[i];
    if (!IsKept(Logit(place), place)) continue;
    int before = 0;
    for (int j = 0; j < listed_; ++j) before += memory_.list[j] < place ? 1 : 0;
    use(Token(place), Logit(place), before);
  }
}

}  // namespace quire::kernels::cuda
