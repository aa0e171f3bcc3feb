#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace quire::cli {

// A text that can be read; it is read again when its turn comes, so that a folder of any
// size takes little memory.
struct DocumentFile {
  std::string path;  // below the folder
  std::string key;   // of its text: equal texts have equal keys, others do not
  int64_t bytes = 0;
};

struct SkippedFile {
  std::string path;
  std::string why;
};

struct DocumentFolder {
  std::vector<DocumentFile> documents;  // by path
  std::vector<SkippedFile> skipped;     // by path
  int64_t others = 0;                   // files of other kinds, which are not looked at
  int64_t not_drawn = 0;                // documents beyond the most there may be
};

struct DocumentLimits {
  int64_t max_documents = 100;
  int64_t max_bytes = int64_t{8} << 20;  // of one document
};

// Files of a folder and the folders in it that are not looked at any more.
inline constexpr int64_t kMaxFolderFiles = 100'000;

// All .txt, .text, .md and .markdown files below the folder. If there are more documents
// than may be, a sample of them, the same for the same seed. Folders that are links are
// not entered. kInvalidArgument: there is no such folder, it cannot be read, or it has
// more than kMaxFolderFiles.
absl::StatusOr<DocumentFolder> FindDocuments(const std::string& folder,
                                             const DocumentLimits& limits, uint64_t seed);

// The text of a document; kFailedPrecondition: it is another one than when the folder was
// read.
absl::StatusOr<std::string> ReadAgain(const std::string& folder,
                                      const DocumentFile& document);

// A text's key: 32 hexadecimal digits.
std::string TextKey(std::string_view text);

}  // namespace quire::cli
