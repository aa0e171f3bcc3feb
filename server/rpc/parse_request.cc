#include "server/rpc/parse_request.h"

#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/tokenizer/tokenizer.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/impl/codegen/proto_buffer_reader.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

struct BadString {
  std::string path;
  int64_t offset = 0;
};

std::string PathOf(const FieldDescriptor& field, std::map<int, int>& counts) {
  const std::string name(field.name());
  return field.is_repeated() ? absl::StrCat(name, "[", counts[field.number()]++, "]")
                             : name;
}

// The first `string` of the wire format that is not UTF-8. Depth is bounded by the
// schema: none of our messages holds itself.
std::optional<BadString> FindBadString(absl::string_view wire, const Descriptor& type) {
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(wire.data()),
                                            static_cast<int>(wire.size()));
  std::map<int, int> counts;
  while (const uint32_t tag = in.ReadTag()) {
    const FieldDescriptor* field =
        type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const bool delimited =
        WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
    if (field == nullptr || !delimited) {
      if (!WireFormatLite::SkipField(&in, tag)) return std::nullopt;
      continue;
    }
    std::string value;
    uint32_t size = 0;
    if (!in.ReadVarint32(&size) || !in.ReadString(&value, static_cast<int>(size))) {
      return std::nullopt;
    }
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      const std::string path = PathOf(*field, counts);
      if (const int64_t bad = FirstInvalidUtf8(value); bad >= 0)
        return BadString{path, bad};
    } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      const std::string path = PathOf(*field, counts);
      if (auto bad = FindBadString(value, *field->message_type())) {
        return BadString{absl::StrCat(path, ".", bad->path), bad->offset};
      }
    }
  }
  return std::nullopt;
}

std::string Flatten(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string flat;
  if (!bytes.Dump(&slices).ok()) return flat;
  for (const grpc::Slice& slice : slices) {
    flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return flat;
}

}  // namespace

absl::Status ParseRequest(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message& message) {
  grpc::ByteBuffer copy(bytes);  // shares the slices; the reader wants it mutable
  grpc::ProtoBufferReader reader(&copy);
  if (reader.status().ok() && message.ParseFromZeroCopyStream(&reader))
    return absl::OkStatus();
  if (const auto bad = FindBadString(Flatten(bytes), *message.GetDescriptor())) {
    return InvalidField(bad->path, absl::StrCat(bad->path, " is not UTF-8: byte ",
                                                bad->offset, " is the first bad one"));
  }
  return WithReason(absl::InvalidArgumentError(
                        absl::StrCat("the request is not a valid ",
                                     std::string(message.GetDescriptor()->full_name()))),
                    "MALFORMED_MESSAGE");
}

}  // namespace quire::server
