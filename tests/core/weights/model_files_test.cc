#include "core/weights/model_files.h"

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/weights/base_reference.h"
#include "core/weights/file_weight_source.h"
#include "core/weights/tokenizer_settings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/refused.h"
#include "tests/support/temp_path.h"
#include "tests/support/weight_file_builder.h"

namespace quire {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
namespace fs = std::filesystem;

constexpr const char* kConfig =
    R"({"model_type": "llama", "hidden_size": 8, "vocab_size": 20,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 10})";
const std::string kSha(64, 'a');

// A model folder under the test's own temporary directory.
class ModelFilesTest : public testing::Test {
 protected:
  ModelFilesTest() {
    fs::create_directories(folder());
    Write("config.json", kConfig);
    Write("tokenizer.json", "{}");
    ::unsetenv("QUIRE_BASE_DIR");
  }
  ~ModelFilesTest() override { fs::remove_all(root_); }

  fs::path folder() const { return root_ / "tiny"; }
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories((folder() / name).parent_path());
    std::ofstream(folder() / name, std::ios::binary) << text;
  }
  absl::StatusOr<ModelFiles> Open() { return OpenModelFiles(folder().string()); }

  const fs::path root_ = TempPath("model_files");
};

std::string Gguf(const std::string& architecture) {
  return GgufBuilder()
      .AddArchitecture(architecture)
      .Add("output_norm.weight", GgufBuilder::kF32, {2}, BytesOf<float>({1.0f, 2.0f}))
      .Build();
}

TEST_F(ModelFilesTest, SingleSafetensors) {
  const std::string file = SafetensorsBuilder().AddF32("model.norm.weight", {8}).Build();
  Write("model.safetensors", file);
  const absl::StatusOr<ModelFiles> model =
      OpenModelFiles(absl::StrCat(folder().string(), "/"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "tiny");
  EXPECT_EQ(model->config.hidden_size, 8);
  EXPECT_EQ(model->tokenizer_path, (folder() / "tokenizer.json").string());
  EXPECT_EQ(model->weight_file_bytes, static_cast<int64_t>(file.size()));
  EXPECT_EQ(model->chat_template, "");
  EXPECT_EQ(model->prompts_json, std::nullopt);
  EXPECT_EQ(model->generation_config_json, std::nullopt);
  EXPECT_FALSE(model->weights->QkRowsInterleaved());
  EXPECT_EQ(model->weights->Lora("model.norm.weight"), nullptr);
  EXPECT_THAT(model->weights->names(), ElementsAre("model.norm.weight"));
  std::vector<float> values(8);
  DequantizeTo(*model->weights->Get("model.norm.weight", {8}), absl::MakeSpan(values));
  EXPECT_THAT(values, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  model->weights->Release();  // the pages go, the bytes stay readable
  DequantizeTo(*model->weights->Get("model.norm.weight", {8}), absl::MakeSpan(values));
  EXPECT_EQ(values[7], 7.0f);
}

TEST_F(ModelFilesTest, OptionalFiles) {
  Write("model.safetensors", SafetensorsBuilder().AddF32("w", {1}).Build());
  Write(
      "tokenizer_config.json",
      R"({"chat_template": "old", "bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
  Write("prompts.json", "{\"prefix\": \"x\"}");
  Write("generation_config.json", "{\"eos_token_id\": 3}");
  absl::StatusOr<ModelFiles> model = Open();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->chat_template, "old");
  EXPECT_EQ(model->bos_token, "<s>");
  EXPECT_EQ(model->eos_token, "</s>");
  EXPECT_EQ(model->prompts_json, "{\"prefix\": \"x\"}");
  EXPECT_EQ(model->generation_config_json, "{\"eos_token_id\": 3}");
  Write("chat_template.jinja", "new");
  EXPECT_EQ(Open()->chat_template, "new");
  Write("tokenizer_config.json", R"({"bos_token": 1})");
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      "tokenizer_config.json: bos_token is 1; it must be a string"));
}

TEST_F(ModelFilesTest, Shards) {
  Write("model.safetensors.index.json",
        R"({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})");
  Write("model-1.safetensors", SafetensorsBuilder().AddF32("a", {2}).Build());
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound, "model-2.safetensors, which "));
  Write("model-2.safetensors", SafetensorsBuilder().AddF32("c", {3}).Build());
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound,
                      "model-2.safetensors: there is no tensor b"));
  Write("model-2.safetensors",
        SafetensorsBuilder().AddF32("b", {3}).AddF32("c", {1}).Build());
  const absl::StatusOr<ModelFiles> model = Open();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->weights->names(), ElementsAre("a", "b"));
  EXPECT_TRUE(model->weights->Get("b", {3}).ok());
  Write("model-2.safetensors", "broken");
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      "model-2.safetensors: the file has 6 bytes"));
  Write("model.safetensors.index.json",
        R"({"weight_map": {"a": "../model-1.safetensors"}})");
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument, "must be the plain name"));
}

