#include "core/weights/base_reference.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/config/json_reader.h"
#include "core/weights/safetensors.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxBytes = 1 << 16;
constexpr size_t kShaDigits = 64;

bool IsSha256(const std::string& text) {
  return text.size() == kShaDigits &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return absl::ascii_isxdigit(c); });
}

absl::Status CheckSize(const fs::path& path, int64_t wanted) {
  std::error_code error;
  const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
  if (error || wanted == 0 || bytes == wanted)
    return absl::OkStatus();  // opening says more
  return absl::InvalidArgumentError(absl::StrCat(path.string(), " has ", bytes,
                                                 " bytes; base.json says ", wanted,
                                                 ": run deploy/setup.sh again"));
}

}  // namespace

absl::StatusOr<BaseReference> ParseBaseReference(std::string_view text) {
  QUIRE_ASSIGN_OR_RETURN(const nlohmann::json object,
                         ParseJsonObject(text, "base.json", kMaxBytes));
  JsonReader reader(object, "base.json");
  reader.RefuseUnknown({"file", "sha256", "bytes"});
  BaseReference base;
  base.file = reader.String("file", std::nullopt);
  base.sha256 = reader.String("sha256", std::nullopt);
  base.bytes = reader.Int("bytes", 0, 1, INT64_MAX);
  const bool known =
      absl::EndsWith(base.file, ".gguf") || absl::EndsWith(base.file, ".safetensors");
  if (!IsPlainFileName(base.file) || !known) {
    reader.Fail(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("file is ", ShowJson(base.file),
                     "; it must be the plain name of a .gguf or .safetensors file"));
  }
  if (!IsSha256(base.sha256)) {
    reader.Fail(absl::StatusCode::kInvalidArgument,
                absl::StrCat("sha256 is ", ShowJson(base.sha256),
                             "; it must be 64 hexadecimal digits"));
  }
  QUIRE_RETURN_IF_ERROR(reader.status());
  return base;
}

absl::StatusOr<std::string> FindBaseFile(const BaseReference& base,
                                         const std::string& folder,
                                         const std::string& base_dir) {
  for (const std::string& place : {folder, base_dir}) {
    std::error_code error;
    const fs::path path = fs::path(place) / base.file;
    if (place.empty() || !fs::exists(path, error)) continue;
    QUIRE_RETURN_IF_ERROR(CheckSize(path, base.bytes));
    return path.string();
  }
  return absl::NotFoundError(
      absl::StrCat("the base weights ", base.file, " are neither in ", folder,
                   " nor in $QUIRE_BASE_DIR (", base_dir.empty() ? "not set" : base_dir,
                   "): run deploy/setup.sh"));
}

}  // namespace quire
