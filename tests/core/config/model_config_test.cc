#include "core/config/model_config.h"

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/refused.h"

namespace quire {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::IsEmpty;

// The five sizes every config.json states, and whatever else the test is about.
std::string Config(const std::string& model_type, const std::string& more = "") {
  return absl::StrCat(R"({"model_type": ")", model_type, R"(", "hidden_size": 64,
      "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 160,
      "vocab_size": 320)",
                      more.empty() ? "" : ", ", more, "}");
}

ModelConfig Parsed(const std::string& json) {
  absl::StatusOr<ModelConfig> config = ModelConfig::FromJson(json);
  EXPECT_TRUE(config.ok()) << config.status() << "\n" << json;
  return config.value_or(ModelConfig());
}

TEST(ModelConfigTest, LlamaDefaults) {
  const ModelConfig config = Parsed(Config("llama"));
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 160);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.vocab_size, 320);
  EXPECT_EQ(config.max_positions, 2048);
  EXPECT_FLOAT_EQ(config.rms_norm_eps, 1e-6f);
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_FALSE(config.mlp_bias);
  EXPECT_FALSE(config.qk_norm);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2));
}

TEST(ModelConfigTest, MistralDefaults) {
  const ModelConfig config = Parsed(absl::StrReplaceAll(
      Config("mistral", R"("sliding_window": null)"), {{"heads\": 4", "heads\": 16"}}));
  EXPECT_EQ(config.architecture, Architecture::kMistral);
  EXPECT_EQ(config.num_heads, 16);
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2));
}

TEST(ModelConfigTest, Qwen2Defaults) {
  const ModelConfig config = Parsed(Config("qwen2", R"("num_key_value_heads": 2)"));
  EXPECT_EQ(config.architecture, Architecture::kQwen2);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_FALSE(config.qk_norm);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_positions, 32768);
  EXPECT_EQ(config.bos_token, -1);
  EXPECT_THAT(config.eos_tokens, IsEmpty());
}

TEST(ModelConfigTest, Qwen3Defaults) {
  const ModelConfig config = Parsed(Config("qwen3", R"("num_key_value_heads": null)"));
  EXPECT_EQ(config.architecture, Architecture::kQwen3);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_EQ(config.num_kv_heads, 4);  // null: as many as heads; missing: 32
  EXPECT_EQ(config.head_dim, 128);    // not hidden_size / num_attention_heads
  EXPECT_TRUE(Refused(ModelConfig::FromJson(Config("qwen3")),
                      StatusCode::kInvalidArgument,
                      "num_key_value_heads is 32; it must be a divisor of"));
}

TEST(ModelConfigTest, SwitchesOfEachFamily) {
  const std::string all =
      R"("num_key_value_heads": 2, "attention_bias": true, "mlp_bias": true,
         "tie_word_embeddings": true)";
  EXPECT_TRUE(Parsed(Config("llama", all)).attention_bias);
  EXPECT_TRUE(Parsed(Config("llama", all)).mlp_bias);
  EXPECT_TRUE(Parsed(Config("llama", all)).tie_embeddings);
  EXPECT_TRUE(Parsed(Config("qwen3", all)).attention_bias);
  EXPECT_FALSE(Parsed(Config("qwen3", all)).mlp_bias);
  EXPECT_FALSE(Parsed(Config("qwen2", all)).attention_bias);
  EXPECT_FALSE(Parsed(Config("mistral", all)).attention_bias);
}

TEST(ModelConfigTest, Tokens) {
  EXPECT_THAT(Parsed(Config("llama", R"("eos_token_id": [7, 319])")).eos_tokens,
              ElementsAre(7, 319));
  EXPECT_THAT(Parsed(Config("llama", R"("eos_token_id": [])")).eos_tokens, IsEmpty());
  EXPECT_THAT(Parsed(Config("llama", R"("eos_token_id": null)")).eos_tokens, IsEmpty());
  EXPECT_EQ(Parsed(Config("llama", R"("bos_token_id": null)")).bos_token, -1);
  EXPECT_EQ(Parsed(Config("llama", R"("bos_token_id": 0)")).bos_token, 0);
}

