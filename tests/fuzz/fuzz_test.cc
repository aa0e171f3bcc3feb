// Every parser of bytes that come from somewhere else, fed with broken versions of valid
// inputs. A test passes if no input crashes it, reads out of bounds (the cpu-asan preset
// looks) or gives a status other than the two that a malformed file may have.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/config/model_config.h"
#include "core/weights/base_reference.h"
#include "core/weights/gguf.h"
#include "core/weights/lora.h"
#include "core/weights/safetensors.h"
#include "core/weights/tokenizer_settings.h"
#include "core/weights/weight_source.h"
#include "gtest/gtest.h"
#include "tests/fuzz/mutator.h"
#include "tests/support/weight_file_builder.h"

namespace quire {
namespace {

constexpr int kMutations = 10000;  // of each parser

// Bytes in an allocation of exactly their size, so that ASan sees the first byte too
// many.
class ExactBytes {
 public:
  explicit ExactBytes(const std::string& text)
      : bytes_(new std::byte[text.size()]), size_(text.size()) {
    if (!text.empty()) std::memcpy(bytes_.get(), text.data(), text.size());
  }
  absl::Span<const std::byte> bytes() const { return {bytes_.get(), size_}; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.get()), size_};
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  size_t size_;
};

// Parses `valid` once as it is, then many broken versions of it.
void Fuzz(const std::vector<std::string>& valid,
          const std::function<absl::Status(const ExactBytes&)>& parse) {
  for (const std::string& input : valid) {
    ASSERT_EQ(parse(ExactBytes(input)), absl::OkStatus()) << input;
  }
  Mutator mutator(20261124);
  int refused = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string input = mutator.Next(valid);
    const absl::Status status = parse(ExactBytes(input));
    if (status.ok()) continue;
    ++refused;
    ASSERT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) ||
                absl::IsNotFound(status))
        << status;
    ASSERT_FALSE(status.message().empty());
    ASSERT_LT(status.message().size(), 4096u);
  }
  EXPECT_GT(refused, kMutations / 4);  // the mutations do break things
}

// Reads every value of every tensor; NaN and infinity are fine.
void ReadAll(const TensorTable& table) {
  for (const auto& [name, view] : table.views()) {
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    DequantizeTo(view, absl::MakeSpan(values));
  }
}

std::string Tensors() {
  return SafetensorsBuilder()
      .AddF32("model.norm.weight", {4})
      .Add("b", "BF16", {2, 3}, std::string(12, '\x3f'))
      .Add("ids", "I64", {2}, std::string(16, '\0'))
      .Add("empty", "F16", {0}, "")
      .Build();
}

TEST(FuzzTest, Safetensors) {
  const std::string padded = SafetensorsBytes(
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F16","shape":[2,1],)"
      R"("data_offsets":[0,4]}}    )",
      "abcd");
  Fuzz({Tensors(), padded}, [](const ExactBytes& input) {
    const auto table = ParseSafetensors(input.bytes());
    if (table.ok()) ReadAll(*table);
    return table.status();
  });
}

TEST(FuzzTest, SafetensorsIndex) {
  Fuzz({R"({"metadata":{"total_size":12},"weight_map":{"a":"model-1.safetensors",)"
        R"("b":"model-2.safetensors"}})"},
       [](const ExactBytes& input) {
         return ParseSafetensorsIndex(input.text()).status();
       });
}

std::string Gguf(uint32_t version) {
  GgufBuilder builder;
  builder.version = version;
  return builder.AddArchitecture("llama")
      .AddMetadata("general.alignment", 4, BytesOf<uint32_t>(32))
      .AddMetadata("general.name", 8, GgufBuilder::String("tiny"))
      .AddMetadata("tokens", 9,
                   absl::StrCat(BytesOf<uint32_t>(8), BytesOf<uint64_t>(2),
                                GgufBuilder::String("a"), GgufBuilder::String("bc")))
      .AddMetadata(
          "scores", 9,
          absl::StrCat(BytesOf<uint32_t>(6), BytesOf<uint64_t>(1), BytesOf(1.0f)))
      .Add("token_embd.weight", GgufBuilder::kF32, {2, 3}, std::string(24, '\1'))
      .Add("blk.0.attn_q.weight", GgufBuilder::kQ4_1, {32, 2}, std::string(40, '\2'))
      .Add("blk.0.attn_k.weight", GgufBuilder::kQ8_0, {32}, std::string(34, '\3'))
      .Add("blk.0.attn_v.weight", GgufBuilder::kQ4_0, {32}, std::string(18, '\4'))
      .Add("output_norm.weight", GgufBuilder::kBF16, {3}, std::string(6, '\5'))
      .Build();
}

