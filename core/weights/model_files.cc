#include "core/weights/model_files.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/weights/base_reference.h"
#include "core/weights/file_weight_source.h"
#include "core/weights/tokenizer_settings.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMaxTokenizerConfigBytes = 16 << 20;
constexpr size_t kMaxFolderEntries = 10000;

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

absl::Status RequireFile(const fs::path& path) {
  if (Exists(path)) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("there is no ", path.string()));
}

absl::StatusOr<std::optional<std::string>> ReadOptional(const fs::path& path,
                                                        int64_t max_bytes) {
  if (!Exists(path)) return std::optional<std::string>();
  QUIRE_ASSIGN_OR_RETURN(std::string text, ReadTextFile(path.string(), max_bytes));
  return std::optional<std::string>(std::move(text));
}

absl::StatusOr<ModelConfig> ReadConfig(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  QUIRE_RETURN_IF_ERROR(RequireFile(path));
  QUIRE_ASSIGN_OR_RETURN(const std::string text,
                         ReadTextFile(path.string(), kMaxConfigBytes));
  absl::StatusOr<ModelConfig> config = ModelConfig::FromJson(text);
  if (!config.ok()) return WithContext(config.status(), folder.string());
  return config;
}

// The folder's only *.gguf file. kNotFound if there is none.
absl::StatusOr<std::string> FindGguf(const fs::path& folder) {
  std::vector<std::string> found;
  std::error_code error;
  size_t entries = 0;
  for (fs::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    if (++entries > kMaxFolderEntries) break;
    if (it->path().extension() == ".gguf")
      found.push_back(it->path().filename().string());
  }
  if (found.size() == 1) return (folder / found[0]).string();
  if (found.empty()) {
    return absl::NotFoundError(absl::StrCat(
        "there are no weights in ", folder.string(),
        ": model.safetensors, model.safetensors.index.json, base.json or a .gguf "
        "file is wanted"));
  }
  return absl::InvalidArgumentError(absl::StrCat(folder.string(), " has ", found.size(),
                                                 " .gguf files (", found[0], ", ",
                                                 found[1], "...); one is wanted"));
}

absl::StatusOr<std::string> FindBase(const fs::path& folder) {
  QUIRE_ASSIGN_OR_RETURN(const std::string text,
                         ReadTextFile((folder / "base.json").string(), kMaxConfigBytes));
  const absl::StatusOr<BaseReference> base = ParseBaseReference(text);
  if (!base.ok()) return WithContext(base.status(), folder.string());
  const char* base_dir = std::getenv("QUIRE_BASE_DIR");
  return FindBaseFile(*base, folder.string(), base_dir == nullptr ? "" : base_dir);
}

absl::StatusOr<WeightFiles> OpenBaseWeights(const fs::path& folder,
                                            const ModelConfig& config) {
  const fs::path single = folder / "model.safetensors";
  if (Exists(single)) return OpenWeightFile(single.string(), config);
  const fs::path index = folder / "model.safetensors.index.json";
  if (Exists(index)) return OpenSafetensorsShards(index.string());
  QUIRE_ASSIGN_OR_RETURN(const std::string path, Exists(folder / "base.json")
                                                     ? FindBase(folder)
                                                     : FindGguf(folder));
  return OpenWeightFile(path, config);
}

absl::StatusOr<WeightFiles> OpenWeights(const fs::path& folder,
                                        const ModelConfig& config) {
  QUIRE_ASSIGN_OR_RETURN(WeightFiles files, OpenBaseWeights(folder, config));
  const std::string beyond =
      absl::StrCat("model.layers.", config.num_layers, ".input_layernorm.weight");
  if (files.tensors.Has(beyond)) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder.string(), ": the weights hold ", beyond,
                     ", but num_hidden_layers of config.json is ", config.num_layers));
  }
  if (Exists(folder / "adapter_config.json")) {
    QUIRE_RETURN_IF_ERROR(AddAdapter(folder.string(), config, files));
  }
  return files;
}

// chat_template.jinja wins over tokenizer_config.json, as in transformers.
absl::StatusOr<TokenizerSettings> ReadTokenizerSettings(const fs::path& folder) {
  TokenizerSettings settings;
  QUIRE_ASSIGN_OR_RETURN(
      const std::optional<std::string> text,
      ReadOptional(folder / "tokenizer_config.json", kMaxTokenizerConfigBytes));
  if (text.has_value()) {
    absl::StatusOr<TokenizerSettings> parsed = ParseTokenizerSettings(*text);
    if (!parsed.ok()) return WithContext(parsed.status(), folder.string());
    settings = *std::move(parsed);
  }
  QUIRE_ASSIGN_OR_RETURN(std::optional<std::string> jinja,
                         ReadOptional(folder / "chat_template.jinja", kMaxConfigBytes));
  if (jinja.has_value()) settings.chat_template = *std::move(jinja);
  return settings;
}

// The folder without a trailing slash, so that its last part is the model's name. Links
// stay: their own name is what the user calls the model.
fs::path Normalized(const std::string& folder) {
  std::error_code error;
  fs::path path = fs::absolute(folder, error).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

absl::StatusOr<ModelFiles> OpenModelFiles(const std::string& folder) {
  const fs::path path = Normalized(folder);
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat("there is no model folder ", folder));
  }
  ModelFiles files;
  files.name = path.filename().string();
  files.path = path.string();
  QUIRE_ASSIGN_OR_RETURN(files.config, ReadConfig(path));
  files.tokenizer_path = (path / "tokenizer.json").string();
  QUIRE_RETURN_IF_ERROR(RequireFile(files.tokenizer_path));
  QUIRE_ASSIGN_OR_RETURN(TokenizerSettings settings, ReadTokenizerSettings(path));
  files.chat_template = std::move(settings.chat_template);
  files.bos_token = std::move(settings.bos_token);
  files.eos_token = std::move(settings.eos_token);
  QUIRE_ASSIGN_OR_RETURN(files.prompts_json,
                         ReadOptional(path / "prompts.json", kMaxConfigBytes));
  QUIRE_ASSIGN_OR_RETURN(files.generation_config_json,
                         ReadOptional(path / "generation_config.json", kMaxConfigBytes));
  QUIRE_ASSIGN_OR_RETURN(WeightFiles weights, OpenWeights(path, files.config));
  files.weight_file_bytes = weights.total_bytes();
  files.weights = MakeWeightSource(std::move(weights));
  return files;
}

}  // namespace quire
