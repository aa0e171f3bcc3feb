#include <cstring>
#include <memory>

#include "tests/core/kernels/cuda/decode_batch.h"

namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

// ||out - oracle|| / ||oracle|| of a sequence: the weights are rounded to bfloat16 before
// they multiply the values, and so is the result, each by at most 2^-9.
constexpr double kTolerance = 4e-3;
constexpr int32_t kMaxSequences = 40;

TEST(HasDecodeKernelTest, HeadSizesAndShares) {
  for (const int32_t dim : {64, 128}) {
    EXPECT_TRUE(HasDecodeKernel(dim, 1));
    EXPECT_TRUE(HasDecodeKernel(dim, kMaxDecodeShare));
    EXPECT_FALSE(HasDecodeKernel(dim, kMaxDecodeShare + 1));
  }
  EXPECT_FALSE(HasDecodeKernel(192, 4));
  EXPECT_FALSE(HasDecodeKernel(256, 4));
}

// A batch on the device, and launches over it.
class OnDevice {
 public:
  explicit OnDevice(const DecodeBatch& batch)
      : batch_(batch),
        q_(batch.q),
        k_(batch.k),
        v_(batch.v),
        out_(batch.OutSize()),
        rows_(batch.rows),
        lengths_(batch.lengths),
        first_page_(batch.first_page),
        pages_(batch.pages) {}

  DecodeArgs Args(void* workspace, int32_t blocks) const {
    DecodeArgs args;
    args.q = q_.get();
    args.k = k_.get();
    args.v = v_.get();
    args.out = out_.get();
    args.rows = rows_.get();
    args.lengths = lengths_.get();
    args.first_page = first_page_.get();
    args.pages = pages_.get();
    args.workspace = workspace;
    args.sequences = static_cast<int32_t>(batch_.lengths.size());
    args.max_sequences = kMaxSequences;
    args.blocks = blocks;
    args.query_heads = batch_.query_heads;
    args.kv_heads = batch_.kv_heads;
    args.head_dim = batch_.dim;
    args.scale = batch_.scale;
    return args;
  }
  DeviceBuffer<Bf16>& out() { return out_; }

 private:
  const DecodeBatch& batch_;
  DeviceBuffer<Bf16> q_, k_, v_, out_;
  DeviceBuffer<int32_t> rows_, lengths_, first_page_, pages_;
};

// Lengths at the borders of slices and pages, and some that are cut among blocks.
std::vector<int32_t> Lengths(int32_t sequences, Draw& draw) {
  constexpr int32_t kLengths[] = {1, 15, 16, 17, 63, 64, 65, 1000, 5000};
  std::vector<int32_t> lengths;
  for (const int32_t i : draw.Permutation(std::max(sequences, 9))) {
    lengths.push_back(kLengths[i % 9]);
  }
  lengths.resize(sequences);
  return lengths;
}

class DenseDecodeTest : public CudaTest {
 protected:
  using Workspace = std::unique_ptr<DeviceBuffer<uint8_t>>;

  static Workspace MakeWorkspace(const DecodeBatch& b, int32_t blocks) {
    auto workspace = std::make_unique<DeviceBuffer<uint8_t>>(
        DecodeWorkspaceBytes(kMaxSequences, b.query_heads, b.kv_heads, b.dim, blocks));
    workspace->Zero();
    return workspace;
  }

  std::vector<Bf16> Launch(OnDevice& device, void* workspace, int32_t blocks) {
    device.out().Poison();
    Finish(DenseDecode(device.Args(workspace, blocks), stream_));
    return device.out().Download();
  }

  // Each sequence's row against the oracle; all other rows as they were.
  static void ExpectOut(const DecodeBatch& b, const std::vector<Bf16>& out,
                        const std::vector<std::vector<double>>& oracle) {
    const size_t size = size_t{1} * b.query_heads * b.dim;
    std::vector<bool> written(b.step_rows, false);
    for (size_t s = 0; s < b.rows.size(); ++s) {
      written[b.rows[s]] = true;
      const auto row = out.begin() + b.rows[s] * size;
      EXPECT_LE(RelativeL2(ToDoubles(std::vector<Bf16>(row, row + size)), oracle[s]),
                kTolerance)
          << "sequence " << s << " of " << b.rows.size() << ", length " << b.lengths[s];
    }
    for (size_t i = 0; i < out.size(); ++i) {
      if (!written[i / size]) {
        ASSERT_EQ(Bits(out[i]), kPoisonBits) << "row " << i / size;
      }
    }
  }

  void Check(const DecodeBatch& batch, int32_t blocks) {
    OnDevice device(batch);
    const Workspace workspace = MakeWorkspace(batch, blocks);
    ExpectOut(batch, Launch(device, workspace->get(), blocks), DecodeOracle(batch));
  }
};

