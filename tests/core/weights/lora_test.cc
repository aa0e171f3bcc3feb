#include "core/weights/lora.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/weights/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/refused.h"
#include "tests/support/weight_file_builder.h"

namespace quire {
namespace {

using absl::StatusCode;

// Two layers; q is [12, 8], k and v [6, 8], o [8, 12], gate and up [10, 8], down [8, 10].
ModelConfig Model() {
  ModelConfig model;
  model.num_layers = 2;
  model.hidden_size = 8;
  model.intermediate_size = 10;
  model.num_heads = 2;
  model.num_kv_heads = 1;
  model.head_dim = 6;
  model.vocab_size = 20;
  model.max_positions = 64;
  model.rms_norm_eps = 1e-5f;
  return model;
}

std::string AdapterConfig(const std::string& targets, const std::string& more = "") {
  return absl::StrCat(
      R"({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": )", targets,
      more.empty() ? "" : ", ", more, "}");
}

class Adapter {
 public:
  Adapter& Pair(const std::string& module, int64_t out, int64_t in, int64_t rank = 2) {
    builder_.AddF32(absl::StrCat("base_model.model.", module, ".lora_A.weight"),
                    {rank, in});
    builder_.AddF32(absl::StrCat("base_model.model.", module, ".lora_B.weight"),
                    {out, rank});
    return *this;
  }
  Adapter& QueryOfBothLayers() {
    return Pair("model.layers.0.self_attn.q_proj", 12, 8)
        .Pair("model.layers.1.self_attn.q_proj", 12, 8);
  }
  SafetensorsBuilder& builder() { return builder_; }
  absl::StatusOr<LoraUpdates> Parse(const std::string& config,
                                    const ModelConfig& model = Model()) {
    file_ = builder_.Build();
    const absl::StatusOr<TensorTable> table = ParseSafetensors(AsBytes(file_));
    if (!table.ok()) return table.status();
    return ParseLora(config, *table, model);
  }

 private:
  SafetensorsBuilder builder_;
  std::string file_;
};

TEST(LoraTest, ReadsUpdatesByTheWeightTheyChange) {
  Adapter adapter;
  adapter.QueryOfBothLayers();
  const auto updates = adapter.Parse(AdapterConfig(R"(["q_proj"])"));
  ASSERT_TRUE(updates.ok()) << updates.status();
  ASSERT_EQ(updates->size(), 2u);
  const LoraUpdate& update = updates->at("model.layers.1.self_attn.q_proj.weight");
  EXPECT_EQ(update.a.shape, (std::vector<int64_t>{2, 8}));
  EXPECT_EQ(update.b.shape, (std::vector<int64_t>{12, 2}));
  EXPECT_FLOAT_EQ(update.scale, 3.0f);  // alpha 6 / rank 2
}

TEST(LoraTest, ScaleOfRankStabilisedLora) {
  Adapter adapter;
  adapter.QueryOfBothLayers();
  const auto updates =
      adapter.Parse(AdapterConfig(R"(["q_proj"])", R"("use_rslora": true)"));
  ASSERT_TRUE(updates.ok()) << updates.status();
  EXPECT_FLOAT_EQ(updates->begin()->second.scale, 6.0f / std::sqrt(2.0f));
}

TEST(LoraTest, EveryLinearLayerAndTheUntiedHead) {
  Adapter adapter;
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    adapter.Pair(absl::StrCat(layer, "self_attn.q_proj"), 12, 8)
        .Pair(absl::StrCat(layer, "self_attn.k_proj"), 6, 8)
        .Pair(absl::StrCat(layer, "self_attn.v_proj"), 6, 8)
        .Pair(absl::StrCat(layer, "self_attn.o_proj"), 8, 12)
        .Pair(absl::StrCat(layer, "mlp.gate_proj"), 10, 8)
        .Pair(absl::StrCat(layer, "mlp.up_proj"), 10, 8)
        .Pair(absl::StrCat(layer, "mlp.down_proj"), 8, 10);
  }
  adapter.Pair("lm_head", 20, 8);
  const std::string config = AdapterConfig(
      R"(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
          "lm_head"])");
  const auto updates = adapter.Parse(config);
  ASSERT_TRUE(updates.ok()) << updates.status();
  EXPECT_EQ(updates->size(), 15u);
  EXPECT_EQ(updates->count("lm_head.weight"), 1u);

  ModelConfig tied = Model();
  tied.tie_embeddings = true;
  EXPECT_TRUE(
      Refused(adapter.Parse(config, tied), StatusCode::kInvalidArgument,
              "tensor base_model.model.lm_head.lora_A.weight of the adapter fits no"));
}

