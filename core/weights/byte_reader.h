#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/base/status_macros.h"

namespace quire {

// Reads little-endian values one after the other and never past the end. `what` names the
// value in messages. Not thread-safe; borrows the bytes.
class ByteReader {
 public:
  explicit ByteReader(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    T value;
    if (remaining() < sizeof(T)) return Truncated(sizeof(T), what);
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  // A 64-bit length and that many bytes.
  absl::StatusOr<std::string_view> ReadString(absl::string_view what) {
    QUIRE_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + position_;
    QUIRE_RETURN_IF_ERROR(Skip(length, what));
    return std::string_view(begin, length);
  }

  absl::Status Skip(uint64_t count, absl::string_view what) {
    if (count > remaining()) return Truncated(count, what);
    position_ += count;
    return absl::OkStatus();
  }

 private:
  absl::Status Truncated(uint64_t wanted, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(
        "the file ends within ", what, ": ", wanted, " bytes wanted at byte ", position_,
        ", ", remaining(), " are left"));
  }

  absl::Span<const std::byte> bytes_;
  size_t position_ = 0;
};

}  // namespace quire