class DenseDecodeShapesTest : public DenseDecodeTest,
                              public ::testing::WithParamInterface<DecodeShape> {};

// A workspace serves batches of every size one after the other, each twice: what one
// launch leaves behind must not change the next, nor any race the bits.
TEST_P(DenseDecodeShapesTest, RaggedBatchesShareAWorkspace) {
  std::vector<DecodeBatch> batches;
  std::vector<std::vector<std::vector<double>>> oracles;
  Draw draw(17);
  for (const int32_t sequences : {33, 1, 8, 3}) {
    batches.push_back(MakeDecodeBatch(GetParam(), Lengths(sequences, draw), sequences));
    oracles.push_back(DecodeOracle(batches.back()));
  }
  for (const int32_t blocks : {1, 7, 132}) {
    const Workspace workspace = MakeWorkspace(batches[0], blocks);
    for (size_t i = 0; i < batches.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << blocks << " blocks, batch " << i);
      OnDevice device(batches[i]);
      const std::vector<Bf16> out = Launch(device, workspace->get(), blocks);
      ExpectOut(batches[i], out, oracles[i]);
      ExpectSameBits(Launch(device, workspace->get(), blocks), out);
      if (HasFatalFailure()) return;
    }
  }
}

std::vector<DecodeShape> Shapes() {
  std::vector<DecodeShape> shapes;
  for (const int32_t dim : {64, 128}) {
    for (const int32_t share : {1, 3, 4, 8, 9, 16, 24}) {
      shapes.push_back({.dim = dim, .share = share, .kv_heads = share <= 4 ? 3 : 1});
    }
  }
  return shapes;
}
INSTANTIATE_TEST_SUITE_P(Shapes, DenseDecodeShapesTest, ::testing::ValuesIn(Shapes()),
                         ::testing::PrintToStringParamName());

// Every length around a slice and a page, alone in its batch.
TEST_F(DenseDecodeTest, OneSequenceOfEveryShortLength) {
  const DecodeShape shape = {.dim = 64, .share = 3, .kv_heads = 3};
  for (int32_t length = 1; length <= 130; ++length) {
    SCOPED_TRACE(length);
    Check(MakeDecodeBatch(shape, {length}, length), 132);
  }
}

// Sharp scores: the largest key decides, and every new largest rescales what was summed.
TEST_F(DenseDecodeTest, SharpScores) {
  for (const int32_t dim : {64, 128}) {
    for (const float deviation : {8.0f, 60.0f}) {
      SCOPED_TRACE(::testing::Message() << "D " << dim << ", deviation " << deviation);
      const DecodeShape shape = {.dim = dim, .share = 4, .q_deviation = deviation};
      Check(MakeDecodeBatch(shape, {5000, 17, 1000}, 5), 132);
    }
  }
}

// Pages that are reserved for later tokens hold anything.
TEST_F(DenseDecodeTest, PagesPastTheLengthAreNotRead) {
  for (const int32_t blocks : {1, 7, 132}) {
    SCOPED_TRACE(blocks);
    const DecodeShape shape = {.dim = 128, .share = 4, .spare_pages = 3};
    Check(MakeDecodeBatch(shape, {64, 1, 1000, 65}, 6), blocks);
  }
}

// More blocks than pages, and a launch that is full to the last sequence.
TEST_F(DenseDecodeTest, AsManySequencesAsTheWorkspaceHolds) {
  const DecodeShape shape = {.dim = 64, .share = 3, .kv_heads = 3};
  Draw draw(8);
  Check(MakeDecodeBatch(shape, Lengths(kMaxSequences, draw), 8), 132);
  Check(MakeDecodeBatch(shape, std::vector<int32_t>(kMaxSequences, 1), 9), 132);
}

// Launches follow one another on a stream without a wait between, as layers do.
TEST_F(DenseDecodeTest, LaunchesInARowLeaveTheWorkspaceReady) {
  const DecodeShape shape = {.dim = 128, .share = 4};
  const DecodeBatch first = MakeDecodeBatch(shape, {5000, 65, 1000}, 1);
  const DecodeBatch second = MakeDecodeBatch(shape, {17, 5000}, 2);
  OnDevice one(first), two(second);
  const Workspace workspace = MakeWorkspace(first, 132);
  for (int i = 0; i < 20; ++i) {
    QUIRE_CUDA_OK(DenseDecode(one.Args(workspace->get(), 132), stream_));
    QUIRE_CUDA_OK(DenseDecode(two.Args(workspace->get(), 132), stream_));
  }
  Finish(cudaSuccess);
  ExpectOut(first, one.out().Download(), DecodeOracle(first));
  ExpectOut(second, two.out().Download(), DecodeOracle(second));
}

}  // namespace
}  // namespace quire::kernels::cuda
