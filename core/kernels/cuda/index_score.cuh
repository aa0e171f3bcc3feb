#pragma once

#include "core/kernels/cuda/dependent_launch.cuh"
#include "core/kernels/cuda/refined_workspace.cuh"

// RefinedDecode's first half: every far key's score by the index, and the softmax's sum
// over a block's part of each head.
namespace quire::kernels::cuda {

// d [16, 8] += a [16, 32] b [32, 8], a unsigned and b signed bytes.
__device__ inline void MultiplyAddBytes(int (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t Bits(__half2 x) { return *reinterpret_cast<uint32_t*>(&x); }

// What warps that score share.
template <int kDim>
struct ScoreMemory {
  static constexpr int kHeads = 8;
  static constexpr int kWords = kDim / 4;
  uint32_t query[kHeads][kWords + 4];  // bytes; lanes that read together have own banks
  float step[kHeads];                  // of the quantisation
  int start[kHeads];                   // -8 times the sum of the bytes
  // Lanes' sums; the next segment's come to the other place.
  __half2 max[2][kScoreWarps][kWarp];
  float2 sum[2][kScoreWarps][kWarp];
};

// Queries [share, D], quantised symmetrically to bytes, a head a warp; those from
// `share` on are zero. A lane has four channels.
template <int kDim, int kRow>
__device__ void QuantiseQueries(const Bf16* queries, int share,
                                ScoreMemory<kDim>& memory) {
  static_assert(kRow <= kScoreWarps && kDim / 4 <= kWarp);
  const int head = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (head >= kRow) return;
  uint2 raw = {};
  if (head < share && lane < kDim / 4) {
    raw = *reinterpret_cast<const uint2*>(queries + head * kDim + 4 * lane);
  }
  const float values[4] = {
      __uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xffff0000u),
      __uint_as_float(raw.y << 16), __uint_as_float(raw.y & 0xffff0000u)};
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(values[i]));
  const float step = fmaxf(WarpMax(largest), 1e-20f) / 127;
  const float inverse = 1 / step;
  int sum = 0;
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int byte = __float2int_rn(values[i] * inverse);
    sum += byte;
    word |= (static_cast<uint32_t>(byte) & 255u) << (8 * i);
  }
  sum = __reduce_add_sync(kAll, sum);
  if (lane < kDim / 4) memory.query[head][lane] = word;
  if (lane == 0) {
    memory.step[head] = step;
    memory.start[head] = -8 * sum;
  }
}

// Products of queries [R, D] with the means of up to 16 pages, a page a row of a tile:
// lanes have pages l / 4 and l / 4 + 8, heads 2 (l % 4) and the next. A sum over channels
// does not mind their order: lanes have 8 neighbours each.
template <int kDim>
class PageMeans {
 public:
  // Of pages l / 4 and l / 4 + 8; null: none.
  __device__ explicit PageMeans(const uint8_t* const (&means)[2]) {
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mean_[i][j] = means[i] == nullptr
                          ? uint4{}
                          : __ldg(reinterpret_cast<const uint4*>(means[i]) + Chunk(j));
      }
    }
  }
  __device__ void Dot(const Bf16* queries, int share, float (&dot)[4]) const {
    const int head = static_cast<int>(threadIdx.x) % kWarp / 4;
    uint4 query[kDim / 32];
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      query[j] = uint4{};
      if (head < share) {
        query[j] = reinterpret_cast<const uint4*>(queries + head * kDim)[Chunk(j)];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) dot[i] = 0;
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      const uint4 &a = mean_[0][j], &b = mean_[1][j], &q = query[j];
      MultiplyAdd(dot, {{a.x, b.x, a.y, b.y}}, q.x, q.y);
      MultiplyAdd(dot, {{a.z, b.z, a.w, b.w}}, q.z, q.w);
    }
  }

 private:
  __device__ static int Chunk(int j) { return 4 * j + static_cast<int>(threadIdx.x) % 4; }
  uint4 mean_[2][kDim / 32];
};

// A lane's units of those that a warp scores one after another: where the index has them.
// Tables are read a warp's width at a time, so that no load of them is waited for between
// two units.
class UnitSlots {
 public:
  __device__ UnitSlots(const RefinedParams& a, const WorkLine& line)
      : a_(a), line_(line), unit_(line.begin + Warp() + kScoreWarps * Lane()) {
    now_ = Load();
  }
  // Once, before kWarp units are taken, when those at hand have been sent for.
  __device__ void LoadMore() { then_ = Load(); }

