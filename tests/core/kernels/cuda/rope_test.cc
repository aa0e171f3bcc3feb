#include <ostream>
#include <set>

#include "tests/core/kernels/cuda/cuda_fixture.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// A float32 sine of a float32 angle: half a unit in the last place, times the factor.
constexpr double kAngleError = 2e-7;
// Channels that nearly cancel keep the float32 error of what was subtracted.
constexpr double kCancelled = 1e-5;

using RopeTableTest = CudaTest;

TEST_F(RopeTableTest, UpTo131071) {
  for (const int32_t half : {32, 64, 128}) {
    for (const float factor : {1.0f, 1.25f}) {
      SCOPED_TRACE(::testing::Message() << "half " << half << ", factor " << factor);
      Draw draw(static_cast<uint32_t>(half));
      std::vector<int32_t> positions = {0, 1, 131071};
      for (int i = 0; i < 70; ++i) positions.push_back(draw.Below(131072));
      std::vector<float> frequencies;
      for (int32_t i = 0; i < half; ++i) {
        frequencies.push_back(std::pow(500000.0f, -static_cast<float>(i) / half));
      }
      std::vector<double> cosines, sines;
      for (const int32_t position : positions) {
        for (const float frequency : frequencies) {
          // The models were trained with angles of float32.
          const float angle = static_cast<float>(position) * frequency;
          cosines.push_back(std::cos(double{angle}) * factor);
          sines.push_back(std::sin(double{angle}) * factor);
        }
      }
      const DeviceBuffer<int32_t> positions_on_device(positions);
      const DeviceBuffer<float> frequencies_on_device(frequencies);
      const DeviceBuffer<float> cos(cosines.size()), sin(sines.size());
      Finish(RopeTable(positions_on_device.get(), frequencies_on_device.get(), factor,
                       static_cast<int64_t>(positions.size()), half, cos.get(), sin.get(),
                       stream_));
      ExpectClose(ToDoubles(cos.Download()), cosines, 0, kAngleError);
      ExpectClose(ToDoubles(sin.Download()), sines, 0, kAngleError);
    }
  }
}

struct Shape {
  int32_t dim;
  int32_t kv_heads;
  int32_t share;
  int32_t rows;
  bool norms;
};
// The name of a test case of it.
void PrintTo(const Shape& s, std::ostream* out) {
  *out << "D" << s.dim << "G" << s.kv_heads << "R" << s.share << "T" << s.rows
       << (s.norms ? "Norms" : "");
}

class RopeAndStoreTest : public CudaTest, public ::testing::WithParamInterface<Shape> {
 protected:
  static constexpr int32_t kBlocks = 9;
  static constexpr float kEps = 1e-6f;

  void SetUp() override {
    shape_ = GetParam();
    heads_ = shape_.kv_heads * shape_.share;
    total_ = heads_ + 2 * shape_.kv_heads;
    Draw draw(static_cast<uint32_t>(shape_.dim + 7 * shape_.share + shape_.rows));
    const size_t half = shape_.dim / 2;
    qkv_ = draw.Bf16s(size_t{1} * shape_.rows * total_ * shape_.dim, 2);
    for (size_t i = 0; i < shape_.rows * half; ++i) {
      const double angle = draw.Normal(100);
      cos_.push_back(static_cast<float>(std::cos(angle)));
      sin_.push_back(static_cast<float>(std::sin(angle)));
    }
    q_norm_ = draw.Floats(shape_.dim);
    k_norm_ = draw.Floats(shape_.dim);
    slots_ = draw.Permutation(kBlocks * kPageTokens);
    slots_.resize(shape_.rows);
    if (shape_.rows > 5) slots_[5] = -1;  // is kept nowhere
    CudaTest::SetUp();
  }

  // Head `head` of a row after its norm and rotation.
  std::vector<double> Rotated(int32_t row, int32_t head) const {
    const int32_t dim = shape_.dim, half = dim / 2;
    const std::vector<float>& norm = head < heads_ ? q_norm_ : k_norm_;
    std::vector<double> x(dim), y(dim);
    double squares = 0;
    for (int32_t i = 0; i < dim; ++i) {
      x[i] = __bfloat162float(qkv_[(size_t{1} * row * total_ + head) * dim + i]);
      squares += x[i] * x[i];
    }
    const double rms = std::sqrt(squares / dim + kEps);
    for (int32_t i = 0; i < dim && shape_.norms; ++i) x[i] *= norm[i] / rms;
    for (int32_t i = 0; i < half; ++i) {
      const double c = cos_[size_t{1} * row * half + i],
                   s = sin_[size_t{1} * row * half + i];
      y[i] = x[i] * c - x[half + i] * s;
      y[half + i] = x[half + i] * c + x[i] * s;
    }
    return y;
  }

