#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quire {

// A read-only memory-mapped file. Movable; the bytes live as long as it, and moving it
// does not move them. Safe to read from several threads.
class MappedFile {
 public:
  // kNotFound: no such file; kPermissionDenied; kInvalidArgument: not a regular file.
  // An empty file gives an empty span. Messages name the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::Span<const std::byte> bytes() const { return bytes_; }

  // Tells the kernel that the bytes will not be read again soon, so that they stop
  // counting as this process's resident memory. They stay readable.
  void Release() const;

 private:
  explicit MappedFile(absl::Span<const std::byte> bytes) : bytes_(bytes) {}
  absl::Span<const std::byte> bytes_;
};

}  // namespace quire