TEST(LoraTest, TargetsMatchLikePeft) {
  Adapter adapter;
  adapter.Pair("model.layers.1.self_attn.q_proj", 12, 8);
  EXPECT_TRUE(adapter.Parse(AdapterConfig(R"(["layers.1.self_attn.q_proj"])")).ok());
  EXPECT_TRUE(
      adapter.Parse(AdapterConfig(R"(["model.layers.1.self_attn.q_proj"])")).ok());
  EXPECT_TRUE(adapter.Parse(AdapterConfig(R"("all-linear")")).ok());  // what the file has
  EXPECT_TRUE(
      adapter.Parse(AdapterConfig(R"(["q_proj"])", R"("layers_to_transform": [1])"))
          .ok());
  EXPECT_TRUE(Refused(
      adapter.Parse(AdapterConfig(R"(["q_proj"])")), StatusCode::kNotFound,
      "there is no tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A"));
  EXPECT_TRUE(Refused(adapter.Parse(AdapterConfig(R"(["_proj"])")),
                      StatusCode::kInvalidArgument, "fits no linear layer"));
}

TEST(LoraTest, RefusesAnotherShape) {
  Adapter rank;
  rank.Pair("model.layers.0.self_attn.q_proj", 12, 8, 3);
  EXPECT_TRUE(Refused(rank.Parse(AdapterConfig(R"("all-linear")")),
                      StatusCode::kInvalidArgument,
                      "q_proj.lora_A.weight has shape [3, 8]; it must be [2, 8]"));
  Adapter width;
  width.Pair("model.layers.0.self_attn.k_proj", 12, 8);
  EXPECT_TRUE(Refused(width.Parse(AdapterConfig(R"("all-linear")")),
                      StatusCode::kInvalidArgument,
                      "k_proj.lora_B.weight has shape [12, 2]; it must be [6, 2]"));
}

TEST(LoraTest, RefusesTensorsThatFitNothing) {
  const auto with = [](const std::string& name) {
    Adapter adapter;
    adapter.QueryOfBothLayers().builder().AddF32(name, {2, 8});
    return Refused(adapter.Parse(AdapterConfig(R"(["q_proj"])")),
                   StatusCode::kInvalidArgument,
                   absl::StrCat("tensor ", name, " of the adapter fits no linear layer"));
  };
  EXPECT_TRUE(with("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"));
  EXPECT_TRUE(with("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"));
  EXPECT_TRUE(with("base_model.model.model.embed_tokens.lora_embedding_A"));
  EXPECT_TRUE(
      with("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"));
  EXPECT_TRUE(with("model.layers.0.self_attn.q_proj.lora_A.weight"));
}

