#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// The sum of two bfloat16 parts that nearly cancel keeps the float32 error of the parts.
constexpr double kCancelled = 1e-6;
// logf and expf in float32, of values up to a hundred.
constexpr double kLseError = 1e-5;

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

class MergeAttentionTest : public CudaTest {
 protected:
  struct Parts {
    std::vector<Bf16> a, b;           // [T, H, D]
    std::vector<float> a_lse, b_lse;  // [H, T]
  };

  // Row `row` of a head, in [T, H, D] counted by D, and in [H, T].
  struct Place {
    size_t values, lse;
  };
  static Place PlaceOf(int32_t row, int32_t head, int32_t rows, int32_t heads) {
    return {size_t{1} * row * heads + head, size_t{1} * head * rows + row};
  }

  static void Empty(std::vector<Bf16>& x, std::vector<float>& lse, Place place,
                    int32_t dim) {
    lse[place.lse] = -INFINITY;
    std::fill_n(x.begin() + place.values * dim, dim, PoisonValue());
  }

  // Each third row has no keys on one side, and garbage there; each fifth on neither.
  static Parts MakeParts(int32_t rows, int32_t heads, int32_t dim) {
    Draw draw(static_cast<uint32_t>(rows + heads + dim));
    const size_t size = size_t{1} * rows * heads;
    Parts p = {draw.Bf16s(size * dim), draw.Bf16s(size * dim), draw.Floats(size, 10),
               draw.Floats(size, 10)};
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t head = 0; head < heads; ++head) {
        const Place place = PlaceOf(row, head, rows, heads);
        const int kind = (row + head) % 7;
        if (kind == 1 || kind == 3) Empty(p.a, p.a_lse, place, dim);
        if (kind == 2 || kind == 3) Empty(p.b, p.b_lse, place, dim);
        if (kind == 4) p.a_lse[place.lse] = p.b_lse[place.lse] + 200;
        if (kind == 5) p.a_lse[place.lse] = p.b_lse[place.lse] - 200;
      }
    }
    return p;
  }

  // Becomes what the merge must give: values in doubles, and the sums.
  static void Oracle(const Parts& p, int32_t rows, int32_t heads, int32_t dim,
                     std::vector<double>& values, std::vector<double>& sums) {
    values.assign(p.a.size(), 0);
    sums.assign(p.a_lse.size(), -kInfinity);
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t head = 0; head < heads; ++head) {
        const Place place = PlaceOf(row, head, rows, heads);
        const double a = p.a_lse[place.lse], b = p.b_lse[place.lse];
        const double high = std::max(a, b);
        if (high == -kInfinity) continue;
        const double sum = std::exp(a - high) + std::exp(b - high);
        sums[place.lse] = high + std::log(sum);
        for (int32_t i = 0; i < dim; ++i) {
          const size_t at = place.values * dim + i;
          if (a > -kInfinity) values[at] += std::exp(a - high) / sum * float{p.a[at]};
          if (b > -kInfinity) values[at] += std::exp(b - high) / sum * float{p.b[at]};
        }
      }
    }
  }
};

TEST_F(MergeAttentionTest, AgainstDoublesWithEmptySides) {
  for (const int32_t dim : {64, 128, 256}) {
    for (const int32_t heads : {1, 9, 32}) {
      for (const int32_t rows : {1, 7, 65}) {
        SCOPED_TRACE(::testing::Message() << dim << " " << heads << " " << rows);
        const Parts parts = MakeParts(rows, heads, dim);
        std::vector<double> values, sums;
        Oracle(parts, rows, heads, dim, values, sums);
        const DeviceBuffer<Bf16> a(parts.a), b(parts.b);
        const DeviceBuffer<float> a_lse(parts.a_lse), b_lse(parts.b_lse);
        Finish(MergeAttention(a.get(), a_lse.get(), b.get(), b_lse.get(), rows, heads,
                              dim, stream_));
        ExpectClose(ToDoubles(a.Download()), values, kBf16Rounding, kCancelled);
        const std::vector<float> merged = a_lse.Download();
        for (size_t i = 0; i < sums.size(); ++i) {
          if (sums[i] == -kInfinity) {
            ASSERT_EQ(merged[i], -INFINITY) << i;
          } else {
            ASSERT_NEAR(merged[i], sums[i], kLseError * std::max(1.0, std::abs(sums[i])));
          }
        }
        ExpectSameBits(b.Download(), parts.b);
      }
    }
  }
}

}  // namespace
}  // namespace quire::kernels::cuda