  // Of the warp's next unit: block * G + head; -1 when there are no more.
  __device__ int Next() {
    const int slot = __shfl_sync(kAll, now_, taken_);
    if (++taken_ == kWarp) {
      taken_ = 0;
      now_ = then_;
      then_ = Load();
    }
    return slot;
  }

 private:
  __device__ static int Warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  __device__ static int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  __device__ int Load() {
    const int unit = unit_;
    unit_ += kWarp * kScoreWarps;
    if (unit >= line_.end) return -1;
    const Segment s = line_.At(unit);
    const int page = a_.first_far_page[s.sequence] + unit - s.begin;
    return a_.far_pages[page] * a_.near.kv_heads + s.head;
  }

  const RefinedParams& a_;
  const WorkLine& line_;
  int unit_;  // the lane's next one
  int now_, then_;
  int taken_ = 0;  // of now_
};

// A warp's units of the block's part of the line, fetched ahead of their use through its
// ring of shared memory: codes and scales.
template <int kDim>
class IndexStream {
 public:
  static constexpr int kStages = tuning::IndexStages(kDim);
  static constexpr int kStageBytes = kPageTokens * (kDim / 2 + 4);
  static constexpr int kBytes = kStages * kStageBytes;

  // Reads nothing but tables and the index.
  __device__ IndexStream(const RefinedParams& a, const WorkLine& line, char* ring)
      : index_(a.index),
        slots_(a, line),
        ring_(ring),
        lane_(threadIdx.x % kWarp),
        once_(ReadOnce()) {
#pragma unroll 1
    for (int s = 0; s < kStages; ++s) Fetch(slots_.Next(), s);
    slots_.LoadMore();
  }

  // The next unit's codes and scales; another unit takes its place. Codes of all tiles of
  // keys, as they lie, and scales of those that the lane has scores of.
  template <int kRow>
  struct Page {
    uint4 codes[4][kDim / 64];
    float2 scales[ScoreLayout<kRow>::kPairs];
  };
  template <int kRow>
  __device__ void Take(Page<kRow>& page) {
    using Layout = ScoreLayout<kRow>;
    WaitForCopies<kStages - 1>();
    __syncwarp();
    const char* const from = ring_ + stage_ * kStageBytes;
#pragma unroll
    for (int v = 0; v < 4; ++v) {
#pragma unroll
      for (int j = 0; j < kDim / 64; ++j) {
        page.codes[v][j] = *reinterpret_cast<const uint4*>(
            from + ((v * (kDim / 64) + j) * kWarp + lane_) * 16);
      }
    }
    const auto* const scales =
        reinterpret_cast<const float2*>(from + kPageTokens * kDim / 2 + lane_ / 4 * 32);
#pragma unroll
    for (int i = 0; i < Layout::kPairs; ++i) {
      page.scales[i] = scales[Layout::kTiles * i + Layout::Tile(lane_)];
    }
    __syncwarp();
    Fetch(slots_.Next(), stage_);
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
  }

 private:
  __device__ void Fetch(int slot, int stage) {
    if (slot >= 0) {
      const uint8_t* const from = index_ + slot * IndexPageBytes(kDim) + lane_ * 16;
      const uint32_t to = SharedAddress(ring_) + stage * kStageBytes + lane_ * 16;
      constexpr int kRow = kWarp * 16;
#pragma unroll
      for (int i = 0; i < kStageBytes / kRow; ++i) {
        CopyAsync16Once(to + i * kRow, from + i * kRow, true, once_);
      }
      constexpr int kRest = kStageBytes / kRow * kRow;
      if (lane_ * 16 < kStageBytes - kRest) {
        CopyAsync16Once(to + kRest, from + kRest, true, once_);
      }
    }
    CommitCopies();
  }

  const uint8_t* const index_;
  UnitSlots slots_;
  char* const ring_;
  const int lane_;
  const uint64_t once_;
  int stage_ = 0;
};

// A lane's part of the softmax's sums, of its pair of heads. Terms that a half cannot
// hold beside the largest so far count nothing.
struct LaneSums {
  __half2 max = __half2half2(__ushort_as_half(0xfc00));  // -infinity
  float sum[2] = {};

  template <int kScores>
  __device__ void Add(const __half2 (&score)[kScores]) {
    __half2 top = max;
#pragma unroll
    for (int i = 0; i < kScores; ++i) top = __hmax2(top, score[i]);
    if (__any_sync(kAll, Bits(top) != Bits(max))) {
      const float2 factor = __half22float2(Exp2(__hsub2(max, top)));
      sum[0] *= factor.x;
      sum[1] *= factor.y;
      max = top;
    }
    __half2 of_page = Exp2(__hsub2(score[0], top));
#pragma unroll
    for (int i = 1; i < kScores; ++i) {
      of_page = __hadd2(of_page, Exp2(__hsub2(score[i], top)));
    }
    const float2 more = __half22float2(of_page);
    sum[0] += more.x;
    sum[1] += more.y;
  }
};

