#include <deque>

#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// A sum of bfloat16 parts that nearly cancel keeps the float32 error of the parts.
constexpr double kCancelled = 1e-5;

using CopyBlockTest = CudaTest;
using GatherPagesTest = CudaTest;

TEST_F(CopyBlockTest, OneBlockAndNoOther) {
  constexpr int64_t kBlocks = 6, kFrom = 4, kTo = 1;
  for (const int64_t values : {1 * 64 * 64, 3 * 64 * 64, 8 * 64 * 128, 5 * 64 * 256}) {
    SCOPED_TRACE(values);
    std::vector<Bf16> expected = Draw(3).Bf16s(kBlocks * values);
    const DeviceBuffer<Bf16> cache(expected);
    std::copy_n(expected.begin() + kFrom * values, values,
                expected.begin() + kTo * values);
    Finish(CopyBlock(cache.get(), kFrom, kTo, values, stream_));
    ExpectSameBits(cache.Download(), expected);
  }
}

TEST_F(GatherPagesTest, TailsOfEverySize) {
  constexpr int32_t kBlocks = 21;
  for (const int32_t dim : {64, 128, 256}) {
    for (const int32_t heads : {1, 3, 8}) {
      Draw draw(static_cast<uint32_t>(dim + heads));
      const std::vector<Bf16> values =
          draw.Bf16s(size_t{1} * kBlocks * heads * kPageTokens * dim);
      const DeviceBuffer<Bf16> cache(values);
      for (const int32_t tokens : {1, 63, 64, 65, 1000}) {
        SCOPED_TRACE(::testing::Message() << dim << " " << heads << " " << tokens);
        std::vector<int32_t> pages = draw.Permutation(kBlocks);
        pages.resize((tokens + kPageTokens - 1) / kPageTokens);
        std::vector<Bf16> expected;
        for (int32_t head = 0; head < heads; ++head) {
          for (int32_t token = 0; token < tokens; ++token) {
            const size_t from =
                ((size_t{1} * pages[token / kPageTokens] * heads + head) * kPageTokens +
                 token % kPageTokens) *
                dim;
            expected.insert(expected.end(), values.begin() + from,
                            values.begin() + from + dim);
          }
        }
        const DeviceBuffer<int32_t> table(pages);
        const DeviceBuffer<Bf16> out(expected.size());
        Finish(GatherPages(cache.get(), table.get(), tokens, heads, dim, out.get(),
                           stream_));
        ExpectSameBits(out.Download(), expected);
      }
    }
  }
}

// Parts of as many keys as it may be, each in a layout of its own: by row or by key/value
// head, with rows behind the last one.
class MergeAttentionTest : public CudaTest {
 protected:
  struct Shape {
    int32_t rows, heads, kv_heads, dim, parts;
    int32_t share() const { return heads / kv_heads; }
  };
  struct Part {
    std::vector<Bf16> out;
    std::vector<float> lse;
    AttentionPart view;  // without pointers
    // Where a row of a head is, counted by D, and its sum.
    size_t OutAt(const Shape& s, int32_t row, int32_t head) const {
      return (row * view.out_row + head / s.share() * view.out_head) / s.dim +
             head % s.share();
    }
    size_t LseAt(const Shape& s, int32_t row, int32_t head) const {
      return row * view.lse_row + head / s.share() * view.lse_head +
             head % s.share() * view.lse_share;
    }
  };

  static Part MakePart(const Shape& s, int32_t number, Draw& draw) {
    const int64_t padded = s.rows + number, share = s.share();
    const size_t size = static_cast<size_t>(padded) * s.heads;
    Part part = {draw.Bf16s(size * s.dim), draw.Floats(size, 10), {}};
    if (number % 2 == 0) {  // [rows, H, D], [H, rows]
      part.view = {.out_row = int64_t{s.heads} * s.dim,
                   .out_head = share * s.dim,
                   .lse_row = 1,
                   .lse_head = share * padded,
                   .lse_share = padded};
    } else {  // [G, rows, R, D], [G, rows, R]
      part.view = {.out_row = share * s.dim,
                   .out_head = padded * share * s.dim,
                   .lse_row = share,
                   .lse_head = padded * share,
                   .lse_share = 1};
    }
    for (int32_t row = 0; row < s.rows; ++row) {
      for (int32_t head = 0; head < s.heads; ++head) {
        float& lse = part.lse[part.LseAt(s, row, head)];
        switch ((row + head + number) % 7) {
          case 1:  // no keys, and garbage
            lse = -INFINITY;
            std::fill_n(part.out.begin() + part.OutAt(s, row, head) * s.dim, s.dim,
                        PoisonValue());
            break;
          case 2:
            lse += 200;
            break;
          case 3:
            lse -= 200;
            break;
          default:
            break;
        }
      }
    }
    return part;
  }