  // Where a row's key or value of a head starts in the cache.
  size_t CacheOffset(int32_t row, int32_t kv_head) const {
    const int32_t block = slots_[row] / kPageTokens, place = slots_[row] % kPageTokens;
    return ((size_t{1} * block * shape_.kv_heads + kv_head) * kPageTokens + place) *
           shape_.dim;
  }

  void ExpectQueries(const std::vector<Bf16>& q) const {
    std::vector<double> expected;
    for (int32_t row = 0; row < shape_.rows; ++row) {
      for (int32_t head = 0; head < heads_; ++head) {
        const std::vector<double> y = Rotated(row, head);
        expected.insert(expected.end(), y.begin(), y.end());
      }
    }
    ExpectClose(ToDoubles(q), expected, kBf16Rounding, kCancelled);
  }

  // Keys and values of rows that have slots are in them, and every other place is as it
  // was.
  void ExpectCache(const std::vector<Bf16>& k, const std::vector<Bf16>& v) const {
    std::vector<double> keys, expected_keys;
    std::vector<Bf16> expected_v(v.size(), PoisonValue());
    std::set<size_t> written;
    const int32_t dim = shape_.dim;
    for (int32_t row = 0; row < shape_.rows; ++row) {
      if (slots_[row] < 0) continue;
      for (int32_t head = 0; head < shape_.kv_heads; ++head) {
        const size_t to = CacheOffset(row, head);
        written.insert(to);
        const std::vector<double> y = Rotated(row, heads_ + head);
        expected_keys.insert(expected_keys.end(), y.begin(), y.end());
        for (int32_t i = 0; i < dim; ++i) {
          keys.push_back(__bfloat162float(k[to + i]));
          expected_v[to + i] =
              qkv_[(size_t{1} * row * total_ + heads_ + shape_.kv_heads + head) * dim +
                   i];
        }
      }
    }
    ExpectClose(keys, expected_keys, kBf16Rounding, kCancelled);
    ExpectSameBits(v, expected_v);
    for (size_t i = 0; i < k.size(); ++i) {
      if (written.count(i / dim * dim) == 0) {
        ASSERT_EQ(Bits(k[i]), kPoisonBits) << i;
      }
    }
  }

  Shape shape_;
  int32_t heads_ = 0, total_ = 0;
  std::vector<Bf16> qkv_;
  std::vector<float> cos_, sin_, q_norm_, k_norm_;
  std::vector<int32_t> slots_;
};

TEST_P(RopeAndStoreTest, AgainstDoubles) {
  const size_t cache = size_t{1} * kBlocks * shape_.kv_heads * kPageTokens * shape_.dim;
  const DeviceBuffer<Bf16> qkv(qkv_), k(cache), v(cache);
  const DeviceBuffer<Bf16> q(size_t{1} * shape_.rows * heads_ * shape_.dim);
  const DeviceBuffer<float> cos(cos_), sin(sin_), q_norm(q_norm_), k_norm(k_norm_);
  const DeviceBuffer<int32_t> slots(slots_);
  RopeArgs args;
  args.qkv = qkv.get();
  args.cos = cos.get();
  args.sin = sin.get();
  args.q_norm = shape_.norms ? q_norm.get() : nullptr;
  args.k_norm = shape_.norms ? k_norm.get() : nullptr;
  args.slots = slots.get();
  args.q = q.get();
  args.k = k.get();
  args.v = v.get();
  args.norm_eps = kEps;
  args.rows = shape_.rows;
  args.query_heads = heads_;
  args.kv_heads = shape_.kv_heads;
  args.head_dim = shape_.dim;
  Finish(RopeAndStore(args, stream_));
  ExpectQueries(q.Download());
  ExpectCache(k.Download(), v.Download());
}

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  for (const int32_t dim : {64, 128, 192, 256}) {
    for (const int32_t share : {1, 3, 4, 8}) {
      for (const bool norms : {false, true}) {
        shapes.push_back({dim, share == 1 ? 5 : 3, share, 70, norms});
        shapes.push_back({dim, 1, share, 1, norms});
      }
    }
  }
  return shapes;
}
INSTANTIATE_TEST_SUITE_P(Shapes, RopeAndStoreTest, ::testing::ValuesIn(Shapes()),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace quire::kernels::cuda
