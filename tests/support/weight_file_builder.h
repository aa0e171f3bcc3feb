#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"

namespace quire {

// Bytes of values, one after the other, as this little-endian machine keeps them.
template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <typename T>
std::string BytesOf(T value) {
  return BytesOf(std::vector<T>{value});
}

inline absl::Span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// A safetensors file of any header, right or wrong.
inline std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  return absl::StrCat(BytesOf<uint64_t>(header.size()), header, data);
}

// Writes valid safetensors files.
class SafetensorsBuilder {
 public:
  SafetensorsBuilder& Add(const std::string& name, const std::string& dtype,
                          const std::vector<int64_t>& shape, const std::string& bytes) {
    entries_.push_back(absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype,
                                    "\",\"shape\":[", absl::StrJoin(shape, ","),
                                    "],\"data_offsets\":[", data_.size(), ",",
                                    data_.size() + bytes.size(), "]}"));
    data_ += bytes;
    return *this;
  }
  // float32 values 0, 1, 2, ...
  SafetensorsBuilder& AddF32(const std::string& name, const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    return Add(name, "F32", shape, BytesOf(values));
  }
  std::string Build() const {
    return SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries_, ","), "}"), data_);
  }

 private:
  std::vector<std::string> entries_;
  std::string data_;
};

// Writes GGUF files; every field can be overridden to make a wrong one.
class GgufBuilder {
 public:
  enum Type : uint32_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ8_0 = 8,
    kQ4_K = 12,
    kBF16 = 30
  };

  uint32_t magic = 0x46554747;
  uint32_t version = 3;
  uint32_t alignment = 32;

  static std::string String(const std::string& text) {
    return absl::StrCat(BytesOf<uint64_t>(text.size()), text);
  }
  // `value` is the encoded value, without its type.
  GgufBuilder& AddMetadata(const std::string& key, uint32_t type,
                           const std::string& value) {
    absl::StrAppend(&metadata_, String(key), BytesOf(type), value);
    ++metadata_count_;
    return *this;
  }
  GgufBuilder& AddArchitecture(const std::string& name) {
    return AddMetadata("general.architecture", 8, String(name));
  }
  // `dims` innermost first, as the file has them. The tensor's bytes follow those before
  // it.
  GgufBuilder& Add(const std::string& name, uint32_t type,
                   const std::vector<uint64_t>& dims, const std::string& bytes) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    AddAt(name, type, dims, data_.size());
    data_ += bytes;
    return *this;
  }
  GgufBuilder& AddAt(const std::string& name, uint32_t type,
                     const std::vector<uint64_t>& dims, uint64_t offset) {
    absl::StrAppend(&infos_, String(name), BytesOf<uint32_t>(dims.size()), BytesOf(dims));
    absl::StrAppend(&infos_, BytesOf(type), BytesOf(offset));
    ++tensor_count_;
    return *this;
  }
  GgufBuilder& StateCounts(uint64_t tensors, uint64_t metadata) {
    tensor_count_ = tensors;
    metadata_count_ = metadata;
    return *this;
  }
  std::string Build() const {
    std::string file =
        absl::StrCat(BytesOf(magic), BytesOf(version), BytesOf(tensor_count_),
                     BytesOf(metadata_count_), metadata_, infos_);
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data_;
  }

 private:
  std::string metadata_, infos_, data_;
  uint64_t tensor_count_ = 0;
  uint64_t metadata_count_ = 0;
};

}  // namespace quire
