#include <cuda_fp16.h>

#include <memory>
#include <numeric>

#include "core/base/mix_bits.h"
#include "core/kernels/cuda/refined.h"
#include "tests/core/kernels/cuda/decode_batch.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

constexpr int32_t kMaxSequences = 16;
constexpr int kDraws = 32768;
constexpr int32_t kWindow = 128;
constexpr int32_t kLayer = 3;

// Against DecodeOracle where everything is read.
constexpr double kDenseTolerance = 4e-3;
// Against the oracle that draws: a key whose chance is all but its draw may be drawn here
// and not there, for scores are rounded to half precision. Each such key has eps^2 of the
// weight.
constexpr double kDrawnTolerance = 3e-2;

int32_t FarPages(int32_t length) {
  return std::max(1, (length - 1 - kWindow) / kPageTokens) - 1;
}

// Even over (0, 1], as 128 log2 u: what kernels::DrawTable holds, in another order.
std::vector<int16_t> MakeDraws() {
  Draw draw(99);
  std::vector<int16_t> draws;
  for (const int32_t i : draw.Permutation(kDraws)) {
    draws.push_back(
        static_cast<int16_t>(std::lround(128 * std::log2((i + .5) / kDraws))));
  }
  draws.insert(draws.end(), draws.begin(), draws.begin() + kRefinedDrawPadding);
  return draws;
}

double AsHalf(double x) { return __half2float(__float2half(static_cast<float>(x))); }

// A page's index, read back by its description.
class IndexPage {
 public:
  IndexPage(const std::vector<uint8_t>& index, int64_t slot, int32_t dim)
      : page_(index.data() + slot * IndexPageBytes(dim)), dim_(dim) {}

  double Mean(int32_t channel) const {
    Bf16 mean;
    std::memcpy(&mean, page_ + kPageTokens * dim_ / 2 + kPageTokens * 4 + 2 * channel, 2);
    return __bfloat162float(mean);
  }
  double Scale(int32_t key) const {
    float scale;
    std::memcpy(
        &scale,
        page_ + kPageTokens * dim_ / 2 + 4 * (key % 8 * 8 + key / 16 * 2 + key / 8 % 2),
        4);
    return scale;
  }
  int Code(int32_t key, int32_t channel) const {
    const int32_t low = channel % (dim_ / 2);
    const int32_t c = low / 4, t = c / 4, l = c % 4;
    const int32_t v = key / 16, h = key / 8 % 2, r = key % 8;
    const int32_t word = ((v * (dim_ / 64) + t / 2) * 32 + 4 * r + l) * 4 + t % 2 * 2 + h;
    const uint8_t byte = page_[4 * word + low % 4];
    return channel < dim_ / 2 ? byte & 15 : byte >> 4;
  }

 private:
  const uint8_t* page_;
  int32_t dim_;
};

// A batch on the device with its index, and one launch of refined attention.
class OnDevice {
 public:
  explicit OnDevice(const DecodeBatch& b, float eps)
      : b_(b),
        q_(b.q),
        k_(b.k),
        v_(b.v),
        out_(b.OutSize()),
        rows_(b.rows),
        draws_(MakeDraws()),
        index_(size_t{1} * b.num_blocks * b.kv_heads * IndexPageBytes(b.dim)) {
    near_first_ = {0};
    far_first_ = {0};
    for (size_t s = 0; s < b.lengths.size(); ++s) {
      const int32_t far = FarPages(b.lengths[s]);
      const int32_t used = (b.lengths[s] + kPageTokens - 1) / kPageTokens;
      const int32_t* const pages = b.pages.data() + b.first_page[s];
      near_pages_.push_back(pages[0]);
      for (int32_t p = 1; p <= far; ++p) far_pages_.push_back(pages[p]);
      for (int32_t p = far + 1; p < used; ++p) near_pages_.push_back(pages[p]);
      near_first_.push_back(static_cast<int32_t>(near_pages_.size()));
      far_first_.push_back(static_cast<int32_t>(far_pages_.size()));
      near_lengths_.push_back(b.lengths[s] - far * kPageTokens);
      log2_tau_.push_back(2 * std::log2(eps));
    }
    Upload(near_first_, d_near_first_);
    Upload(near_pages_, d_near_pages_);
    Upload(near_lengths_, d_near_lengths_);
    Upload(far_first_, d_far_first_);
    Upload(far_pages_, d_far_pages_);
    Upload(log2_tau_, d_tau_);
    counts_ = std::make_unique<DeviceBuffer<RefinedDecodeArgs::Counts>>(b.lengths.size());
  }

