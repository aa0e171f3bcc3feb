#include "core/kv/memory_plan.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/kv/available_memory.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

// 2 (keys, values) * 2 layers * 3 heads * 8 channels * 2 bytes = 192 bytes a token,
// 12,288 bytes a block of 64; a window of 640 tokens is 10 blocks.
ModelConfig Config() {
  ModelConfig config;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 8;
  config.max_positions = 640;
  return config;
}
constexpr int64_t kBlockBytes = 12'288;

int32_t Blocks(const MemoryPlanInput& input) {
  const absl::StatusOr<KvGeometry> plan = PlanKvCache(Config(), input);
  if (!plan.ok()) return -1;
  EXPECT_EQ(plan->tokens_per_block, input.tokens_per_block);
  return plan->num_blocks;
}

TEST(PlanKvCacheTest, TakesTheUsersChoice) {
  EXPECT_EQ(Blocks({.kv_cache_bytes = kBlockBytes}), 1);
  EXPECT_EQ(Blocks({.kv_cache_bytes = 100 * kBlockBytes + 1}), 100);
  EXPECT_EQ(Blocks({.kv_cache_bytes = 4 * kBlockBytes, .bytes_per_value = 4}), 2);
  EXPECT_EQ(Blocks({.kv_cache_bytes = 4 * kBlockBytes, .tokens_per_block = 16}), 16);
}

TEST(PlanKvCacheTest, ByDefaultHalfOfTheMemoryBetweenOneAndFourWindows) {
  EXPECT_EQ(Blocks({.available_bytes = 60 * kBlockBytes}), 30);
  EXPECT_EQ(Blocks({.available_bytes = 500 * kBlockBytes}), 40);  // four windows
  EXPECT_EQ(Blocks({.available_bytes = 15 * kBlockBytes}), 10);   // one window
  EXPECT_EQ(Blocks({.available_bytes = 7 * kBlockBytes}), 7);     // what there is of it
  EXPECT_EQ(Blocks({.available_bytes = kBlockBytes}), 1);
}

TEST(PlanKvCacheTest, LeavesRoomForWhatGoesWithKeysAndValues) {
  // Of 15 blocks' bytes 12 are keys' and values', and with groups 10 or 6.
  const auto blocks = [](double index, double groups) {
    return Blocks({.available_bytes = 15 * kBlockBytes,
                   .index_share = index,
                   .groups_share = groups});
  };
  EXPECT_EQ(blocks(0.25, 0), 10);  // one window
  EXPECT_EQ(blocks(0.25, 0.25), 10);
  EXPECT_EQ(blocks(0.25, 1.25), 6);  // what there is of it
  EXPECT_EQ(Blocks({.available_bytes = 60 * kBlockBytes, .index_share = 0.5}), 20);
  EXPECT_EQ(
      PlanKvCache(Config(), {.available_bytes = kBlockBytes, .groups_share = 1}).status(),
      absl::ResourceExhaustedError("key/value cache: one block of 64 tokens needs "
                                   "12288 bytes, 6144 are available"));
}

// Who chooses a size may do without room for groups, but not without the index.
TEST(PlanKvCacheTest, AChoiceIsLimitedByTheIndexAlone) {
  MemoryPlanInput input = {.kv_cache_bytes = 8 * kBlockBytes,
                           .available_bytes = 10 * kBlockBytes,
                           .limited = true,
                           .index_share = 0.25,
                           .groups_share = 0.5};
  EXPECT_EQ(Blocks(input), 8);
  input.kv_cache_bytes += 1;
  EXPECT_EQ(PlanKvCache(Config(), input).status(),
            absl::ResourceExhaustedError("kv_cache_bytes is 98305; beside the weights "
                                         "98304 are available for keys and values"));
}

TEST(PlanKvCacheTest, AChoiceIsLimitedWhereMemoryIsTakenAtOnce) {
  EXPECT_EQ(Blocks({.kv_cache_bytes = 9 * kBlockBytes,
                    .available_bytes = 9 * kBlockBytes,
                    .limited = true}),
            9);
  EXPECT_EQ(Blocks({.kv_cache_bytes = 9 * kBlockBytes, .available_bytes = 1}), 9);
  EXPECT_EQ(PlanKvCache(Config(), {.kv_cache_bytes = 9 * kBlockBytes,
                                   .available_bytes = 100,
                                   .limited = true})
                .status(),
            absl::ResourceExhaustedError("kv_cache_bytes is 110592; beside the weights "
                                         "100 are available for keys and values"));
}