TEST_F(ModelFilesTest, Gguf) {
  Write("model-q4.gguf", Gguf("llama"));
  absl::StatusOr<ModelFiles> model = Open();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->weights->QkRowsInterleaved());
  EXPECT_TRUE(model->weights->Has("model.norm.weight"));

  Write("model-q4.gguf", Gguf("qwen2"));
  EXPECT_TRUE(
      Refused(Open(), StatusCode::kInvalidArgument,
              "general.architecture is 'qwen2'; config.json's model_type wants 'llama'"));
  Write("config.json", R"({"model_type": "qwen2", "hidden_size": 8, "vocab_size": 20,
      "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
      "intermediate_size": 10})");
  model = Open();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FALSE(model->weights->QkRowsInterleaved());

  Write("second.gguf", Gguf("qwen2"));
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument, "has 2 .gguf files"));
}

TEST_F(ModelFilesTest, BaseBesideOrInTheBaseFolder) {
  const std::string gguf = Gguf("llama");
  Write("base.json", absl::StrCat(R"({"file": "base.gguf", "sha256": ")", kSha,
                                  R"(", "bytes": )", gguf.size(), "}"));
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound,
                      "nor in $QUIRE_BASE_DIR (not set): run deploy/setup.sh"));
  const fs::path base_dir = root_ / "base";
  fs::create_directories(base_dir);
  ::setenv("QUIRE_BASE_DIR", base_dir.c_str(), 1);
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound,
                      absl::StrCat("the base weights base.gguf are neither in ",
                                   folder().string(), " nor in $QUIRE_BASE_DIR (",
                                   base_dir.string(), "): run deploy/setup.sh")));
  std::ofstream(base_dir / "base.gguf", std::ios::binary) << gguf;
  const absl::StatusOr<ModelFiles> model = Open();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->weight_file_bytes, static_cast<int64_t>(gguf.size()));

  Write("base.gguf", gguf + "more");  // beside wins, and its size is looked at
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      absl::StrCat("has ", gguf.size() + 4, " bytes; base.json says ",
                                   gguf.size(), ": run deploy/setup.sh again")));
}

TEST_F(ModelFilesTest, Adapter) {
  Write("model.safetensors", SafetensorsBuilder().AddF32("w", {1}).Build());
  Write(
      "adapter_config.json",
      R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]})");
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound, "adapter_model.safetensors"));
  const auto adapter = [](int64_t in) {
    const std::string stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
    return SafetensorsBuilder()
        .AddF32(stem + "A.weight", {2, in})
        .AddF32(stem + "B.weight", {8, 2})
        .Build();
  };
  Write("adapter_model.safetensors", adapter(7));
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      "lora_A.weight has shape [2, 7]; it must be [2, 8]"));
  Write("adapter_model.safetensors", adapter(8));
  const absl::StatusOr<ModelFiles> model = Open();
  ASSERT_TRUE(model.ok()) << model.status();
  const LoraUpdate* update =
      model->weights->Lora("model.layers.0.self_attn.q_proj.weight");
  ASSERT_NE(update, nullptr);
  EXPECT_EQ(update->scale, 1.0f);
  EXPECT_EQ(update->b.num_elements(), 16);
}

TEST_F(ModelFilesTest, NamesWhatIsMissing) {
  EXPECT_TRUE(Refused(OpenModelFiles((root_ / "nowhere").string()), StatusCode::kNotFound,
                      "there is no model folder"));
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound, "there are no weights in"));
  Write("model.safetensors", SafetensorsBuilder().AddF32("w", {1}).Build());
  fs::remove(folder() / "tokenizer.json");
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound, "tiny/tokenizer.json"));
  fs::remove(folder() / "config.json");
  EXPECT_TRUE(Refused(Open(), StatusCode::kNotFound, "tiny/config.json"));
}

TEST_F(ModelFilesTest, RefusesMoreLayersThanTheConfig) {
  Write(
      "model.safetensors",
      SafetensorsBuilder().AddF32("model.layers.1.input_layernorm.weight", {8}).Build());
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      "but num_hidden_layers of config.json is 1"));
}

