#pragma once

#include "core/kernels/cuda/refined_read.cuh"

// How a head's parts, near and far, become its result. If there are few heads, blocks do
// it that do nothing else: they take parts as they come, a warp kMergeChannels channels
// of a query head, so that other blocks are over as soon as theirs are sent. Else the
// block does it that brings a head's last part.
namespace quire::kernels::cuda {

// How many of a launch's blocks only merge: the last ones. A warp calls it; far_pages:
// WorkLine::PagesOfLane. Sequences that only pad do not count, so that a batch is merged
// in one way with them and without, to the bit.
__device__ inline int MergeBlocks(const RefinedParams& a, int far_pages) {
  if (a.near.sequences > kWarp) return 0;
  const int heads = WorkLine::HeadsWith(far_pages, a.near.kv_heads);
  const int pieces = heads * a.share * (a.near.head_dim / kMergeChannels);
  const int blocks = static_cast<int>(gridDim.x);
  const bool few = pieces <= tuning::kMergeBlocks * kRefinedWarps;
  return few && blocks >= tuning::kFewBlocks ? tuning::kMergeBlocks : 0;
}

// Both lines in which a head has parts. Blocks that come last in one are first in the
// other. workers: blocks that have parts, the first ones.
struct Lines {
  WorkLine far, near;

  __device__ Lines(const RefinedParams& a, int far_pages, int workers)
      : far(a.first_far_page, a.near.sequences, a.near.kv_heads, workers,
            static_cast<int>(blockIdx.x)),
        near(a.near.first_page, a.near.sequences, a.near.kv_heads, workers,
             workers - 1 - static_cast<int>(blockIdx.x)) {
    far.BeginAtHeads(far_pages);
  }
  // Whether blocks that have no parts merge those of others.
  __device__ bool others_merge() const {
    return far.blocks < static_cast<int>(gridDim.x);
  }
};

// Where a head's parts are, near and far.
struct HeadParts {
  int64_t far_slot, near_slot;  // the first ones, times R
  int far, near;                // how many
  int share;                    // R

  __device__ HeadParts(const Segment& s, const Lines& lines, int share) : share(share) {
    const Segment n = lines.near.Head(s.sequence, s.head);
    far = lines.far.Parts(s);
    near = lines.near.Parts(n);
    far_slot = lines.far.FirstSlot(s) * share;
    near_slot = lines.near.FirstSlot(n) * share;
  }
  __device__ int count() const { return far + near; }
  // Of part p, `size` for each head: near ones come first.
  template <typename T>
  __device__ T* Of(int p, int head, T* of_far, T* of_near, int size = 1) const {
    return p < near ? of_near + (near_slot + p * share + head) * size
                    : of_far + (far_slot + (p - near) * share + head) * size;
  }
};

__device__ inline void AddFixed(unsigned long long* to, float x) {
  atomicAdd(to, __float2ull_rz(x * 4294967296.0f));
}

__device__ inline void AddCoverage(const Part& whole, RefinedDecodeArgs::Counts& counts) {
  const float covered = fminf(1.0f, __fdividef(whole.certain, whole.sum));
  AddFixed(&counts.coverage, covered);
  AddFixed(&counts.risk, FastSqrt(1 - covered));
}

// Nobody waits for a query head's logs any more: all of its parts came after them. A warp
// calls it.
__device__ inline void ForgetLogs(const HeadParts& parts, int head,
                                  const RefinedWorkspace& work) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll 1
  for (int p = lane; p < parts.count(); p += kWarp) {
    uint32_t* const log = parts.Of(p, head, work.far_logs, work.near_logs);
    AwaitNumber(log);  // so that what is written here is the later
    *log = 0;
  }
}

