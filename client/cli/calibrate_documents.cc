#include "client/cli/calibrate_documents.h"

#include <algorithm>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/document.h"
#include "client/cli/format.h"
#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

namespace fs = std::filesystem;

// FNV-1a; with two beginnings there are 128 bits. Nobody attacks a folder of their own.
uint64_t Fnv(std::string_view text, uint64_t hash) {
  for (const char byte : text) {
    hash ^= static_cast<unsigned char>(byte);
    hash *= 0x100000001B3;
  }
  return hash;
}

bool IsDocumentName(const fs::path& path) {
  const std::string extension = absl::AsciiStrToLower(path.extension().string());
  return extension == ".txt" || extension == ".text" || extension == ".md" ||
         extension == ".markdown";
}

// Paths of the folder's documents, relative to it.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder,
                                                    int64_t& others) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot read \"", folder,
        "\": ", error ? error.message() : std::string("it is not a folder")));
  }
  std::vector<std::string> paths;
  fs::recursive_directory_iterator entry(
      folder, fs::directory_options::skip_permission_denied, error);
  int64_t files = 0;
  for (; !error && entry != fs::end(entry); entry.increment(error)) {
    std::error_code unreadable;
    if (!entry->is_regular_file(unreadable)) continue;
    if (++files > kMaxFolderFiles) {
      return absl::InvalidArgumentError(absl::StrCat("\"", folder, "\" has more than ",
                                                     WithCommas(kMaxFolderFiles),
                                                     " files; name a smaller folder"));
    }
    if (!IsDocumentName(entry->path())) {
      ++others;
      continue;
    }
    paths.push_back(entry->path().lexically_relative(folder).string());
  }
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read \"", folder, "\": ", error.message()));
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// Empty: it is a text that can be sent.
std::string Unfit(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) {
    return absl::StrFormat("binary: byte %d is zero", text.find('\0'));
  }
  if (const auto bad = FirstInvalidUtf8(text)) {
    return absl::StrFormat("not UTF-8: byte 0x%02X at offset %d",
                           static_cast<unsigned char>(text[*bad]), *bad);
  }
  const bool blank = text.find_first_not_of(" \t\r\n") == std::string_view::npos;
  return blank ? "nothing but white space" : "";
}

// The text of a file; kInvalidArgument says what is wrong without the file's name.
absl::StatusOr<std::string> ReadFile(const fs::path& path, int64_t max_bytes) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) return absl::InvalidArgumentError(error.message());
  if (bytes == 0) return absl::InvalidArgumentError("empty");
  if (static_cast<int64_t>(bytes) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(Bytes(static_cast<int64_t>(bytes)),
                                                   "; a document has at most ",
                                                   Bytes(max_bytes)));
  }
  absl::StatusOr<std::string> text = ReadFileBytes(path.string());
  if (!text.ok()) return text;
  if (const std::string why = Unfit(*text); !why.empty()) {
    return absl::InvalidArgumentError(why);
  }
  return text;
}

// Every one with the same chance, in their old order.
void Sample(std::vector<std::string>& paths, int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t left = paths.size(); left > static_cast<size_t>(count); --left) {
    const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;
    const auto at = static_cast<size_t>(uniform * static_cast<double>(left));
    paths.erase(paths.begin() + static_cast<std::ptrdiff_t>(at));
  }
}

}  // namespace

std::string TextKey(std::string_view text) {
  return absl::StrFormat("%016x%016x", Fnv(text, 0xCBF29CE484222325),
                         Fnv(text, 0x6C62272E07BB0142));
}

absl::StatusOr<DocumentFolder> FindDocuments(const std::string& folder,
                                             const DocumentLimits& limits,
                                             uint64_t seed) {
  DocumentFolder found;
  auto paths = ListFolder(folder, found.others);
  if (!paths.ok()) return paths.status();
  const auto all = static_cast<int64_t>(paths->size());
  Sample(*paths, limits.max_documents, seed);
  found.not_drawn = all - static_cast<int64_t>(paths->size());
  absl::flat_hash_map<std::string, std::string> known;  // key: path
  for (std::string& path : *paths) {
    const auto text = ReadFile(fs::path(folder) / path, limits.max_bytes);
    if (!text.ok()) {
      found.skipped.push_back({std::move(path), std::string(text.status().message())});
      continue;
    }
    const std::string key = TextKey(*text);
    if (const auto [same, is_new] = known.emplace(key, path); !is_new) {
      found.skipped.push_back(
          {std::move(path), absl::StrCat("the same text as ", same->second)});
      continue;
    }
    found.documents.push_back({std::move(path), key, static_cast<int64_t>(text->size())});
  }
  return found;
}

absl::StatusOr<std::string> ReadAgain(const std::string& folder,
                                      const DocumentFile& document) {
  absl::StatusOr<std::string> text =
      ReadFile(fs::path(folder) / document.path, document.bytes);
  if (text.ok() && TextKey(*text) == document.key) return text;
  return absl::FailedPreconditionError(absl::StrCat(
      "\"", document.path, "\" was changed while it was read; run the command again"));
}

}  // namespace quire::cli
