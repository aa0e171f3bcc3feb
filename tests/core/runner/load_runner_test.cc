#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/model/layer_parts.h"
#include "core/runner/probe_cuda.h"
#include "core/runner/runner.h"
#include "tests/support/poisoned_weights.h"

// Models that cannot be loaded, and what they would take.
namespace quire {
namespace {

const char kSmall[] = QUIRE_MODELS_DIR "/quire-19m";

// On the CPU, and on the GPU where there is one.
class LoadTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto chosen = ChooseDevice(ParseDevice(GetParam()).value(), ProbeCuda());
    if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
  }
  absl::Status Load(const ModelFiles& files) const {
    return LoadRunner(files, {.kv_cache_bytes = 16 << 20, .device = GetParam()}).status();
  }
};

TEST_P(LoadTest, WeightsThatAreNoNumbersAreRefusedByName) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const char* const tensor :
       {"model.embed_tokens.weight", "model.norm.weight",
        "model.layers.1.self_attn.k_proj.weight", "model.layers.3.mlp.down_proj.weight",
        "model.layers.0.post_attention_layernorm.weight"}) {
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
      ModelFiles files = OpenModelFiles(kSmall).value();
      files.weights =
          std::make_shared<PoisonedWeights>(std::move(files.weights), tensor, poison);
      EXPECT_EQ(Load(files), absl::InvalidArgumentError(absl::StrCat(
                                 "tensor ", tensor, " has NaN or infinite values")));
    }
  }
}

TEST_P(LoadTest, WeightsTakeWhatTheirShapesSay) {
  const ModelFiles files = OpenModelFiles(kSmall).value();
  const bool cpu = std::string_view(GetParam()) == "cpu";
  const ComputeType type = cpu ? ComputeType::kFloat32 : ComputeType::kAuto;
  const LoadedRunner loaded =
      LoadRunner(files,
                 {.compute = type, .kv_cache_bytes = 16 << 20, .device = GetParam()})
          .value();
  EXPECT_EQ(loaded.weight_bytes, WeightBytesOf(files.config, cpu ? 4 : 2));
}

INSTANTIATE_TEST_SUITE_P(Devices, LoadTest, ::testing::Values("cpu", "cuda"));

TEST(WeightBytesTest, AreThoseOfEveryFormOfModel) {
  for (const char* const form :
       {"llama", "llama-biases", "llama-untied", "mistral", "qwen2", "qwen3"}) {
    const ModelFiles files =
        OpenModelFiles(absl::StrCat(QUIRE_TESTDATA_DIR "/models/", form)).value();
    const LoadedRunner loaded = LoadRunner(files, {.compute = ComputeType::kFloat32,
                                                   .kv_cache_bytes = 16 << 20,
                                                   .device = "cpu"})
                                    .value();
    EXPECT_EQ(loaded.weight_bytes, WeightBytesOf(files.config, 4)) << form;
  }
}

class CudaLoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto chosen = ChooseDevice({.kind = DeviceKind::kCuda}, ProbeCuda());
    if (!chosen.ok()) GTEST_SKIP() << chosen.status().message();
  }
};

TEST_F(CudaLoadTest, MoreCacheThanTheDeviceHasIsRefusedWithBothSizes) {
  const absl::Status status =
      LoadRunner(OpenModelFiles(kSmall).value(),
                 {.kv_cache_bytes = int64_t{1} << 50, .device = "cuda"})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  const std::string message(status.message());
  EXPECT_TRUE(
      message.starts_with("kv_cache_bytes is 1125899906842624; beside the "
                          "weights "))
      << message;
}

// A million layers: nothing is read before the sizes are compared.
TEST_F(CudaLoadTest, MoreWeightsThanTheDeviceHoldsAreRefusedWithBothSizes) {
  ModelFiles files = OpenModelFiles(kSmall).value();
  files.config.num_layers = 1'000'000;
  const absl::Status status = LoadRunner(files, {.device = "cuda"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  const std::string message(status.message());
  EXPECT_TRUE(message.starts_with(absl::StrCat("the weights of quire-19m take ",
                                               WeightBytesOf(files.config, 2),
                                               " bytes in bfloat16; device cuda:")))
      << message;
  EXPECT_NE(message.find(" free of "), std::string::npos) << message;
}

}  // namespace
}  // namespace quire
