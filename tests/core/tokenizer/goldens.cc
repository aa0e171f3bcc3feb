#include "tests/core/tokenizer/goldens.h"

#include <fstream>
#include <map>

#include "core/base/check.h"
#include "gtest/gtest.h"

namespace quire::testing {
namespace {

std::string PathOf(const std::string& name) {
  const bool bundled = name.starts_with("quire-");
  return bundled ? std::string(QUIRE_MODELS_DIR) + "/" + name + "/tokenizer.json"
                 : std::string(QUIRE_TESTDATA_DIR) + "/tokenizer/" + name + ".json";
}

std::string Repeat(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

}  // namespace

std::vector<NastyText> NastyTexts() {
  std::vector<NastyText> texts;
  for (const nlohmann::json& item : GoldenJson("nasty_texts.json")) {
    texts.push_back({item["name"], Repeat(item["text"], item.value("repeat", 1))});
  }
  return texts;
}

std::string LongText() {
  std::string joined;
  for (const NastyText& nasty : NastyTexts()) joined += nasty.text + " and so on ";
  std::string result;
  for (int i = 0; i < 36; ++i) result += joined.substr(i % 7);
  return result;
}

uint64_t Digest(const std::vector<TokenId>& ids) {
  uint64_t value = ids.size();
  for (const TokenId id : ids) value = value * 1000003 + static_cast<uint64_t>(id);
  return value;
}

nlohmann::json GoldenJson(const std::string& file) {
  const std::string path = std::string(QUIRE_TESTDATA_DIR) + "/tokenizer/" + file;
  std::ifstream stream(path);
  EXPECT_TRUE(stream.good()) << path;
  return nlohmann::json::parse(stream);
}

const std::vector<std::string>& TokenizerNames() {
  static const auto* names = new std::vector<std::string>{
      "quire-135m", "quire-19m", "llama2_like", "llama3_like", "qwen_like"};
  return *names;
}

const Tokenizer& NamedTokenizer(const std::string& name) {
  static auto* loaded = new std::map<std::string, Tokenizer>;
  auto found = loaded->find(name);
  if (found == loaded->end()) {
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(PathOf(name));
    QUIRE_CHECK(tokenizer.ok());
    found = loaded->emplace(name, *std::move(tokenizer)).first;
  }
  return found->second;
}

std::vector<TokenId> Ids(const Tokenizer& tokenizer, const std::string& text,
                         bool add_special, bool parse_special) {
  const auto ids = tokenizer.Encode(text, add_special, parse_special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<TokenId>();
}

}  // namespace quire::testing