// Some channels of a query head's parts become its result; what was read of the workspace
// is zero afterwards. Half of a warp's lanes have the even parts, the others the odd
// ones.
template <int kDim>
class HeadMerge {
 public:
  // piece: which kMergeChannels of the head's channels.
  __device__ HeadMerge(const HeadParts& parts, int head, int piece,
                       const RefinedWorkspace& work)
      : parts_(parts), head_(head), piece_(piece), work_(work) {
    // Those near are there first.
#pragma unroll 1
    for (int first = 0; first < parts.count();) {
      const int end = first < parts.near ? parts.near : parts.count();
      const int count = min(kWarp, end - first);
      Add(first, count);
      first += count;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      values_[c] += __shfl_xor_sync(kAll, values_[c], kWarp / 2);
    }
  }
  // out: of the head; counts: of its sequence.
  __device__ void Put(Bf16* out, RefinedDecodeArgs::Counts& counts) const {
    const float scale = __fdividef(1.0f, whole_.sum);
    if (Half() == 0) {
      *reinterpret_cast<uint2*>(out + Channel()) = {
          PackBf16(values_[0] * scale, values_[1] * scale),
          PackBf16(values_[2] * scale, values_[3] * scale)};
    }
    if (Channel() == 0 && Half() == 0) AddCoverage(whole_, counts);
  }

 private:
  static constexpr int kLoads = kWarp / 2;  // of a lane: values of all parts
  static_assert(4 * kWarp / 2 == kMergeChannels);

  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ static int Half() { return Lane() / (kWarp / 2); }
  __device__ int Channel() const {
    return piece_ * kMergeChannels + Lane() % (kWarp / 2) * 4;
  }

  // Parts [first, first + count), at most a lane each, all near or all far. What comes is
  // taken as it comes, so that little is left to do after the last part.
  __device__ void Add(int first, int count) {
    uint32_t* const values =
        parts_.Of(first, head_, work_.drawn_sent.values, work_.near_sent.values, kDim) +
        Half() * parts_.share * kDim + Channel();
    uint32_t* const part = parts_.Of(first + Lane(), head_, work_.drawn_sent.parts,
                                     work_.near_sent.parts, SentRows::PartWords(kDim)) +
                           piece_ * SentRows::kPartWords;
    SentWords words[kLoads], part_words;
    constexpr unsigned kPart = 1u << kLoads;
    unsigned missing = Lane() < count ? kPart : 0;  // bits of words, too
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      words[i].SetZero();
      if (2 * i + Half() < count) missing |= 1u << i;
    }
    // Of all lanes. Values are looked for when the first part is there.
    unsigned wanted = kPart;
    bool weighed = false;
    float weight = 0;
    do {
      const int step = FromHere(2 * parts_.share * kDim);
      if (missing & kPart) part_words.Load(part);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        if (wanted >> i & 1 && missing >> i & 1) words[i].Load(values + i * step);
      }
      if (missing & kPart && part_words.There()) {
        SentWords::Clear(part);
        missing &= ~kPart;
      }
      if (!weighed && !__any_sync(kAll, missing & kPart)) {
        weight = Weigh(Lane() < count ? PartFrom(part_words.x) : Part());
        weighed = true;
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        if (wanted >> i & 1 && missing >> i & 1 && words[i].There()) {
          SentWords::Clear(values + i * step);
          missing &= ~(1u << i);
        }
      }
      const bool begun = __any_sync(kAll, Lane() < count && (missing & kPart) == 0);
      const unsigned all = __reduce_or_sync(kAll, missing);
      wanted = begun ? all : kPart;
    } while (wanted != 0);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (2 * i >= count) break;
      const float factor = __shfl_sync(kAll, weight, 2 * i + Half());
#pragma unroll
      for (int c = 0; c < 4; ++c) values_[c] += factor * words[i].Number(c);
    }
  }
  // Parts, a lane's each, are added to the whole. Returns what their values count.
  __device__ float Weigh(const Part& mine) {
    const Part whole = Join(whole_, JoinLanes(mine));
    const float before = FastExp2(whole_.max - whole.max);
#pragma unroll
    for (int c = 0; c < 4; ++c) values_[c] *= before;
    whole_ = whole;
    return mine.sum == 0 ? 0 : FastExp2(mine.max - whole.max);
  }

  const HeadParts& parts_;
  const int head_, piece_;
  const RefinedWorkspace& work_;
  Part whole_;
  float values_[4] = {};  // of the lane's channels
};