  cudaError_t BuildIndex(cudaStream_t stream) {
    index_.Poison();
    return IndexPages(k_.get(), d_far_pages_->get(),
                      static_cast<int64_t>(far_pages_.size()), b_.kv_heads, b_.dim,
                      index_.get(), stream);
  }

  void MakeWorkspace(int32_t blocks) {
    blocks_ = blocks;
    const auto share = b_.query_heads / b_.kv_heads;
    near_work_ = std::make_shared<DeviceBuffer<uint8_t>>(
        DecodeWorkspaceBytes(kMaxSequences, b_.query_heads, b_.kv_heads, b_.dim, blocks));
    near_work_->Zero();
    work_ = std::make_shared<DeviceBuffer<uint8_t>>(
        RefinedWorkspaceBytes(kMaxSequences, share * b_.kv_heads, b_.kv_heads, b_.dim,
                              blocks, static_cast<int64_t>(far_pages_.size())));
    work_->Zero();
  }

  // Of a batch that has no fewer far pages.
  void UseWorkspaceOf(const OnDevice& other) {
    ASSERT_LE(far_pages_.size(), other.far_pages_.size());
    blocks_ = other.blocks_;
    near_work_ = other.near_work_;
    work_ = other.work_;
  }

  cudaError_t Launch(cudaStream_t stream, int32_t layer = kLayer) {
    out_.Poison();
    counts_->Zero();
    RefinedDecodeArgs a;
    a.near.q = q_.get();
    a.near.k = k_.get();
    a.near.v = v_.get();
    a.near.out = out_.get();
    a.near.rows = rows_.get();
    a.near.lengths = d_near_lengths_->get();
    a.near.first_page = d_near_first_->get();
    a.near.pages = d_near_pages_->get();
    a.near.workspace = near_work_->get();
    a.near.sequences = static_cast<int32_t>(b_.lengths.size());
    a.near.max_sequences = kMaxSequences;
    a.near.blocks = blocks_;
    a.near.query_heads = b_.query_heads;
    a.near.kv_heads = b_.kv_heads;
    a.near.head_dim = b_.dim;
    a.near.scale = b_.scale;
    a.index = index_.get();
    a.first_far_page = d_far_first_->get();
    a.far_pages = d_far_pages_->get();
    a.draws = draws_.get();
    a.log2_tau = d_tau_->get();
    a.far_page_count = static_cast<int64_t>(far_pages_.size());
    a.layer = layer;
    a.workspace = work_->get();
    a.counts = counts_->get();
    return RefinedDecode(a, stream);
  }

  std::vector<Bf16> Out() const { return out_.Download(); }
  std::vector<uint8_t> Index() const { return index_.Download(); }
  std::vector<RefinedDecodeArgs::Counts> Counts() const { return counts_->Download(); }
  std::vector<int16_t> Draws() const { return draws_.Download(); }
  uint32_t Start(size_t sequence, int32_t head) const {
    return MixPlace(kLayer, head, b_.lengths[sequence] - 1);
  }

 private:
  template <typename T>
  static void Upload(const std::vector<T>& from, std::unique_ptr<DeviceBuffer<T>>& to) {
    to = std::make_unique<DeviceBuffer<T>>(from);
  }

  const DecodeBatch& b_;
  DeviceBuffer<Bf16> q_, k_, v_, out_;
  DeviceBuffer<int32_t> rows_;
  DeviceBuffer<int16_t> draws_;
  DeviceBuffer<uint8_t> index_;
  std::vector<int32_t> near_first_, near_pages_, near_lengths_, far_first_, far_pages_;
  std::vector<float> log2_tau_;
  std::unique_ptr<DeviceBuffer<int32_t>> d_near_first_, d_near_pages_, d_near_lengths_,
      d_far_first_, d_far_pages_;
  std::unique_ptr<DeviceBuffer<float>> d_tau_;
  std::unique_ptr<DeviceBuffer<RefinedDecodeArgs::Counts>> counts_;
  std::shared_ptr<DeviceBuffer<uint8_t>> near_work_, work_;
  int32_t blocks_ = 0;
};

// One key/value head of one sequence, in doubles: the rule of core/kernels/refined.h over
// the index that the device made.
struct HeadOracle {
  const DecodeBatch& b;
  const OnDevice& device;
  const std::vector<uint8_t>& index;
  const std::vector<int16_t>& draws;
  float eps;
  int32_t sequence, head;