TEST_F(ModelFilesTest, NamesTheBrokenFile) {
  Write("model.safetensors", "x");
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      "tiny/model.safetensors: the file has 1 bytes"));
  Write("config.json", "{}");
  EXPECT_TRUE(Refused(Open(), StatusCode::kInvalidArgument,
                      "tiny: config.json: model_type is missing"));
}

TEST(BundledModelsTest, SmallModelOpens) {
  const absl::StatusOr<ModelFiles> model =
      OpenModelFiles(absl::StrCat(QUIRE_MODELS_DIR, "/quire-19m"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "quire-19m");
  EXPECT_EQ(model->weights->names().size(), 92u);
  const auto embedding = model->weights->Get("model.embed_tokens.weight", {8192, 384});
  ASSERT_TRUE(embedding.ok()) << embedding.status();
  EXPECT_EQ(embedding->dtype, DType::kBF16);
}

// The base of quire-135m is a download, so its folder is opened here without it.
TEST(BundledModelsTest, AdapterOfTheDefaultModelFits) {
  const std::string folder = absl::StrCat(QUIRE_MODELS_DIR, "/quire-135m");
  const auto text = ReadTextFile(folder + "/config.json", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto config = ModelConfig::FromJson(*text);
  ASSERT_TRUE(config.ok()) << config.status();
  WeightFiles files;
  ASSERT_EQ(AddAdapter(folder, *config, files), absl::OkStatus());
  EXPECT_EQ(files.lora.size(), 30u * 7u);
  EXPECT_EQ(files.lora.at("model.layers.29.mlp.down_proj.weight").scale, 1.0f);
  const auto base = ParseBaseReference(*ReadTextFile(folder + "/base.json", 1 << 20));
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_EQ(base->bytes, 98362432);
}

TEST(BaseReferenceTest, RefusesJunk) {
  const auto refused = [](const std::string& json, const std::string& message) {
    return Refused(ParseBaseReference(json), StatusCode::kInvalidArgument, message);
  };
  const std::string sha = absl::StrCat("\"sha256\": \"", kSha, "\"");
  EXPECT_TRUE(ParseBaseReference(absl::StrCat(R"({"file": "a.gguf", )", sha, "}")).ok());
  EXPECT_TRUE(refused("{}", "base.json: file is missing"));
  EXPECT_TRUE(refused(R"({"file": "a.gguf"})", "sha256 is missing"));
  EXPECT_TRUE(refused(R"({"file": "a.gguf", "sha256": "12"})",
                      "sha256 is \"12\"; it must be 64"));
  EXPECT_TRUE(refused(absl::StrCat(R"({"file": "../a.gguf", )", sha, "}"),
                      "file is \"../a.gguf\""));
  EXPECT_TRUE(
      refused(absl::StrCat(R"({"file": "a.bin", )", sha, "}"), "file is \"a.bin\""));
  EXPECT_TRUE(refused(absl::StrCat(R"({"file": "a.gguf", "url": "x", )", sha, "}"),
                      "\"url\" is not a field of this file"));
  EXPECT_TRUE(refused(absl::StrCat(R"({"file": "a.gguf", "bytes": -1, )", sha, "}"),
                      "bytes is -1"));
}

TEST(TokenizerSettingsTest, NamedTemplates) {
  const auto settings = ParseTokenizerSettings(R"({"chat_template": [
      {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->chat_template, "D");
  EXPECT_EQ(settings->bos_token, "");
  const auto without =
      ParseTokenizerSettings(R"({"chat_template": [{"name": "rag", "template": "R"}]})");
  EXPECT_EQ(without->chat_template, "");
}

TEST(TokenizerSettingsTest, RefusesJunk) {
  const auto refused = [](const std::string& json, const std::string& message) {
    return Refused(ParseTokenizerSettings(json), StatusCode::kInvalidArgument, message);
  };
  EXPECT_TRUE(
      refused(R"({"chat_template": 4})", "chat_template is 4; it must be a string"));
  EXPECT_TRUE(
      refused(R"({"chat_template": ["x"]})", "chat_template has \"x\"; each must be"));
  EXPECT_TRUE(
      refused(R"({"chat_template": [{"name": "default"}]})", "template is missing"));
  EXPECT_TRUE(refused(R"({"eos_token": {"id": 4}})", "eos_token: content is missing"));
}

}  // namespace
}  // namespace quire