TEST(ModelConfigTest, DefaultTokensThatATinyVocabularyLacksAreNone) {
  const std::string json = absl::StrReplaceAll(Config("llama"), {{"320", "2"}});
  EXPECT_EQ(Parsed(json).bos_token, 1);
  EXPECT_THAT(Parsed(json).eos_tokens, IsEmpty());
}

TEST(ModelConfigTest, RopeInTheOldLayout) {
  const ModelConfig plain =
      Parsed(Config("llama", R"("rope_theta": 500000, "rope_scaling": null)"));
  EXPECT_EQ(plain.rope.type, RopeType::kDefault);
  EXPECT_EQ(plain.rope.theta, 500000.0);

  const ModelConfig linear =
      Parsed(Config("llama", R"("rope_scaling": {"type": "linear", "factor": 4.0})"));
  EXPECT_EQ(linear.rope.type, RopeType::kLinear);
  EXPECT_EQ(linear.rope.factor, 4.0);
  EXPECT_EQ(linear.rope.attention_factor, 1.0);
  EXPECT_EQ(linear.max_positions, 2048);

  const ModelConfig llama3 = Parsed(Config("llama", R"("max_position_embeddings": 131072,
      "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
      "low_freq_factor": 1.5, "high_freq_factor": 5, "original_max_position_embeddings": 8192})"));
  EXPECT_EQ(llama3.rope.type, RopeType::kLlama3);
  EXPECT_EQ(llama3.rope.low_freq_factor, 1.5);
  EXPECT_EQ(llama3.rope.high_freq_factor, 5.0);
  EXPECT_EQ(llama3.rope.original_max_positions, 8192);
  EXPECT_EQ(llama3.max_positions, 131072);
}

TEST(ModelConfigTest, RopeInTheLayoutOfTransformers5) {
  const ModelConfig config =
      Parsed(Config("llama", R"("rope_theta": 1.5e4, "rope_parameters":
      {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2})"));
  EXPECT_EQ(config.rope.type, RopeType::kLinear);
  EXPECT_EQ(config.rope.theta, 20000.0);
  EXPECT_EQ(config.rope.factor, 2.0);
  const ModelConfig plain = Parsed(Config(
      "llama", R"("rope_parameters": {"rope_type": "default", "rope_theta": 3e4})"));
  EXPECT_EQ(plain.rope.type, RopeType::kDefault);
  EXPECT_EQ(plain.rope.theta, 30000.0);
}

TEST(ModelConfigTest, Yarn) {
  const ModelConfig qwen =
      Parsed(Config("qwen2", R"("num_key_value_heads": 2, "rope_theta": 1e6,
      "rope_scaling": {"type": "yarn", "factor": 4.0,
                       "original_max_position_embeddings": 32768})"));
  EXPECT_EQ(qwen.rope.type, RopeType::kYarn);
  EXPECT_NEAR(qwen.rope.attention_factor, 1.138629436111989, 1e-12);
  EXPECT_EQ(qwen.rope.beta_fast, 32.0);
  EXPECT_EQ(qwen.rope.beta_slow, 1.0);
  EXPECT_TRUE(qwen.rope.truncate);
  EXPECT_EQ(qwen.max_positions, 131072);  // 4 x the stated original length

  const ModelConfig weighed = Parsed(Config("llama", R"("max_position_embeddings": 16384,
      "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0,
      "mscale": 1.0, "mscale_all_dim": 0.707, "beta_fast": 16, "beta_slow": 2,
      "truncate": false, "original_max_position_embeddings": 4096})"));
  EXPECT_NEAR(weighed.rope.attention_factor, 1.0857263992561355, 1e-12);
  EXPECT_EQ(weighed.rope.beta_fast, 16.0);
  EXPECT_EQ(weighed.rope.beta_slow, 2.0);
  EXPECT_FALSE(weighed.rope.truncate);
}

TEST(ModelConfigTest, YarnDefaults) {
  const ModelConfig named =
      Parsed(Config("llama", R"("rope_scaling": {"rope_type": "yarn",
      "factor": 2.0, "attention_factor": 0.75})"));
  EXPECT_EQ(named.rope.attention_factor, 0.75);
  EXPECT_EQ(named.rope.original_max_positions,
            2048);  // not stated: max_position_embeddings
  EXPECT_EQ(named.max_positions, 2048);

  const ModelConfig outside = Parsed(Config("llama", R"("max_position_embeddings": 8192,
      "original_max_position_embeddings": 1024,
      "rope_scaling": {"rope_type": "yarn", "factor": null})"));
  EXPECT_EQ(outside.rope.original_max_positions, 1024);
  EXPECT_EQ(outside.rope.factor, 8.0);
}

TEST(ModelConfigTest, SlidingWindowCutsTheContext) {
  const std::string v01 = R"("num_key_value_heads": 2, "max_position_embeddings": 32768)";
  EXPECT_EQ(Parsed(Config("mistral", v01 + R"(, "sliding_window": 4096)")).max_positions,
            4096);
  EXPECT_EQ(Parsed(Config("mistral", v01)).max_positions,
            4096);  // MistralConfig's default
  EXPECT_EQ(Parsed(Config("mistral", v01 + R"(, "sliding_window": null)")).max_positions,
            32768);
  EXPECT_EQ(Parsed(Config("mistral", v01 + R"(, "sliding_window": 65536)")).max_positions,
            32768);
  EXPECT_EQ(Parsed(Config("llama", v01 + R"(, "sliding_window": 16)")).max_positions,
            32768);
}

TEST(ModelConfigTest, QwenSlidesOnlyIfSwitchedOnAndALayerDoes) {
  const std::string base = R"("num_key_value_heads": 2, "sliding_window": 1024)";
  const std::string on = base + R"(, "use_sliding_window": true)";
  EXPECT_EQ(Parsed(Config("qwen2", base)).max_positions, 32768);
  EXPECT_EQ(Parsed(Config("qwen2", on)).max_positions,
            32768);  // max_window_layers 28 of 3
  EXPECT_EQ(Parsed(Config("qwen2", on + R"(, "max_window_layers": 2)")).max_positions,
            1024);
  EXPECT_EQ(Parsed(Config("qwen3", on + R"(, "layer_types":
      ["full_attention", "full_attention", "full_attention"])"))
                .max_positions,
            32768);
  EXPECT_EQ(Parsed(Config("qwen3", on + R"(, "layer_types":
      ["full_attention", "sliding_attention", "full_attention"])"))
                .max_positions,
            1024);
}

TEST(ModelConfigTest, RefusesUnsupported) {
  const StatusCode code = StatusCode::kUnimplemented;
  const auto refused = [&](const std::string& type, const std::string& more,
                           const std::string& message) {
    return Refused(ModelConfig::FromJson(Config(type, more)), code, message);
  };
  EXPECT_TRUE(
      refused("mixtral", "", "config.json: model_type is 'mixtral'; llama, mistral"));
  EXPECT_TRUE(refused("llama", R"("architectures": ["LlamaForSequenceClassification"])",
                      "architectures names LlamaForSequenceClassification"));
  EXPECT_TRUE(refused("llama", R"("hidden_act": "gelu")", "hidden_act is 'gelu'"));
  EXPECT_TRUE(
      refused("llama", R"("quantization_config": {"bits": 4})", "quantization_config"));
  EXPECT_TRUE(refused("llama", R"("rope_scaling": {"type": "dynamic", "factor": 2.0})",
                      "rope_type is 'dynamic'; default, linear, llama3 and yarn"));
  EXPECT_TRUE(refused("llama", R"("partial_rotary_factor": 0.5)",
                      "partial_rotary_factor is 0.5"));
  EXPECT_TRUE(refused("llama", R"("rope_parameters": {"rope_type": "default",
      "partial_rotary_factor": 0.25})",
                      "partial_rotary_factor is 0.25"));
  EXPECT_TRUE(refused(
      "llama", R"("rope_parameters": {"full_attention": {"rope_type": "default"}})",
      "each layer type"));
  EXPECT_TRUE(refused("qwen3",
                      R"("num_key_value_heads": 2, "layer_types": ["linear_attention"])",
                      "layer_types names 'linear_attention'"));
}

TEST(ModelConfigTest, NamesTheMissingField) {
  for (const char* field : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                            "intermediate_size", "vocab_size", "model_type"}) {
    const std::string json =
        absl::StrReplaceAll(Config("llama"), {{field, absl::StrCat("no_", field)}});
    EXPECT_TRUE(Refused(ModelConfig::FromJson(json), StatusCode::kInvalidArgument,
                        absl::StrCat("config.json: ", field, " is missing")));
  }
}

TEST(ModelConfigTest, NamesTheFieldTheLimitAndTheValue) {
  const auto refused = [](const std::string& more, const std::string& message) {
    return Refused(ModelConfig::FromJson(Config("llama", more)),
                   StatusCode::kInvalidArgument, message);
  };
  EXPECT_TRUE(refused(
      R"("num_key_value_heads": 3)",
      "num_key_value_heads is 3; it must be a divisor of num_attention_heads (4)"));
  EXPECT_TRUE(refused(R"("num_key_value_heads": -1)",
                      "num_key_value_heads is -1; it must be an integer in [1, 1024]"));
  EXPECT_TRUE(
      refused(R"("num_key_value_heads": 9223372036854775808)",
              "num_key_value_heads is 9223372036854775808; it must be an integer"));
  EXPECT_TRUE(refused(R"("num_key_value_heads": 36893488147419103232)",
                      "num_key_value_heads is 3.6893488147419103e+19"));
  EXPECT_TRUE(refused(R"("num_key_value_heads": "4")", "num_key_value_heads is \"4\""));
  EXPECT_TRUE(refused(R"("num_key_value_heads": 2.0)", "num_key_value_heads is 2.0"));
  EXPECT_TRUE(refused(R"("head_dim": 15)", "head_dim is 15; it must be even"));
  EXPECT_TRUE(refused(R"("max_position_embeddings": 0)", "max_position_embeddings is 0"));
  EXPECT_TRUE(refused(R"("max_position_embeddings": 16777217)", "in [1, 16777216]"));
  EXPECT_TRUE(refused(R"("rms_norm_eps": 0)", "rms_norm_eps is 0"));
  EXPECT_TRUE(refused(R"("rms_norm_eps": NaN)", "\"rms_norm_eps\": N'"));
  EXPECT_TRUE(refused(R"("rms_norm_eps": 1e999)", "number overflow parsing '1e999'"));
  EXPECT_TRUE(
      refused(R"("rope_theta": -5)", "rope_theta is -5; it must be a number in [2, "));
  EXPECT_TRUE(refused(R"("rope_theta": true)", "rope_theta is true"));
  EXPECT_TRUE(refused(R"("rope_scaling": 4)", "rope_scaling is 4; it must be an object"));
  EXPECT_TRUE(
      refused(R"("rope_scaling": {"type": "linear"})",
              "rope settings: factor is missing; it must be a number in [1, 10000]"));
  EXPECT_TRUE(
      refused(R"("rope_scaling": {"type": "yarn", "factor": 0.5})", "factor is 0.5"));
  EXPECT_TRUE(refused(R"("rope_scaling": {"type": "llama3", "factor": 8,
      "low_freq_factor": 4, "high_freq_factor": 4})",
                      "high_freq_factor is 4; it must be above"));
  EXPECT_TRUE(refused(R"("tie_word_embeddings": 1)",
                      "tie_word_embeddings is 1; it must be true"));
  EXPECT_TRUE(refused(R"("eos_token_id": 320)",
                      "eos_token_id is 320; it must be an integer in [0, 319]"));
  EXPECT_TRUE(refused(R"("eos_token_id": [2, -1])", "eos_token_id is -1"));
  EXPECT_TRUE(refused(R"("eos_token_id": {"id": 2})", "eos_token_id is {\"id\":2}"));
  EXPECT_TRUE(refused(R"("bos_token_id": -2)", "bos_token_id is -2"));
  EXPECT_TRUE(refused(R"("architectures": "LlamaForCausalLM")", "architectures is"));
}

TEST(ModelConfigTest, HeadDimIsRequiredWhenItCannotBeDerived) {
  const std::string json = absl::StrReplaceAll(Config("llama"), {{"64", "66"}});
  EXPECT_TRUE(Refused(ModelConfig::FromJson(json), StatusCode::kInvalidArgument,
                      "head_dim is missing"));
}

TEST(ModelConfigTest, BoundsTheJsonItself) {
  const auto refused = [](const std::string& json, const std::string& message) {
    return Refused(ModelConfig::FromJson(json), StatusCode::kInvalidArgument, message);
  };
  EXPECT_TRUE(refused("", "config.json is not JSON at byte 1"));
  EXPECT_TRUE(refused("[1]", "config.json is [1]; it must be a JSON object"));
  EXPECT_TRUE(refused(R"({"a": 1, "a": 2})", "config.json names \"a\" twice"));
  EXPECT_TRUE(refused("{\"a\": \"\xff\"}", "config.json is not JSON at byte 8"));
  EXPECT_TRUE(refused(std::string(2 << 20, ' '), "has 2097152 bytes; at most 1048576"));
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_TRUE(refused(absl::StrCat("{\"a\": ", deep, "}"), "is nested deeper than 64"));
}

TEST(ModelConfigTest, ValidateChecksAValueBuiltByHand) {
  ModelConfig config = Parsed(Config("llama"));
  EXPECT_EQ(config.Validate(), absl::OkStatus());
  config.rms_norm_eps = std::nanf("");
  EXPECT_TRUE(
      Refused(config.Validate(), StatusCode::kInvalidArgument, "rms_norm_eps is nan"));
  config = Parsed(Config("llama"));
  config.eos_tokens = {320};
  EXPECT_TRUE(
      Refused(config.Validate(), StatusCode::kInvalidArgument,
              "eos_token_id is 320; it must be not negative and below vocab_size (320)"));
  EXPECT_TRUE(Refused(ModelConfig().Validate(), StatusCode::kInvalidArgument,
                      "num_hidden_layers is 0; it must be in [1, 1024]"));
}