// A warp's units of a segment.
template <int kDim, int kRow>
class Scorer {
 public:
  // Reads nothing but tables and the index.
  __device__ Scorer(const RefinedParams& a, const WorkLine& line, const Segment& s,
                    ScoreMemory<kDim>& memory)
      : a_(a),
        s_(s),
        memory_(memory),
        lane_(threadIdx.x % kWarp),
        pages_(a.far_pages + a.first_far_page[s.sequence]),
        queries_(Queries(a, s)),
        to_log2_(a.near.scale * kLog2E),
        unit_(OwnUnit(line, s.begin + s.first)),
        mean_slot_(MeanSlot(unit_)) {}

  // after_the_one_before: queries must not be read earlier.
  __device__ void Start(bool after_the_one_before) {
    const PageMeans<kDim> means = SendForMeans();
    if (after_the_one_before) WaitForTheOneBefore();
    QuantiseQueries<kDim, kRow>(queries_, a_.share, memory_);
    SetMeans(means);
    SyncScoreWarps();
    SetQueries();
  }

  __device__ void Run(IndexStream<kDim>& stream, const ScoreStore<kRow>& store,
                      LaneSums& sums) {
    const int last = s_.begin + s_.last;
    int row = 0;  // of the tile of means
#pragma unroll 1
    for (; unit_ < last; unit_ += kScoreWarps, ++row) {
      if (row == kMeanRows) {
        SetMeans(SendForMeans());
        row = 0;
      }
      Page page;
      stream.Take(page);
      __half2 score[kScores];
      Score(page, row, score);
      sums.Add(score);
      const int local = unit_ - store.begin;
      if (local < ScoreStore<kRow>::kSharedPages) {
        Keep(score, store.shared + local * Layout::kPage);
      } else {
        Keep(score, store.global + static_cast<int64_t>(local) * Layout::kPage);
      }
    }
  }

 private:
  using Layout = ScoreLayout<kRow>;
  using Page = typename IndexStream<kDim>::template Page<kRow>;
  static constexpr int kMeanRows = 16;
  static constexpr int kScores = 2 * Layout::kPairs;

  __device__ void SetQueries() {
    for (int h = 0; h < 2; ++h) {
      const int head = 2 * Layout::Pair(lane_) + h;
      start_[h] = 16 * memory_.start[head];
      step_[h] = memory_.step[head] * to_log2_ / 16;
    }
    // Lane l holds channels 4 c + i and 4 c + i + D / 2, c = 4 t + l % 4, of head
    // l / 4 % kRow. A tile of keys has its own columns.
    const uint32_t* const words = memory_.query[lane_ / 4 % kRow] + lane_ % 4;
#pragma unroll
    for (int tile = 0; tile < Layout::kTiles; ++tile) {
      const bool has = lane_ / 4 / kRow == tile;
#pragma unroll
      for (int t = 0; t < kDim / 32; ++t) {
        low_[tile][t] = has ? words[4 * t] : 0;
        high_[tile][t] = has ? words[kDim / 8 + 4 * t] : 0;
      }
    }
  }

  __device__ void Keep(const __half2 (&score)[kScores], __half2* page) const {
    uint2* const to = reinterpret_cast<uint2*>(page) + lane_ * Layout::kPairs;
#pragma unroll
    for (int i = 0; i < Layout::kPairs; ++i) {
      to[i] = {Bits(score[2 * i]), Bits(score[2 * i + 1])};
    }
  }