  std::vector<double> out;  // [R, D]
  int64_t columns = 0;
  double coverage = 0;

  int32_t share() const { return b.query_heads / b.kv_heads; }
  double Query(int32_t r, int32_t i) const {
    return __bfloat162float(
        b.q[(size_t{1} * b.rows[sequence] * b.query_heads + head * share() + r) * b.dim +
            i]);
  }
  double Exact(int32_t r, int32_t token) const {
    const Bf16* const k = b.k.data() + b.CacheOffset(sequence, head, token);
    double sum = 0;
    for (int32_t i = 0; i < b.dim; ++i) sum += Query(r, i) * __bfloat162float(k[i]);
    return sum * b.scale;
  }
  double ByIndex(int32_t r, int32_t token) const {
    const int32_t page = b.pages[b.first_page[sequence] + token / kPageTokens];
    const IndexPage p(index, int64_t{1} * page * b.kv_heads + head, b.dim);
    const int32_t key = token % kPageTokens;
    // The query is quantised to bytes against the codes, and whole against the mean.
    double largest = 0;
    for (int32_t i = 0; i < b.dim; ++i)
      largest = std::max(largest, std::abs(Query(r, i)));
    const double step = largest / 127;
    double dot = 0, mean = 0;
    for (int32_t i = 0; i < b.dim; ++i) {
      dot += std::nearbyint(Query(r, i) / step) * (p.Code(key, i) - 8);
      mean += Query(r, i) * p.Mean(i);
    }
    return (dot * step * p.Scale(key) + mean) * b.scale;
  }

  void Run() {
    const int32_t length = b.lengths[sequence], far = FarPages(length);
    const auto is_far = [&](int32_t token) {
      return token >= kPageTokens && token < (far + 1) * kPageTokens;
    };
    std::vector<double> bias(length, 0.0), largest(length, -kInfinity);
    for (int32_t r = 0; r < share(); ++r) {
      std::vector<double> scores(length);
      for (int32_t t = 0; t < length; ++t)
        scores[t] = is_far(t) ? ByIndex(r, t) : Exact(r, t);
      const double high = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (const double s : scores) sum += std::exp(s - high);
      for (int32_t t = 0; t < length; ++t) {
        const double share = AsHalf(scores[t] / std::log(2)) -
                             AsHalf((high + std::log(sum)) / std::log(2));
        largest[t] = std::max(largest[t], AsHalf(share));
      }
    }
    for (int32_t t = 0; t < length; ++t) {
      if (!is_far(t)) continue;
      const double chance = 128 * (largest[t] - 2 * std::log2(eps));
      const double draw = draws[(device.Start(sequence, head) + t) % kDraws];
      if (chance < 0 && chance <= draw) {
        bias[t] = -kInfinity;
      } else {
        if (chance < 0) bias[t] = (.5 - std::ceil(chance)) / 128 * std::log(2);
        columns += share();
      }
    }
    for (int32_t r = 0; r < share(); ++r) Attend(r, bias);
  }

  void Attend(int32_t r, const std::vector<double>& bias) {
    std::vector<double> value(b.dim);
    double sum = 0, certain = 0;
    std::vector<double> scores(bias.size());
    for (size_t t = 0; t < bias.size(); ++t) {
      scores[t] = bias[t] == -kInfinity ? -kInfinity
                                        : Exact(r, static_cast<int32_t>(t)) + bias[t];
    }
    const double high = *std::max_element(scores.begin(), scores.end());
    for (size_t t = 0; t < bias.size(); ++t) {
      if (bias[t] == -kInfinity) continue;
      const double weight = std::exp(scores[t] - high);
      sum += weight;
      if (bias[t] == 0) certain += weight;
      const Bf16* const v =
          b.v.data() + b.CacheOffset(sequence, head, static_cast<int32_t>(t));
      for (int32_t i = 0; i < b.dim; ++i) value[i] += weight * __bfloat162float(v[i]);
    }
    for (const double x : value) out.push_back(x / sum);
    coverage += certain / sum;
  }
};

class RefinedDecodeTest : public CudaTest {
 protected:
  static std::vector<double> RowOf(const DecodeBatch& b, const std::vector<Bf16>& out,
                                   size_t s) {
    const size_t size = size_t{1} * b.query_heads * b.dim;
    const auto row = out.begin() + b.rows[s] * size;
    return ToDoubles(std::vector<Bf16>(row, row + size));
  }
};