// By the blocks that only merge: neighbours in different ones.
template <int kDim>
__device__ void MergeHeads(const RefinedParams& a, const RefinedWorkspace& work,
                           int far_pages, int workers) {
  const int block = static_cast<int>(blockIdx.x) - workers;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int blocks = static_cast<int>(gridDim.x) - workers;
  constexpr int kPieces = kDim / kMergeChannels;
  const int pieces = a.share * kPieces;  // of a head
  const int index = warp * blocks + block, heads = Quotient(index, pieces);
  const int sequence = Quotient(heads, a.near.kv_heads);
  const Lines lines(a, far_pages, workers);
  if (sequence >= a.near.sequences) return;
  const Segment s = lines.far.Head(sequence, heads - sequence * a.near.kv_heads);
  if (s.pages == 0) return;  // it only pads
  const int of_head = index - heads * pieces;
  const int head = of_head / kPieces, piece = of_head % kPieces;
  const HeadParts parts(s, lines, a.share);
  const HeadMerge<kDim> merged(parts, head, piece, work);
  merged.Put(a.near.out + (Queries(a, s) - a.near.q) + head * kDim, a.counts[sequence]);
  if (piece == 0) ForgetLogs(parts, head, work);
}

// Sends for the values of parts [first, last), a warp a part at a time.
template <int kDim>
__device__ void FetchValues(const HeadParts& parts, int first, int last,
                            const RefinedWorkspace& work, uint32_t to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int chunks = parts.share * kDim / 4;
#pragma unroll 1
  for (int p = first + static_cast<int>(threadIdx.x) / kWarp; p < last;
       p += kRefinedWarps) {
    const uint32_t* const from =
        parts.Of(p, 0, work.drawn.values, work.near.values, kDim);
#pragma unroll 4
    for (int c = lane; c < chunks; c += kWarp) {
      CopyAsync16(to + ((p - first) * chunks + c) * 16, from + c * 4, true);
    }
  }
  CommitCopies();
}

// By the block that brought the last part of a head. Its code is short rather than
// unrolled: it runs once, and comes from far away. kBytes of `shared`, of which
// kMergeBytes for what parts weigh.
template <int kDim, int kRow, int kBytes, int kMergeBytes>
__device__ void Finish(const RefinedParams& a, const DrawSegment& from,
                       const HeadParts& parts, const RefinedWorkspace& work,
                       char* shared) {
  constexpr int kEach = (kRow * kDim + kRefinedThreads - 1) / kRefinedThreads;
  const int share = parts.share, count = parts.count(), size = share * kDim;
  const int thread = FromHere(static_cast<int>(threadIdx.x));
  const auto* const values = reinterpret_cast<const uint32_t*>(shared + kMergeBytes);
  const int together = (kBytes - kMergeBytes) / (size * static_cast<int>(sizeof(float)));
  MergeMemory merged;
  float sum[kEach] = {};
#pragma unroll 1
  for (int first = 0; first < count; first += together) {
    const int last = min(count, first + together);
    FetchValues<kDim>(parts, first, last, work, SharedAddress(values));
    if (first == 0) {  // what they weigh, meanwhile
      merged = JoinParts(
          [&](int p, int r) {
            return PartFrom(parts.Of(p, r, work.drawn.parts, work.near.parts,
                                     SentRows::PartWords(kDim)));
          },
          count, share, shared);
    }
    WaitForCopies<0>();
    __syncthreads();
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = thread + e * kRefinedThreads;
      if (i >= size) break;
#pragma unroll 4
      for (int p = first; p < last; ++p) {
        sum[e] += merged.weights[p * share + i / kDim] *
                  FromWord(values[(p - first) * size + i]);
      }
    }
    __syncthreads();  // before others take their place
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (warp < share) ForgetLogs(parts, warp, work);
  RefinedDecodeArgs::Counts& counts = a.counts[from.segment.sequence];
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int i = thread + e * kRefinedThreads;
    if (i >= size) break;
    const Part whole = merged.whole[i / kDim];
    a.near.out[from.queries + i] = __float2bfloat16(__fdividef(sum[e], whole.sum));
    if (i % kDim == 0) AddCoverage(whole, counts);
  }
}

}  // namespace quire::kernels::cuda