TEST(PlanKvCacheTest, Refusals) {
  EXPECT_EQ(
      PlanKvCache(Config(), {.kv_cache_bytes = kBlockBytes - 1}).status(),
      absl::InvalidArgumentError("kv_cache_bytes is 12287; it must be >= 12288, one "
                                 "block of 64 tokens"));
  EXPECT_EQ(PlanKvCache(Config(), {.kv_cache_bytes = -5}).status(),
            absl::InvalidArgumentError("kv_cache_bytes is -5; it must be >= 0"));
  EXPECT_EQ(PlanKvCache(Config(), {.kv_cache_bytes = 1, .tokens_per_block = 0}).status(),
            absl::InvalidArgumentError("tokens_per_block is 0; it must be >= 1"));
  EXPECT_EQ(PlanKvCache(Config(), {.available_bytes = kBlockBytes - 1}).status(),
            absl::ResourceExhaustedError("key/value cache: one block of 64 tokens needs "
                                         "12288 bytes, 12287 are available"));
}

TEST(PlanKvCacheTest, NumberOfBlocksStaysAnInt32) {
  EXPECT_EQ(Blocks({.kv_cache_bytes = int64_t{1} << 62}), 2147483647);
}

class AvailableMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/available_memory_XXXXXX";
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& content) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }
  void WriteMeminfo() {
    Write("/proc/meminfo",
          "MemTotal: 16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\nBuffers: 2 kB\n");
  }
  int64_t Available() const { return AvailableMemoryBytesUnder(root_); }

  std::string root_;
};

TEST_F(AvailableMemoryTest, ZeroIfUnknown) { EXPECT_EQ(Available(), 0); }

TEST_F(AvailableMemoryTest, MemAvailableWithoutCgroup) {
  WriteMeminfo();
  EXPECT_EQ(Available(), 8000 * 1024);
}

TEST_F(AvailableMemoryTest, UnlimitedCgroupChangesNothing) {
  WriteMeminfo();
  Write("/proc/self/cgroup", "0::/user/job\n");
  Write("/sys/fs/cgroup/user/job/memory.max", "max\n");
  Write("/sys/fs/cgroup/user/job/memory.current", "5000\n");
  EXPECT_EQ(Available(), 8000 * 1024);
}

TEST_F(AvailableMemoryTest, CutToTheCgroupLessWhatIsUsedPlusItsFileCache) {
  WriteMeminfo();
  Write("/proc/self/cgroup", "3:cpu:/v1\n0::/job\n");
  Write("/sys/fs/cgroup/job/memory.max", "1000000\n");
  Write("/sys/fs/cgroup/job/memory.current", "400000\n");
  EXPECT_EQ(Available(), 600000);
  Write("/sys/fs/cgroup/job/memory.stat", "anon 7\ninactive_file 30000\nactive_file 9\n");
  EXPECT_EQ(Available(), 630000);
  Write("/sys/fs/cgroup/job/memory.current", "1000500\n");
  EXPECT_EQ(Available(), 29500);
}

TEST_F(AvailableMemoryTest, TheTightestParentBinds) {
  WriteMeminfo();
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "5000000\n");
  Write("/sys/fs/cgroup/a/b/memory.current", "0\n");
  Write("/sys/fs/cgroup/a/memory.max", "2000\n");
  Write("/sys/fs/cgroup/a/memory.current", "500\n");
  EXPECT_EQ(Available(), 1500);
}

TEST_F(AvailableMemoryTest, ContainerSeesItsOwnGroupAsTheTop) {
  WriteMeminfo();
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "3000\n");
  Write("/sys/fs/cgroup/memory.current", "1000\n");
  EXPECT_EQ(Available(), 2000);
}

TEST(AvailableMemoryBytesTest, ThisMachineHasSome) {
  EXPECT_GT(AvailableMemoryBytes(), 1'000'000);
}

}  // namespace
}  // namespace quire