  // Where the index has the lane's of the warp's kMeanRows units from `unit` on, whose
  // mean is sent for; -1: there is none.
  __device__ int MeanSlot(int unit) const {
    const int its = unit + lane_ % kMeanRows * kScoreWarps;
    if (its >= s_.begin + s_.last) return -1;
    const int slot = pages_[its - s_.begin] * a_.near.kv_heads + s_.head;
    const uint8_t* const half = Mean(slot) + lane_ / kMeanRows * kDim;
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(half));
    return slot;
  }
  __device__ const uint8_t* Mean(int slot) const {
    return a_.index + slot * IndexPageBytes(kDim) + IndexStream<kDim>::kStageBytes;
  }

  // Of the kMeanRows units from unit_ on.
  __device__ PageMeans<kDim> SendForMeans() const {
    const uint8_t* rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = __shfl_sync(kAll, mean_slot_, lane_ / 4 + 8 * i);
      rows[i] = slot < 0 ? nullptr : Mean(slot);
    }
    return PageMeans<kDim>(rows);
  }
  // In log2; the next ones are sent for.
  __device__ void SetMeans(const PageMeans<kDim>& means) {
    means.Dot(queries_, a_.share, means_);
#pragma unroll
    for (int i = 0; i < 4; ++i) means_[i] *= to_log2_;
    mean_slot_ = MeanSlot(unit_ + kMeanRows * kScoreWarps);
  }

  // The lane's scores, [i][2 keys] pairs of heads. The high half of a byte counts as 16
  // times the code, so that nothing need be shifted.
  __device__ void Score(const Page& page, int row, __half2 (&score)[kScores]) const {
    const int from = row % 8 * 4 + Layout::Pair(lane_);
    const float mean[2] = {__shfl_sync(kAll, row < 8 ? means_[0] : means_[2], from),
                           __shfl_sync(kAll, row < 8 ? means_[1] : means_[3], from)};
#pragma unroll
    for (int i = 0; i < Layout::kPairs; ++i) {
      int low[4] = {}, high[4] = {start_[0], start_[1], start_[0], start_[1]};
#pragma unroll
      for (int tile = 0; tile < Layout::kTiles; ++tile) {
#pragma unroll
        for (int j = 0; j < kDim / 64; ++j) {
          constexpr uint32_t kLow = 0x0f0f0f0fu, kHigh = 0xf0f0f0f0u;
          const uint4& w = page.codes[i * Layout::kTiles + tile][j];
          MultiplyAddBytes(low, {w.x & kLow, w.y & kLow, w.z & kLow, w.w & kLow},
                           low_[tile][2 * j], low_[tile][2 * j + 1]);
          MultiplyAddBytes(high, {w.x & kHigh, w.y & kHigh, w.z & kHigh, w.w & kHigh},
                           high_[tile][2 * j], high_[tile][2 * j + 1]);
        }
      }
      const float scales[2] = {page.scales[i].x, page.scales[i].y};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int dot[2] = {16 * low[2 * h] + high[2 * h],
                            16 * low[2 * h + 1] + high[2 * h + 1]};
        score[2 * i + h] = __floats2half2_rn(
            fmaf(static_cast<float>(dot[0]), scales[h] * step_[0], mean[0]),
            fmaf(static_cast<float>(dot[1]), scales[h] * step_[1], mean[1]));
      }
    }
  }

  const RefinedParams& a_;
  const Segment& s_;
  ScoreMemory<kDim>& memory_;
  const int lane_;
  const int32_t* const pages_;
  const Bf16* const queries_;
  const float to_log2_;
  int unit_;
  int mean_slot_;   // of the next ones
  float means_[4];  // of kMeanRows units
  uint32_t low_[Layout::kTiles][kDim / 32], high_[Layout::kTiles][kDim / 32];
  int start_[2];  // 16 times the query's
  float step_[2];
};

// The lanes' sums become the block's, whose logs go to logs [R], a head a warp. `turn`
// differs from call to call.
template <int kDim, int kRow>
__device__ void DeliverSums(const LaneSums& sums, int share, int turn,
                            ScoreMemory<kDim>& memory, uint32_t* logs) {
  constexpr int kPairs = ScoreLayout<kRow>::kPairs;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  memory.max[turn % 2][warp][lane] = sums.max;
  memory.sum[turn % 2][warp][lane] = {sums.sum[0], sums.sum[1]};
  SyncScoreWarps();
  if (warp >= share) return;
  // Lanes of the head's pair are every kPairs-th.
  constexpr int kEach = kScoreWarps / kPairs;
  static_assert(kScoreWarps % kPairs == 0);
  const __half2* const max = memory.max[turn % 2][0];
  const float2* const sum = memory.sum[turn % 2][0];
  float its_max[kEach], its_sum[kEach];
  float high = -INFINITY;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int at = (i * kWarp + lane) * kPairs + warp / 2;
    const float2 two = __half22float2(max[at]);
    its_max[i] = warp % 2 == 0 ? two.x : two.y;
    its_sum[i] = warp % 2 == 0 ? sum[at].x : sum[at].y;
    high = fmaxf(high, its_max[i]);
  }
  high = WarpMax(high);
  float whole = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    whole += its_sum[i] == 0 ? 0 : its_sum[i] * FastExp2(its_max[i] - high);
  }
  whole = WarpSum(whole);
  if (lane == 0) SendWord(logs + warp, LogOf(high, whole));
}

}  // namespace quire::kernels::cuda