TEST(LoraTest, RefusesHalfAPairAnotherTypeAndNothing) {
  Adapter half;
  half.builder().AddF32("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                        {2, 8});
  EXPECT_TRUE(Refused(half.Parse(AdapterConfig(R"("all-linear")")), StatusCode::kNotFound,
                      "q_proj.lora_B.weight"));
  Adapter wide;
  wide.builder()
      .Add("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "F64",
           {2, 8}, std::string(128, '\0'))
      .AddF32("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", {12, 2});
  EXPECT_TRUE(Refused(wide.Parse(AdapterConfig(R"("all-linear")")),
                      StatusCode::kUnimplemented, "q_proj.lora_A.weight has type F64"));
  EXPECT_TRUE(Refused(Adapter().Parse(AdapterConfig(R"("all-linear")")),
                      StatusCode::kInvalidArgument, "updates no layer"));
}

TEST(LoraTest, RefusesUnsupportedSettingsByName) {
  const auto refused = [](const std::string& setting, const std::string& message) {
    Adapter adapter;
    adapter.QueryOfBothLayers();
    return Refused(adapter.Parse(AdapterConfig(R"(["q_proj"])", setting)),
                   StatusCode::kUnimplemented, message);
  };
  EXPECT_TRUE(refused(R"("use_dora": true)", "adapter_config.json: use_dora is true"));
  EXPECT_TRUE(
      refused(R"("modules_to_save": ["lm_head"])", "modules_to_save is [\"lm_head\"]"));
  EXPECT_TRUE(refused(R"("fan_in_fan_out": true)", "fan_in_fan_out is true"));
  EXPECT_TRUE(refused(R"("bias": "all")", "bias is \"all\""));
  EXPECT_TRUE(
      refused(R"("rank_pattern": {"q_proj": 4})", "rank_pattern is {\"q_proj\":4}"));
  EXPECT_TRUE(refused(R"("alpha_pattern": {"q_proj": 4})", "alpha_pattern is"));
  EXPECT_TRUE(refused(R"("lora_bias": true)", "lora_bias is true"));
  EXPECT_TRUE(refused(R"("layer_replication": [[0, 2]])", "layer_replication is"));
  Adapter adapter;
  EXPECT_TRUE(Refused(adapter.Parse(R"({"peft_type": "IA3", "r": 2})"),
                      StatusCode::kUnimplemented, "peft_type is \"IA3\""));
}

TEST(LoraTest, AcceptsSettingsThatAreOff) {
  Adapter adapter;
  adapter.QueryOfBothLayers();
  EXPECT_TRUE(adapter
                  .Parse(AdapterConfig(
                      R"(["q_proj"])",
                      R"("use_dora": false, "modules_to_save": null, "rank_pattern": {},
                         "alpha_pattern": {}, "bias": "none", "layer_replication": null,
                         "target_parameters": [], "lora_dropout": 0.1)"))
                  .ok());
}

TEST(LoraTest, NamesTheBadField) {
  const auto refused = [](const std::string& config, const std::string& message) {
    Adapter adapter;
    adapter.QueryOfBothLayers();
    return Refused(adapter.Parse(config), StatusCode::kInvalidArgument, message);
  };
  EXPECT_TRUE(refused(R"({"r": 2})", "peft_type is missing"));
  EXPECT_TRUE(
      refused(R"({"peft_type": "LORA"})", "r is missing; it must be an integer in [1, "));
  EXPECT_TRUE(refused(R"({"peft_type": "LORA", "r": 0})", "r is 0"));
  EXPECT_TRUE(refused(R"({"peft_type": "LORA", "r": 9223372036854775808})",
                      "r is 9223372036854775808; it must be an integer in [1, 4096]"));
  EXPECT_TRUE(
      refused(R"({"peft_type": "LORA", "r": 2, "lora_alpha": -1})", "lora_alpha is -1"));
  EXPECT_TRUE(
      refused(R"({"peft_type": "LORA", "r": 2, "lora_alpha": "2"})", "lora_alpha is"));
  EXPECT_TRUE(refused(R"({"peft_type": "LORA", "r": 2, "target_modules": 5})",
                      "target_modules is 5; it must be a list"));
  EXPECT_TRUE(refused("{", "adapter_config.json is not JSON at byte"));
}

}  // namespace
}  // namespace quire
