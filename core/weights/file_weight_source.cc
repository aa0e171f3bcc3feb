#include "core/weights/file_weight_source.h"

#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/weights/gguf.h"
#include "core/weights/safetensors.h"

namespace quire {
namespace {

constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr int64_t kMaxAdapterConfigBytes = 1 << 20;
constexpr size_t kMaxShards = 1024;

class FileWeightSource final : public WeightSource {
 public:
  explicit FileWeightSource(WeightFiles files) : files_(std::move(files)) {}

  bool Has(std::string_view name) const override { return files_.tensors.Has(name); }
  absl::StatusOr<TensorView> Get(std::string_view name,
                                 absl::Span<const int64_t> shape) const override {
    return files_.tensors.Get(name, shape);
  }
  const LoraUpdate* Lora(std::string_view name) const override {
    const auto update = files_.lora.find(name);
    return update == files_.lora.end() ? nullptr : &update->second;
  }
  bool QkRowsInterleaved() const override { return files_.qk_rows_interleaved; }
  std::vector<std::string> names() const override { return files_.tensors.names(); }
  void Release() const override {
    for (const MappedFile& file : files_.files) file.Release();
  }

 private:
  const WeightFiles files_;
};

absl::string_view GgufArchitecture(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
    case Architecture::kMistral:
      return "llama";  // GGUF files call Mistral so, too
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
  }
  return "";
}

absl::Status ReadGguf(absl::Span<const std::byte> bytes, const ModelConfig& config,
                      WeightFiles& files) {
  QUIRE_ASSIGN_OR_RETURN(GgufContents contents, ParseGguf(bytes));
  const absl::string_view wanted = GgufArchitecture(config.architecture);
  if (contents.architecture != wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("general.architecture is '", contents.architecture.substr(0, 40),
                     "'; config.json's model_type wants '", wanted, "'"));
  }
  files.tensors = std::move(contents.tensors);
  files.qk_rows_interleaved = wanted == "llama";
  return absl::OkStatus();
}

absl::StatusOr<MappedFile> OpenShard(const std::string& path,
                                     const std::string& index_path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (file.ok() || !absl::IsNotFound(file.status())) return file;
  return absl::NotFoundError(
      absl::StrCat("shard ", path, ", which ", index_path, " names, is missing"));
}

// The tensors that the index says are in this shard, no others.
absl::Status AddShard(const std::string& path, const std::set<std::string>& names,
                      absl::Span<const std::byte> bytes, WeightFiles& files) {
  absl::StatusOr<TensorTable> table = ParseSafetensors(bytes);
  if (!table.ok()) return WithContext(table.status(), path);
  for (const std::string& name : names) {
    absl::StatusOr<TensorView> view = table->Find(name);
    if (!view.ok()) return WithContext(view.status(), path);
    QUIRE_RETURN_IF_ERROR(files.tensors.Add(name, *std::move(view)));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t WeightFiles::total_bytes() const {
  int64_t total = 0;
  for (const MappedFile& file : files) total += static_cast<int64_t>(file.bytes().size());
  return total;
}

std::shared_ptr<const WeightSource> MakeWeightSource(WeightFiles files) {
  return std::make_shared<FileWeightSource>(std::move(files));
}

absl::Status WithContext(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes) {
  QUIRE_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const absl::Span<const std::byte> bytes = file.bytes();
  if (static_cast<int64_t>(bytes.size()) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has ", bytes.size(), " bytes; at most ", max_bytes, " are allowed"));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<WeightFiles> OpenWeightFile(const std::string& path,
                                           const ModelConfig& config) {
  WeightFiles files;
  QUIRE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  if (absl::EndsWith(path, ".gguf")) {
    QUIRE_RETURN_IF_ERROR(WithContext(ReadGguf(file.bytes(), config, files), path));
  } else {
    absl::StatusOr<TensorTable> table = ParseSafetensors(file.bytes());
    if (!table.ok()) return WithContext(table.status(), path);
    files.tensors = *std::move(table);
  }
  files.files.push_back(std::move(file));
  return files;
}

absl::StatusOr<WeightFiles> OpenSafetensorsShards(const std::string& index_path) {
  QUIRE_ASSIGN_OR_RETURN(const std::string text,
                         ReadTextFile(index_path, kMaxIndexBytes));
  absl::StatusOr<std::map<std::string, std::string>> index = ParseSafetensorsIndex(text);
  if (!index.ok()) return WithContext(index.status(), index_path);
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, file] : *index) shards[file].insert(tensor);
  if (shards.size() > kMaxShards) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, " names ", shards.size(),
                                                   " shards; at most ", kMaxShards,
                                                   " are allowed"));
  }
  const std::filesystem::path folder = std::filesystem::path(index_path).parent_path();
  WeightFiles files;
  for (const auto& [name, tensors] : shards) {
    const std::string path = (folder / name).string();
    QUIRE_ASSIGN_OR_RETURN(MappedFile file, OpenShard(path, index_path));
    QUIRE_RETURN_IF_ERROR(AddShard(path, tensors, file.bytes(), files));
    files.files.push_back(std::move(file));
  }
  return files;
}

absl::Status AddAdapter(const std::string& folder, const ModelConfig& config,
                        WeightFiles& files) {
  const std::string config_path = folder + "/adapter_config.json";
  const std::string weights_path = folder + "/adapter_model.safetensors";
  QUIRE_ASSIGN_OR_RETURN(const std::string text,
                         ReadTextFile(config_path, kMaxAdapterConfigBytes));
  QUIRE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(weights_path));
  const absl::StatusOr<TensorTable> table = ParseSafetensors(file.bytes());
  if (!table.ok()) return WithContext(table.status(), weights_path);
  absl::StatusOr<LoraUpdates> lora = ParseLora(text, *table, config);
  if (!lora.ok()) {
    return WithContext(lora.status(), weights_path + " (with adapter_config.json)");
  }
  files.lora = *std::move(lora);
  files.files.push_back(std::move(file));
  return absl::OkStatus();
}

}  // namespace quire
