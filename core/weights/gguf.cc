#include "core/weights/gguf.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/to_absl.h"
#include "core/weights/byte_reader.h"

namespace quire {
namespace {

constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxNameBytes = 256;
constexpr uint64_t kMaxTensors = 1 << 20;
constexpr uint64_t kMaxMetadata = 1 << 20;
// The shortest that an entry can be: empty name, one dimension or a one-byte value.
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;
constexpr uint64_t kMinMetadataBytes = 8 + 4 + 1;

enum ValueType : uint32_t { kUint32 = 4, kBool = 7, kString = 8, kArray = 9 };
// Bytes of a value of each type; 0 for strings and arrays, which say their own length.
constexpr std::array<uint64_t, 13> kValueBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct TypeEntry {
  uint32_t id;
  const char* name;
  std::optional<DType> dtype;
};

// ggml's types by their number, so that a refusal can name one.
constexpr std::array<TypeEntry, 36> kTypes = {{
    {0, "F32", DType::kF32},        {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},      {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", std::nullopt},      {7, "Q5_1", std::nullopt},
    {8, "Q8_0", DType::kQ8_0},      {9, "Q8_1", std::nullopt},
    {10, "Q2_K", std::nullopt},     {11, "Q3_K", std::nullopt},
    {12, "Q4_K", std::nullopt},     {13, "Q5_K", std::nullopt},
    {14, "Q6_K", std::nullopt},     {15, "Q8_K", std::nullopt},
    {16, "IQ2_XXS", std::nullopt},  {17, "IQ2_XS", std::nullopt},
    {18, "IQ3_XXS", std::nullopt},  {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt},   {21, "IQ3_S", std::nullopt},
    {22, "IQ2_S", std::nullopt},    {23, "IQ4_XS", std::nullopt},
    {24, "I8", std::nullopt},       {25, "I16", std::nullopt},
    {26, "I32", std::nullopt},      {27, "I64", std::nullopt},
    {28, "F64", std::nullopt},      {29, "IQ1_M", std::nullopt},
    {30, "BF16", DType::kBF16},     {31, "Q4_0_4_4", std::nullopt},
    {32, "Q4_0_4_8", std::nullopt}, {33, "Q4_0_8_8", std::nullopt},
    {34, "TQ1_0", std::nullopt},    {35, "TQ2_0", std::nullopt},
    {39, "MXFP4", std::nullopt},    {40, "NVFP4", std::nullopt},
}};

absl::StatusOr<DType> TypeOf(uint32_t id, absl::string_view tensor) {
  const auto entry = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const TypeEntry& type) { return type.id == id; });
  if (entry != kTypes.end() && entry->dtype.has_value()) return *entry->dtype;
  const std::string name =
      entry == kTypes.end() ? absl::StrCat("number ", id) : std::string(entry->name);
  return absl::UnimplementedError(
      absl::StrCat("tensor ", tensor, " has type ", name,
                   "; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are supported"));
}

bool IsPrintable(std::string_view name) {
  return std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return absl::ascii_isprint(c); });
}

absl::StatusOr<std::string_view> ReadName(ByteReader& reader, absl::string_view what) {
  QUIRE_ASSIGN_OR_RETURN(const std::string_view name, reader.ReadString(what));
  if (name.empty() || name.size() > kMaxNameBytes || !IsPrintable(name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " is '", absl::CHexEscape(ToAbsl(name.substr(0, 40))), "' (", name.size(),
        " bytes); it must be 1 to ", kMaxNameBytes, " printable ASCII characters"));
  }
  return name;
}

struct Counts {
  uint64_t tensors = 0;
  uint64_t metadata = 0;
};

absl::Status CheckCount(absl::string_view what, uint64_t count, uint64_t room) {
  if (count <= room) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the file states ", count, " ", what,
                                                 "; at most ", room, " are possible"));
}

absl::StatusOr<Counts> ReadHeader(ByteReader& reader) {
  QUIRE_ASSIGN_OR_RETURN(const uint32_t magic, reader.Read<uint32_t>("the header"));
  if (magic != 0x46554747) {  // "GGUF"
    return absl::InvalidArgumentError("the file does not begin with GGUF");
  }
  QUIRE_ASSIGN_OR_RETURN(const uint32_t version, reader.Read<uint32_t>("the header"));
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(
        absl::StrCat("the file is GGUF version ", version, "; 2 and 3 are supported"));
  }
  Counts counts;
  QUIRE_ASSIGN_OR_RETURN(counts.tensors, reader.Read<uint64_t>("the header"));
  QUIRE_ASSIGN_OR_RETURN(counts.metadata, reader.Read<uint64_t>("the header"));
  QUIRE_RETURN_IF_ERROR(
      CheckCount("tensors", counts.tensors,
                 std::min(kMaxTensors, reader.remaining() / kMinTensorBytes)));
  QUIRE_RETURN_IF_ERROR(
      CheckCount("metadata entries", counts.metadata,
                 std::min(kMaxMetadata, reader.remaining() / kMinMetadataBytes)));
  return counts;
}

absl::Status UnknownValueType(uint32_t type, absl::string_view key) {
  return absl::InvalidArgumentError(
      absl::StrCat("metadata ", key, " has value type ", type,
                   "; 0 to 12 exist, and no array of arrays"));
}

absl::Status SkipArray(ByteReader& reader, absl::string_view key) {
  QUIRE_ASSIGN_OR_RETURN(const uint32_t type, reader.Read<uint32_t>(key));
  QUIRE_ASSIGN_OR_RETURN(const uint64_t count, reader.Read<uint64_t>(key));
  if (type >= kValueBytes.size() || type == kArray) return UnknownValueType(type, key);
  const uint64_t item_bytes = type == kString ? sizeof(uint64_t) : kValueBytes[type];
  QUIRE_RETURN_IF_ERROR(
      CheckCount(absl::StrCat("items of ", key), count, reader.remaining() / item_bytes));
  if (type != kString) return reader.Skip(count * item_bytes, key);
  for (uint64_t i = 0; i < count; ++i) {
    QUIRE_RETURN_IF_ERROR(reader.ReadString(key).status());
  }
  return absl::OkStatus();
}

absl::Status SkipValue(ByteReader& reader, uint32_t type, absl::string_view key) {
  if (type >= kValueBytes.size()) return UnknownValueType(type, key);
  if (type == kString) return reader.ReadString(key).status();
  if (type == kArray) return SkipArray(reader, key);
  return reader.Skip(kValueBytes[type], key);
}

struct Metadata {
  std::string architecture;
  uint32_t alignment = kDefaultAlignment;
};

absl::Status ReadAlignment(ByteReader& reader, uint32_t type, Metadata& metadata) {
  constexpr absl::string_view kKey = "general.alignment";
  if (type != kUint32) return UnknownValueType(type, kKey);
  QUIRE_ASSIGN_OR_RETURN(metadata.alignment, reader.Read<uint32_t>(kKey));
  const uint32_t value = metadata.alignment;
  if (value != 0 && (value & (value - 1)) == 0 && value <= kMaxAlignment) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("general.alignment is ", value,
                                                 "; it must be a power of two up to ",
                                                 kMaxAlignment));
}

absl::StatusOr<Metadata> ReadMetadata(ByteReader& reader, uint64_t count) {
  Metadata metadata;
  std::set<std::string_view> seen;
  for (uint64_t i = 0; i < count; ++i) {
    QUIRE_ASSIGN_OR_RETURN(const std::string_view key,
                           ReadName(reader, "a metadata key"));
    QUIRE_ASSIGN_OR_RETURN(const uint32_t type, reader.Read<uint32_t>(ToAbsl(key)));
    if (!seen.insert(key).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata ", ToAbsl(key), " is there twice"));
    }
    if (key == "general.alignment") {
      QUIRE_RETURN_IF_ERROR(ReadAlignment(reader, type, metadata));
    } else if (key == "general.architecture" && type == kString) {
      QUIRE_ASSIGN_OR_RETURN(const std::string_view text, reader.ReadString(ToAbsl(key)));
      metadata.architecture = std::string(text);
    } else {
      QUIRE_RETURN_IF_ERROR(SkipValue(reader, type, ToAbsl(key)));
    }
  }
  if (metadata.architecture.empty()) {
    return absl::InvalidArgumentError("metadata general.architecture is missing");
  }
  return metadata;
}

struct TensorInfo {
  std::string_view name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Dimensions, innermost first in the file.
absl::StatusOr<std::vector<int64_t>> ReadShape(ByteReader& reader,
                                               absl::string_view name) {
  QUIRE_ASSIGN_OR_RETURN(const uint32_t dims, reader.Read<uint32_t>(name));
  if (dims == 0 || dims > kMaxDims) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", name, " has ", dims, " dimensions; 1 to ", kMaxDims, " are possible"));
  }
  std::vector<int64_t> shape(dims);
  for (uint32_t i = dims; i-- > 0;) {
    QUIRE_ASSIGN_OR_RETURN(shape[i], reader.Read<int64_t>(name));
  }
  return shape;
}

absl::StatusOr<TensorInfo> ReadTensorInfo(ByteReader& reader) {
  TensorInfo info;
  QUIRE_ASSIGN_OR_RETURN(info.name, ReadName(reader, "a tensor's name"));
  const absl::string_view name = ToAbsl(info.name);
  QUIRE_ASSIGN_OR_RETURN(info.shape, ReadShape(reader, name));
  QUIRE_ASSIGN_OR_RETURN(const uint32_t type, reader.Read<uint32_t>(name));
  QUIRE_ASSIGN_OR_RETURN(info.offset, reader.Read<uint64_t>(name));
  QUIRE_ASSIGN_OR_RETURN(info.dtype, TypeOf(type, name));
  const absl::StatusOr<int64_t> bytes = TensorBytes(LayoutOf(info.dtype), info.shape);
  if (!bytes.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": ", bytes.status().message()));
  }
  info.bytes = static_cast<uint64_t>(*bytes);
  return info;
}

absl::Status CheckPlace(const TensorInfo& info, uint64_t data_bytes, uint32_t alignment) {
  if (info.offset % alignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", ToAbsl(info.name), " begins at byte ", info.offset,
                     " of the data; it must be a multiple of ", alignment));
  }
  if (info.offset > data_bytes || info.bytes > data_bytes - info.offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", ToAbsl(info.name), " has ", info.bytes, " bytes at byte ",
                     info.offset, " of the data, which has ", data_bytes));
  }
  return absl::OkStatus();
}

absl::Span<const std::byte> DataSection(absl::Span<const std::byte> bytes,
                                        size_t header_end, uint32_t alignment) {
  const size_t start = (header_end + alignment - 1) / alignment * alignment;
  return start < bytes.size() ? bytes.subspan(start) : absl::Span<const std::byte>();
}

}  // namespace

absl::StatusOr<GgufContents> ParseGguf(absl::Span<const std::byte> bytes) {
  ByteReader reader(bytes);
  QUIRE_ASSIGN_OR_RETURN(const Counts counts, ReadHeader(reader));
  QUIRE_ASSIGN_OR_RETURN(Metadata metadata, ReadMetadata(reader, counts.metadata));
  std::vector<TensorInfo> infos;
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    QUIRE_ASSIGN_OR_RETURN(TensorInfo info, ReadTensorInfo(reader));
    infos.push_back(std::move(info));
  }
  const auto data = DataSection(bytes, reader.position(), metadata.alignment);
  GgufContents contents;
  contents.architecture = std::move(metadata.architecture);
  std::vector<DataRange> ranges;
  for (TensorInfo& info : infos) {
    QUIRE_RETURN_IF_ERROR(CheckPlace(info, data.size(), metadata.alignment));
    ranges.push_back({info.name, info.offset, info.offset + info.bytes});
    QUIRE_RETURN_IF_ERROR(contents.tensors.Add(
        HuggingFaceName(info.name),
        {info.dtype, std::move(info.shape), data.subspan(info.offset, info.bytes)}));
  }
  QUIRE_RETURN_IF_ERROR(CheckRanges(std::move(ranges), data.size(), true));
  return contents;
}

}  // namespace quire