TEST_F(RefinedDecodeTest, AnIndexedKeyIsWithinHalfACode) {
  for (const int32_t dim : {64, 128}) {
    const DecodeBatch b =
        MakeDecodeBatch({.dim = dim, .share = 4, .kv_heads = 3}, {700, 321}, 3);
    OnDevice device(b, .1f);
    Finish(device.BuildIndex(stream_));
    const std::vector<uint8_t> index = device.Index();
    for (int32_t s = 0; s < 2; ++s) {
      for (int32_t token = 64; token < 64 * (FarPages(b.lengths[s]) + 1); ++token) {
        for (int32_t g = 0; g < b.kv_heads; ++g) {
          const int32_t block = b.pages[b.first_page[s] + token / 64];
          const IndexPage page(index, int64_t{1} * block * b.kv_heads + g, dim);
          const Bf16* const key = b.k.data() + b.CacheOffset(s, g, token);
          const double scale = page.Scale(token % 64);
          double high = 0;
          for (int32_t i = 0; i < dim; ++i) {
            const int code = page.Code(token % 64, i);
            ASSERT_TRUE(code >= 1 && code <= 15) << code;
            const double error =
                std::abs(page.Mean(i) + scale * (code - 8) - __bfloat162float(key[i]));
            ASSERT_LE(error, .501 * scale) << "token " << token << ", channel " << i;
            high = std::max(high, std::abs(__bfloat162float(key[i]) - page.Mean(i)));
          }
          ASSERT_NEAR(high, 7.49 * scale, 1e-5 * high);
        }
      }
      const IndexPage page(index, int64_t{1} * b.pages[b.first_page[s] + 1] * b.kv_heads,
                           dim);
      for (int32_t i = 0; i < dim; ++i) {
        double mean = 0;
        for (int32_t t = 64; t < 128; ++t) {
          mean += __bfloat162float(b.k[b.CacheOffset(s, 0, t) + i]) / 64;
        }
        ASSERT_NEAR(page.Mean(i), mean, std::abs(mean) * kBf16Rounding + 1e-6);
      }
    }
  }
}

class RefinedDecodeShapesTest : public RefinedDecodeTest,
                                public ::testing::WithParamInterface<DecodeShape> {};

// With eps this small every key is read for certain. Sequences of one length are divided
// otherwise than ragged ones.
TEST_P(RefinedDecodeShapesTest, ReadingEverythingIsDense) {
  const std::vector<std::vector<int32_t>> batches = {{5000, 257, 320, 1000, 400},
                                                     {2180, 2180}};
  for (const std::vector<int32_t>& lengths : batches) {
    const DecodeBatch b = MakeDecodeBatch(GetParam(), lengths, 11);
    const auto oracle = DecodeOracle(b);
    OnDevice device(b, 1e-6f);
    Finish(device.BuildIndex(stream_));
    for (const int32_t blocks : {1, 7, 132}) {
      SCOPED_TRACE(::testing::Message() << lengths.size() << " sequences, " << blocks);
      device.MakeWorkspace(blocks);
      Finish(device.Launch(stream_));
      const std::vector<Bf16> out = device.Out();
      const auto counts = device.Counts();
      for (size_t s = 0; s < b.lengths.size(); ++s) {
        EXPECT_LE(RelativeL2(RowOf(b, out, s), oracle[s]), kDenseTolerance) << s;
        EXPECT_EQ(counts[s].columns, 1ull * FarPages(b.lengths[s]) * 64 * b.query_heads);
        EXPECT_NEAR(static_cast<double>(counts[s].coverage) / 4294967296.0, b.query_heads,
                    1e-4);
      }
    }
  }
}