  // [rows, H, D]: what the merge must give.
  static std::vector<double> Oracle(const Shape& s, const std::vector<Part>& parts) {
    std::vector<double> values(size_t{1} * s.rows * s.heads * s.dim, 0);
    for (int32_t row = 0; row < s.rows; ++row) {
      for (int32_t head = 0; head < s.heads; ++head) {
        double high = -kInfinity, sum = 0;
        for (const Part& part : parts) {
          high = std::max<double>(high, part.lse[part.LseAt(s, row, head)]);
        }
        if (high == -kInfinity) continue;
        double* const to = &values[(size_t{1} * row * s.heads + head) * s.dim];
        for (const Part& part : parts) {
          const double lse = part.lse[part.LseAt(s, row, head)];
          if (lse == -kInfinity) continue;
          sum += std::exp(lse - high);
          for (int32_t i = 0; i < s.dim; ++i) {
            to[i] += std::exp(lse - high) *
                     float{part.out[part.OutAt(s, row, head) * s.dim + i]};
          }
        }
        for (int32_t i = 0; i < s.dim; ++i) to[i] /= sum;
      }
    }
    return values;
  }

  std::vector<Bf16> Merge(const Shape& s, const std::vector<Part>& parts) {
    std::deque<DeviceBuffer<Bf16>> outs;  // which cannot be moved
    std::deque<DeviceBuffer<float>> sums;
    MergeArgs args = {.count = s.parts,
                      .rows = s.rows,
                      .query_heads = s.heads,
                      .kv_heads = s.kv_heads,
                      .head_dim = s.dim};
    for (size_t i = 0; i < parts.size(); ++i) {
      args.parts[i] = parts[i].view;
      args.parts[i].out = outs.emplace_back(parts[i].out).get();
      args.parts[i].lse = sums.emplace_back(parts[i].lse).get();
    }
    const DeviceBuffer<Bf16> merged(size_t{1} * s.rows * s.heads * s.dim);
    args.out = merged.get();
    Finish(MergeAttention(args, stream_));
    return merged.Download();
  }
};

TEST_F(MergeAttentionTest, AgainstDoublesWithEmptyParts) {
  for (const Shape& s :
       {Shape{1, 1, 1, 64, 2}, Shape{65, 9, 3, 64, 3}, Shape{7, 32, 8, 128, 8},
        Shape{65, 4, 4, 256, 2}, Shape{30, 24, 1, 128, kMaxAttentionParts}}) {
    SCOPED_TRACE(::testing::Message() << s.rows << " " << s.heads << " " << s.parts);
    Draw draw(static_cast<uint32_t>(s.rows + s.heads));
    std::vector<Part> parts;
    for (int32_t i = 0; i < s.parts; ++i) parts.push_back(MakePart(s, i, draw));
    ExpectClose(ToDoubles(Merge(s, parts)), Oracle(s, parts), kBf16Rounding, kCancelled);
  }
}

TEST_F(MergeAttentionTest, OnePartKeepsItsBits) {
  const Shape s = {50, 6, 3, 64, 1};
  Draw draw(3);
  Part part = MakePart(s, 0, draw);
  for (float& lse : part.lse) lse = std::max(lse, -500.0f);  // none is empty
  for (Bf16& x : part.out) {
    if (Bits(x) == kPoisonBits) x = __float2bfloat16(1);
  }
  ExpectSameBits(Merge(s, {part}), part.out);
}

TEST_F(MergeAttentionTest, RefusesMorePartsThanItHasRoomFor) {
  EXPECT_EQ(MergeAttention({.count = kMaxAttentionParts + 1}, stream_),
            cudaErrorInvalidValue);
  EXPECT_EQ(MergeAttention({.count = 0}, stream_), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace quire::kernels::cuda