TEST(FuzzTest, Gguf) {
  Fuzz({Gguf(2), Gguf(3)}, [](const ExactBytes& input) {
    const auto gguf = ParseGguf(input.bytes());
    if (gguf.ok()) ReadAll(gguf->tensors);
    return gguf.status();
  });
}

const char* const kLlama =
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":8,
        "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,
        "intermediate_size":6,"vocab_size":20,"max_position_embeddings":4096,
        "rms_norm_eps":1e-5,"eos_token_id":[2,3],"bos_token_id":1,"rope_theta":500000.0,
        "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
        "high_freq_factor":4.0,"original_max_position_embeddings":1024}})";
const char* const kQwen =
    R"({"model_type":"qwen3","hidden_size":8,"num_hidden_layers":2,"num_attention_heads":2,
        "num_key_value_heads":2,"intermediate_size":6,"vocab_size":20,
        "use_sliding_window":true,"sliding_window":128,
        "layer_types":["full_attention","sliding_attention"],"rope_parameters":
        {"rope_type":"yarn","rope_theta":1e6,"factor":4,"mscale":1,"mscale_all_dim":0.7,
        "beta_fast":32,"beta_slow":1,"original_max_position_embeddings":256}})";

// What Validate lets through must be safe to compute with.
TEST(FuzzTest, ModelConfig) {
  Fuzz({kLlama, kQwen}, [](const ExactBytes& input) {
    const auto config = ModelConfig::FromJson(input.text());
    if (!config.ok()) return config.status();
    EXPECT_EQ(config->Validate(), absl::OkStatus());
    EXPECT_GT(config->KvBytesPerToken(4), 0);
    for (const double frequency :
         RopeInverseFrequencies(config->rope, config->head_dim, config->max_positions)) {
      EXPECT_TRUE(std::isfinite(frequency) && frequency >= 0) << input.text();
    }
    return absl::OkStatus();
  });
}

ModelConfig LoraModel() { return *ModelConfig::FromJson(kLlama); }

std::string LoraTensors() {
  const std::string stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
  return SafetensorsBuilder()
      .AddF32(stem + "A.weight", {2, 8})
      .AddF32(stem + "B.weight", {8, 2})
      .Build();
}

const char* const kAdapter =
    R"({"peft_type":"LORA","r":2,"lora_alpha":4,"target_modules":["q_proj"],"bias":"none",
        "use_rslora":false,"use_dora":false,"modules_to_save":null,"rank_pattern":{}})";

TEST(FuzzTest, AdapterConfig) {
  const ModelConfig model = LoraModel();
  const std::string file = LoraTensors();
  const auto tensors = ParseSafetensors(AsBytes(file));
  ASSERT_TRUE(tensors.ok());
  Fuzz({kAdapter}, [&](const ExactBytes& input) {
    const auto updates = ParseLora(input.text(), *tensors, model);
    if (!updates.ok()) return updates.status();
    for (const auto& [name, update] : *updates) EXPECT_TRUE(std::isfinite(update.scale));
    return absl::OkStatus();
  });
}

TEST(FuzzTest, AdapterWeights) {
  const ModelConfig model = LoraModel();
  Fuzz({LoraTensors()}, [&](const ExactBytes& input) {
    const auto tensors = ParseSafetensors(input.bytes());
    if (!tensors.ok()) return tensors.status();
    ReadAll(*tensors);
    return ParseLora(kAdapter, *tensors, model).status();
  });
}

TEST(FuzzTest, TokenizerSettingsAndBaseReference) {
  Fuzz({R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","chat_template":[
           {"name":"default","template":"{{ messages }}"}]})",
        R"({"chat_template":"x"})"},
       [](const ExactBytes& input) {
         return ParseTokenizerSettings(input.text()).status();
       });
  Fuzz({absl::StrCat(R"({"file":"a.gguf","bytes":12,"sha256":")", std::string(64, 'f'),
                     "\"}")},
       [](const ExactBytes& input) { return ParseBaseReference(input.text()).status(); });
}

}  // namespace
}  // namespace quire
