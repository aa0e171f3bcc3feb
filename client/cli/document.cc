#include "client/cli/document.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_format.h"
#include "client/cli/fd_streams.h"
#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

constexpr size_t kReadBytes = size_t{1} << 18;

absl::Status CannotRead(const std::string& name, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat("cannot read %s: %s", name, why));
}

absl::StatusOr<std::string> ReadAll(const std::string& name, Input& in) {
  std::string bytes;
  while (true) {
    const size_t size = bytes.size();
    bytes.resize(size + kReadBytes);
    const absl::StatusOr<size_t> count = in.Read(bytes.data() + size, kReadBytes);
    if (absl::IsCancelled(count.status())) return count.status();
    if (!count.ok()) return CannotRead(name, std::string(count.status().message()));
    bytes.resize(size + *count);
    if (*count == 0) break;
    if (bytes.size() > kMaxDocumentBytes) {
      return CannotRead(name,
                        absl::StrFormat("it has more than %d bytes", kMaxDocumentBytes));
    }
  }
  if (bytes.empty())
    return absl::InvalidArgumentError(absl::StrFormat("%s is empty", name));
  return bytes;
}

std::string NameOf(const std::string& path) {
  return path == "-" ? "standard input" : absl::StrFormat("\"%s\"", path);
}

absl::StatusOr<std::string> ReadBytes(const std::string& path, Input& in) {
  const std::string name = NameOf(path);
  if (path == "-") return ReadAll(name, in);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return CannotRead(name, std::strerror(errno));
  const absl::Cleanup close_file = [fd] { close(fd); };
  FdInput file(fd, /*interrupt_fd=*/-1);
  return ReadAll(name, file);
}

}  // namespace

absl::StatusOr<std::string> ReadFileBytes(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::InvalidArgumentError(std::strerror(errno));
  const absl::Cleanup close_file = [fd] { close(fd); };
  FdInput file(fd, /*interrupt_fd=*/-1);
  std::string bytes;
  while (true) {
    const size_t size = bytes.size();
    bytes.resize(size + kReadBytes);
    const absl::StatusOr<size_t> count = file.Read(bytes.data() + size, kReadBytes);
    if (!count.ok()) return absl::InvalidArgumentError(count.status().message());
    bytes.resize(size + *count);
    if (*count == 0) return bytes;
  }
}

absl::StatusOr<std::string> ReadDocument(const std::string& path, Input& in) {
  absl::StatusOr<std::string> text = ReadBytes(path, in);
  if (!text.ok()) return text;
  const auto bad = FirstInvalidUtf8(*text);
  if (!bad) return text;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is not UTF-8: byte 0x%02X at offset %d; convert it first, for "
                      "example with iconv",
                      NameOf(path), static_cast<unsigned char>((*text)[*bad]), *bad));
}

}  // namespace quire::cli