TEST_P(RefinedDecodeShapesTest, DrawsAsTheRuleSays) {
  constexpr float kEps = .08f;
  const DecodeBatch b = MakeDecodeBatch(GetParam(), {3000, 256 + 64, 900}, 12);
  OnDevice device(b, kEps);
  Finish(device.BuildIndex(stream_));
  const std::vector<uint8_t> index = device.Index();
  const std::vector<int16_t> draws = device.Draws();
  std::vector<Bf16> first;
  for (const int32_t blocks : {132, 5}) {
    device.MakeWorkspace(blocks);
    Finish(device.Launch(stream_));
    const std::vector<Bf16> out = device.Out();
    const auto counts = device.Counts();
    for (int32_t s = 0; s < 3; ++s) {
      SCOPED_TRACE(::testing::Message() << "blocks " << blocks << ", sequence " << s);
      std::vector<double> want;
      int64_t columns = 0;
      double coverage = 0;
      for (int32_t g = 0; g < b.kv_heads; ++g) {
        HeadOracle oracle{b, device, index, draws, kEps, s, g, {}};
        oracle.Run();
        want.insert(want.end(), oracle.out.begin(), oracle.out.end());
        columns += oracle.columns;
        coverage += oracle.coverage;
      }
      EXPECT_LE(RelativeL2(RowOf(b, out, s), want), kDrawnTolerance);
      EXPECT_NEAR(static_cast<double>(counts[s].columns), static_cast<double>(columns),
                  .02 * static_cast<double>(columns) + 2 * b.query_heads);
      EXPECT_NEAR(static_cast<double>(counts[s].coverage) / 4294967296.0, coverage,
                  .01 * coverage);
      EXPECT_LT(columns, int64_t{1} * FarPages(b.lengths[s]) * 64 * b.query_heads);
    }
    // The same launch, the same bits; its workspace was left as it was found.
    Finish(device.Launch(stream_));
    ExpectSameBits(device.Out(), out);
  }
}

std::vector<DecodeShape> Shapes() {
  std::vector<DecodeShape> shapes;
  for (const int32_t dim : {64, 128}) {
    for (const int32_t share : {1, 3, 4, 7, 8}) {
      shapes.push_back({.dim = dim, .share = share, .kv_heads = 3, .q_deviation = 1.5f});
    }
  }
  return shapes;
}
INSTANTIATE_TEST_SUITE_P(Shapes, RefinedDecodeShapesTest, ::testing::ValuesIn(Shapes()),
                         ::testing::PrintToStringParamName());

// Few rows are merged by blocks that do nothing else, many by who brings the last part;
// and a head's parts may be more than a warp has lanes.
TEST_F(RefinedDecodeTest, FewAndManyRowsInTurnLeaveTheWorkspaceReady) {
  for (const int32_t dim : {64, 128}) {
    SCOPED_TRACE(dim);
    const DecodeShape shape = {
        .dim = dim, .share = 4, .kv_heads = 3, .q_deviation = 1.5f};
    const DecodeBatch few_rows = MakeDecodeBatch(shape, {2900}, 21);
    const DecodeBatch many_rows =
        MakeDecodeBatch(shape, {1500, 700, 3000, 900, 1500, 2200}, 22);
    OnDevice few(few_rows, .08f), many(many_rows, .08f);
    Finish(few.BuildIndex(stream_));
    Finish(many.BuildIndex(stream_));
    few.MakeWorkspace(132);
    Finish(few.Launch(stream_));
    const std::vector<Bf16> few_out = few.Out();
    many.MakeWorkspace(132);
    few.UseWorkspaceOf(many);
    Finish(many.Launch(stream_));
    const std::vector<Bf16> many_out = many.Out();
    for (int turn = 0; turn < 20; ++turn) {
      SCOPED_TRACE(turn);
      OnDevice& device = turn % 3 == 1 ? many : few;
      Finish(device.Launch(stream_));
      ExpectSameBits(device.Out(), turn % 3 == 1 ? many_out : few_out);
    }
  }
}

// Averaged over many draws, what is drawn has no bias.
TEST_F(RefinedDecodeTest, TheMeanOverManyRowsIsDense) {
  const DecodeShape shape = {.dim = 64, .share = 3, .kv_heads = 3, .q_deviation = 1.5f};
  const DecodeBatch b = MakeDecodeBatch(shape, {4000}, 13);
  const auto dense = DecodeOracle(b)[0];
  OnDevice device(b, .2f);
  Finish(device.BuildIndex(stream_));
  device.MakeWorkspace(132);
  std::vector<double> mean(dense.size());
  double single = 0;
  // In each layer draws begin elsewhere.
  for (int32_t layer = 0; layer < 16; ++layer) {
    Finish(device.Launch(stream_, layer));
    const std::vector<double> row = RowOf(b, device.Out(), 0);
    single += RelativeL2(row, dense) / 16;
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += row[i] / 16;
  }
  // Sixteen independent errors average to a quarter.
  EXPECT_GT(single, .05);
  EXPECT_LT(RelativeL2(mean, dense), .4 * single);
}

}  // namespace
}  // namespace quire::kernels::cuda
