#include "core/text_model/text_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

GenerationDefaults Defaults(std::string_view json) {
  return GenerationDefaults::FromJson(json).value();
}

TEST(GenerationDefaultsTest, EmptyIsGreedy) {
  const GenerationDefaults defaults = Defaults("{}");
  EXPECT_EQ(defaults.sampling.temperature, 0.0f);
  EXPECT_EQ(defaults.sampling.top_k, 0);
  EXPECT_EQ(defaults.sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(defaults.max_new_tokens, 512);
  EXPECT_THAT(defaults.stop_tokens, ElementsAre());
}

TEST(GenerationDefaultsTest, WithoutDoSampleTheRestIsNotUsed) {
  const GenerationDefaults defaults = Defaults(
      R"({"do_sample": false, "temperature": 0.7, "top_k": 5, "top_p": 0.9,
          "repetition_penalty": 1.1, "no_repeat_ngram_size": 4, "max_new_tokens": 420,
          "eos_token_id": 2, "transformers_version": "5.0"})");
  EXPECT_EQ(defaults.sampling.temperature, 0.0f);
  EXPECT_EQ(defaults.sampling.top_k, 0);
  EXPECT_EQ(defaults.sampling.top_p, 1.0f);
  EXPECT_FLOAT_EQ(defaults.sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(defaults.sampling.no_repeat_ngram, 4);
  EXPECT_EQ(defaults.max_new_tokens, 420);
  EXPECT_THAT(defaults.stop_tokens, ElementsAre(2));
}

TEST(GenerationDefaultsTest, Sampling) {
  const GenerationDefaults defaults = Defaults(
      R"({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "min_p": 0.1,
          "eos_token_id": [5, 3]})");
  EXPECT_FLOAT_EQ(defaults.sampling.temperature, 0.7f);
  EXPECT_FLOAT_EQ(defaults.sampling.top_p, 0.8f);
  EXPECT_FLOAT_EQ(defaults.sampling.min_p, 0.1f);
  EXPECT_EQ(defaults.sampling.top_k, 50);  // transformers' own
  EXPECT_THAT(defaults.stop_tokens, ElementsAre(5, 3));
}

TEST(GenerationDefaultsTest, RefusesAndNamesTheField) {
  for (const auto& [json, field] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "generation_config.json"},
           {R"({"do_sample": "yes"})", "do_sample"},
           {R"({"temperature": -1})", "temperature"},
           {R"({"top_p": 1.5})", "top_p"},
           {R"({"max_new_tokens": 0})", "max_new_tokens"},
           {R"({"repetition_penalty": 0})", "repetition_penalty"},
           {R"({"eos_token_id": -2})", "eos_token_id"}}) {
    const absl::Status status = GenerationDefaults::FromJson(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
}

// The folder's facts without its weights.
ModelFiles Files() {
  ModelFiles files;
  files.name = "tiny";
  files.config.vocab_size = 49152;
  files.config.max_positions = 32768;
  files.config.eos_tokens = {2};
  files.tokenizer_path = std::string(QUIRE_MODELS_DIR) + "/quire-135m/tokenizer.json";
  return files;
}

TEST(TextModelTest, BaseModel) {
  const TextModel model = TextModel::FromFiles(Files()).value();
  EXPECT_EQ(model.name, "tiny");
  EXPECT_EQ(model.context_tokens(), 32768);
  EXPECT_FALSE(model.instruction_tuned());
  EXPECT_FALSE(model.chat_template.has_value());
  EXPECT_EQ(model.engine, nullptr);
  EXPECT_THAT(model.stop_tokens, ElementsAre(2));
}

TEST(TextModelTest, PromptsOfTheChatTemplate) {
  ModelFiles files = Files();
  files.chat_template = "{{ messages[0]['content'] }}\n{{ eos_token }}";
  files.eos_token = "<|endoftext|>";  // id 0
  files.generation_config_json = R"({"eos_token_id": [7, 2]})";
  const TextModel model = TextModel::FromFiles(files).value();
  EXPECT_TRUE(model.chat_template.has_value());
  EXPECT_TRUE(model.instruction_tuned());
  EXPECT_EQ(model.prompts->max_new_tokens(), 512);
  EXPECT_THAT(model.stop_tokens, ElementsAre(0, 2, 7));
}

TEST(TextModelTest, PromptsJsonComesFirst) {
  ModelFiles files = Files();
  files.chat_template = "{{ messages[0]['content'] }}";
  files.prompts_json =
      R"({"prefix": "", "suffix": "", "summarize": "Go.", "max_new_tokens": 9})";
  const TextModel model = TextModel::FromFiles(files).value();
  EXPECT_EQ(model.prompts->max_new_tokens(), 9);
}

TEST(TextModelTest, TemplateThatNeedsMoreThanAUserMessageGivesNoPrompts) {
  ModelFiles files = Files();
  files.chat_template = "{{ raise_exception('no system message') }}";
  const TextModel model = TextModel::FromFiles(files).value();
  EXPECT_TRUE(model.chat_template.has_value());
  EXPECT_FALSE(model.instruction_tuned());
}

TEST(TextModelTest, Refusals) {
  ModelFiles files = Files();
  files.tokenizer_path = "nowhere/tokenizer.json";
  EXPECT_EQ(TextModel::FromFiles(files).status().code(), absl::StatusCode::kNotFound);

  files = Files();
  files.config.vocab_size = 1000;
  absl::Status status = TextModel::FromFiles(files).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("49152"));

  files = Files();
  files.generation_config_json = R"({"eos_token_id": 49152})";
  status = TextModel::FromFiles(files).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("eos_token_id is 49152"));

  files = Files();
  files.chat_template = "{% if %}";
  EXPECT_EQ(TextModel::FromFiles(files).status().code(),
            absl::StatusCode::kInvalidArgument);

  files = Files();
  files.prompts_json = "{}";
  EXPECT_EQ(TextModel::FromFiles(files).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire
