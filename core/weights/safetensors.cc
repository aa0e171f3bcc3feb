#include "core/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/base/to_absl.h"
#include "core/config/json_reader.h"

namespace quire {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 32 << 20;  // some 200,000 tensors
constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr int64_t kMaxDim = int64_t{1} << 48;

struct TypeEntry {
  const char* name;
  std::optional<DType> dtype;  // none: known to the format, unreadable here
  int64_t bytes;
};

constexpr std::array<TypeEntry, 15> kTypes = {{
    {"F32", DType::kF32, 4},
    {"F16", DType::kF16, 2},
    {"BF16", DType::kBF16, 2},
    {"F64", std::nullopt, 8},
    {"I64", std::nullopt, 8},
    {"U64", std::nullopt, 8},
    {"I32", std::nullopt, 4},
    {"U32", std::nullopt, 4},
    {"I16", std::nullopt, 2},
    {"U16", std::nullopt, 2},
    {"I8", std::nullopt, 1},
    {"U8", std::nullopt, 1},
    {"BOOL", std::nullopt, 1},
    {"F8_E4M3", std::nullopt, 1},
    {"F8_E5M2", std::nullopt, 1},
}};

const TypeEntry* FindType(const std::string& name) {
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(),
                   [&](const TypeEntry& entry) { return name == entry.name; });
  return found == kTypes.end() ? nullptr : &*found;
}

struct Header {
  json tensors;
  absl::Span<const std::byte> data;
};

absl::StatusOr<Header> SplitHeader(absl::Span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the file has ", bytes.size(), " bytes; a safetensors file has at least 8"));
  }
  uint64_t length = 0;
  for (size_t i = kLengthBytes; i-- > 0;) {
    length = length << 8 | std::to_integer<uint64_t>(bytes[i]);
  }
  const uint64_t room = std::min<uint64_t>(bytes.size() - kLengthBytes, kMaxHeaderBytes);
  if (length > room) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the header's length is ", length, " bytes; at most ", room, " are possible"));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                              length);
  Header header;
  QUIRE_ASSIGN_OR_RETURN(header.tensors,
                         ParseJsonObject(text, "the header", kMaxHeaderBytes));
  header.data = bytes.subspan(kLengthBytes + length);
  return header;
}

std::vector<int64_t> ReadShape(JsonReader& entry) {
  const json* shape = entry.Find("shape");
  if (shape != nullptr && shape->is_array()) return entry.IntList("shape", 8, 0, kMaxDim);
  entry.Fail(absl::StatusCode::kInvalidArgument, "shape must be a list of integers");
  return {};
}

// Adds one tensor and says where its bytes lie; `key` outlives the range.
absl::StatusOr<DataRange> AddTensor(const std::string& key, const json& value,
                                    absl::Span<const std::byte> data,
                                    TensorTable& table) {
  const std::string where = absl::StrCat("tensor ", key);
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is ", ShowJson(value), "; it must be an object"));
  }
  JsonReader entry(value, where);
  const std::string type_name = entry.String("dtype", std::nullopt);
  const std::vector<int64_t> shape = ReadShape(entry);
  const std::vector<int64_t> offsets = entry.IntList("data_offsets", 2, 0, INT64_MAX);
  QUIRE_RETURN_IF_ERROR(entry.status());
  const TypeEntry* type = FindType(type_name);
  if (type == nullptr) {
    return absl::UnimplementedError(absl::StrCat(
        where, " has type '", type_name.substr(0, 40), "', which is not supported"));
  }
  const auto size = static_cast<int64_t>(data.size());
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > size) {
    const json* stated = entry.Find("data_offsets");
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": data_offsets is ", stated ? ShowJson(*stated) : "missing",
                     "; it must be [begin, end] within the ", size, " bytes of data"));
  }
  const absl::StatusOr<int64_t> bytes = TensorBytes({1, type->bytes}, shape);
  if (!bytes.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", bytes.status().message()));
  }
  if (*bytes != offsets[1] - offsets[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " has ", offsets[1] - offsets[0], " bytes; its shape ",
                     ShapeString(shape), " of ", type_name, " takes ", *bytes));
  }
  const auto begin = static_cast<size_t>(offsets[0]);
  QUIRE_RETURN_IF_ERROR(
      type->dtype.has_value()
          ? table.Add(key, {*type->dtype, shape, data.subspan(begin, *bytes)})
          : table.AddUnsupported(key, type_name));
  return DataRange{key, static_cast<uint64_t>(offsets[0]),
                   static_cast<uint64_t>(offsets[1])};
}

}  // namespace

absl::StatusOr<TensorTable> ParseSafetensors(absl::Span<const std::byte> bytes) {
  QUIRE_ASSIGN_OR_RETURN(const Header header, SplitHeader(bytes));
  TensorTable table;
  std::vector<DataRange> ranges;
  for (const auto& item : header.tensors.items()) {
    if (item.key() == "__metadata__") continue;
    QUIRE_ASSIGN_OR_RETURN(const DataRange range,
                           AddTensor(item.key(), item.value(), header.data, table));
    ranges.push_back(range);
  }
  QUIRE_RETURN_IF_ERROR(CheckRanges(std::move(ranges), header.data.size(), false));
  return table;
}

bool IsPlainFileName(std::string_view name) {
  const auto allowed = [](char c) {
    return !absl::ascii_iscntrl(c) && c != '/' && c != '\\';
  };
  return !name.empty() && name.size() <= 255 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(
    std::string_view text) {
  const std::string what = "model.safetensors.index.json";
  QUIRE_ASSIGN_OR_RETURN(const json object, ParseJsonObject(text, what, kMaxIndexBytes));
  JsonReader reader(object, what);
  const json* weight_map = reader.Object("weight_map");
  QUIRE_RETURN_IF_ERROR(reader.status());
  if (weight_map == nullptr || weight_map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": weight_map is missing or empty"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& item : weight_map->items()) {
    const std::string file =
        item.value().is_string() ? item.value().get<std::string>() : "";
    if (!IsPlainFileName(file) || !absl::EndsWith(file, ".safetensors")) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": weight_map says ", ShowJson(item.value()), " for tensor ",
                       item.key(), "; it must be the plain name of a .safetensors file"));
    }
    shards[item.key()] = file;
  }
  return shards;
}

}  // namespace quire