TEST(ModelConfigTest, KvBytesPerToken) {
  EXPECT_EQ(Parsed(Config("llama")).KvBytesPerToken(2), 2 * 3 * 4 * 16 * 2);
  ModelConfig large;
  large.num_layers = 1024;
  large.num_kv_heads = 1024;
  large.head_dim = 1024;
  EXPECT_EQ(large.KvBytesPerToken(4), int64_t{8} << 30);
}

TEST(ModelConfigTest, BundledModels) {
  const auto read = [](const std::string& name) {
    std::ifstream file(std::string(QUIRE_MODELS_DIR) + "/" + name + "/config.json");
    std::stringstream text;
    text << file.rdbuf();
    return Parsed(text.str());
  };
  const ModelConfig large = read("quire-135m");
  EXPECT_EQ(large.num_layers, 30);
  EXPECT_EQ(large.num_kv_heads, 3);
  EXPECT_EQ(large.max_positions, 32768);
  EXPECT_EQ(large.rope.theta, 1e6);
  EXPECT_TRUE(large.tie_embeddings);
  EXPECT_THAT(large.eos_tokens, ElementsAre(2));
  const ModelConfig small = read("quire-19m");
  EXPECT_EQ(small.hidden_size, 384);
  EXPECT_EQ(small.max_positions, 16384);
  EXPECT_THAT(small.eos_tokens, ElementsAre(0));
}

}  // namespace
}  // namespace quire
