#include "core/weights/safetensors.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/weights/weight_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/refused.h"
#include "tests/support/weight_file_builder.h"

namespace quire {
namespace {

using absl::StatusCode;
using testing::ElementsAre;

TEST(SafetensorsTest, ReadsTensors) {
  const std::string file = SafetensorsBuilder()
                               .AddF32("b", {2, 3})
                               .Add("a", "BF16", {2}, BytesOf<uint16_t>({0x3f80, 0xc000}))
                               .Add("empty", "F16", {0, 4}, "")
                               .AddF32("scalar", {})
                               .Build();
  const absl::StatusOr<TensorTable> table = ParseSafetensors(AsBytes(file));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(table->names(), ElementsAre("a", "b", "empty", "scalar"));
  EXPECT_TRUE(table->Has("a"));
  EXPECT_FALSE(table->Has("c"));

  const absl::StatusOr<TensorView> b = table->Get("b", {2, 3});
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->dtype, DType::kF32);
  std::vector<float> values(6);
  DequantizeTo(*b, absl::MakeSpan(values));
  EXPECT_THAT(values, ElementsAre(0, 1, 2, 3, 4, 5));

  std::vector<float> brain(2);
  DequantizeTo(*table->Get("a", {2}), absl::MakeSpan(brain));
  EXPECT_THAT(brain, ElementsAre(1.0f, -2.0f));
  EXPECT_EQ(table->Get("empty", {0, 4})->data.size(), 0u);
  EXPECT_EQ(table->Get("scalar", {})->num_elements(), 1);
}

TEST(SafetensorsTest, GetSaysWhatItWantedAndWhatItGot) {
  const std::string file = SafetensorsBuilder()
                               .AddF32("w", {2, 3})
                               .Add("ids", "I64", {2}, std::string(16, '\0'))
                               .Build();
  const absl::StatusOr<TensorTable> table = ParseSafetensors(AsBytes(file));
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_TRUE(
      Refused(table->Get("v", {2, 3}), StatusCode::kNotFound, "there is no tensor v"));
  EXPECT_TRUE(Refused(table->Get("w", {3, 2}), StatusCode::kInvalidArgument,
                      "tensor w has shape [2, 3]; it must be [3, 2]"));
  EXPECT_TRUE(
      Refused(table->Get("w", {6}), StatusCode::kInvalidArgument, "it must be [6]"));
  EXPECT_TRUE(Refused(table->Get("ids", {2}), StatusCode::kUnimplemented,
                      "tensor ids has type I64; F32, F16, BF16"));
}

TEST(SafetensorsTest, MetadataAndPaddingAreAllowed) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}   )";
  const std::string file = SafetensorsBytes(header, "ab");
  EXPECT_THAT(ParseSafetensors(AsBytes(file))->names(), ElementsAre("w"));
}

testing::AssertionResult RefusedHeader(const std::string& header, const std::string& data,
                                       const std::string& message) {
  const std::string file = SafetensorsBytes(header, data);
  return Refused(ParseSafetensors(AsBytes(file)), StatusCode::kInvalidArgument, message);
}

// One tensor "w" with this entry and 16 bytes of data.
testing::AssertionResult RefusedEntry(const std::string& entry,
                                      const std::string& message) {
  return RefusedHeader(absl::StrCat("{\"w\":", entry, "}"), std::string(16, 'x'),
                       message);
}

TEST(SafetensorsTest, RefusesABrokenFrame) {
  const auto refused = [](const std::string& file, const std::string& message) {
    return Refused(ParseSafetensors(AsBytes(file)), StatusCode::kInvalidArgument,
                   message);
  };
  EXPECT_TRUE(refused("", "the file has 0 bytes"));
  EXPECT_TRUE(refused("1234567", "the file has 7 bytes"));
  EXPECT_TRUE(refused(absl::StrCat(BytesOf<uint64_t>(uint64_t{1} << 63), "{}"),
                      "the header's length is 9223372036854775808 bytes; at most 2 are"));
  EXPECT_TRUE(refused(absl::StrCat(BytesOf<uint64_t>(UINT64_MAX), "{}"),
                      "18446744073709551615 bytes; at most 2"));
  EXPECT_TRUE(refused(absl::StrCat(BytesOf<uint64_t>(3), "{}"), "is 3 bytes; at most 2"));
  EXPECT_TRUE(refused(SafetensorsBytes("", ""), "the header is not JSON"));
  EXPECT_TRUE(refused(SafetensorsBytes("[]", ""), "must be a JSON object"));
  EXPECT_TRUE(
      refused(SafetensorsBytes("{\"\xc3\x28\":{}}", ""), "the header is not JSON"));
  EXPECT_TRUE(
      refused(std::string(BytesOf<uint64_t>(40 << 20)) + std::string(40 << 20, ' '),
              "is 41943040 bytes; at most 33554432"));
}

TEST(SafetensorsTest, RefusesABrokenEntry) {
  EXPECT_TRUE(RefusedEntry("3", "tensor w is 3; it must be an object"));
  EXPECT_TRUE(RefusedEntry(R"({"shape":[4],"data_offsets":[0,16]})",
                           "tensor w: dtype is missing"));
  EXPECT_TRUE(RefusedEntry(R"({"dtype":"F32","data_offsets":[0,16]})",
                           "tensor w: shape must be"));
  EXPECT_TRUE(
      RefusedEntry(R"({"dtype":"F32","shape":[4]})",
                   "tensor w: data_offsets is missing; it must be [begin, end] within"));
  EXPECT_TRUE(RefusedEntry(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})",
                           "shape must be"));
  EXPECT_TRUE(RefusedEntry(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})",
                           "tensor w: shape is -4; it must be an integer in [0, "));
  EXPECT_TRUE(RefusedEntry(
      R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16]})",
      "shape is 9223372036854775808"));
  EXPECT_TRUE(RefusedEntry(
      R"({"dtype":"F32","shape":[281474976710656,281474976710656],"data_offsets":[0,16]})",
      "is too large"));
  EXPECT_TRUE(
      RefusedEntry(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,16]})",
                   "a list of at most 8"));
  EXPECT_TRUE(RefusedEntry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,15]})",
                           "tensor w has 15 bytes; its shape [4] of F32 takes 16"));
  EXPECT_TRUE(RefusedEntry(
      R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})",
      "data_offsets is [0,32]; it must be [begin, end] within the 16 bytes"));
  EXPECT_TRUE(
      RefusedEntry(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})", "is [16,0]"));
  EXPECT_TRUE(
      RefusedEntry(R"({"dtype":"F32","shape":[4],"data_offsets":[0]})", "is [0]"));
  EXPECT_TRUE(RefusedEntry(R"({"dtype":"F32","shape":[4],"data_offsets":[-16,0]})",
                           "data_offsets is -16"));
  EXPECT_TRUE(RefusedEntry(
      R"({"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551615]})",
      "data_offsets is 18446744073709551600"));
}

TEST(SafetensorsTest, RefusesATypeThatTheFormatDoesNotHave) {
  const std::string file =
      SafetensorsBytes(R"({"w":{"dtype":"Q9","shape":[1],"data_offsets":[0,2]}})", "ab");
  EXPECT_TRUE(Refused(ParseSafetensors(AsBytes(file)), StatusCode::kUnimplemented,
                      "tensor w has type 'Q9'"));
}

TEST(SafetensorsTest, RefusesOverlapsHolesAndTwins) {
  const auto entry = [](const std::string& name, int begin, int end) {
    return absl::StrCat("\"", name, "\":{\"dtype\":\"F16\",\"shape\":[",
                        (end - begin) / 2, "],\"data_offsets\":[", begin, ",", end, "]}");
  };
  const std::string data(16, 'x');
  EXPECT_TRUE(
      RefusedHeader(absl::StrCat("{", entry("a", 0, 10), ",", entry("b", 8, 16), "}"),
                    data, "tensor b begins at byte 8 of the data, inside tensor a"));
  EXPECT_TRUE(
      RefusedHeader(absl::StrCat("{", entry("a", 0, 6), ",", entry("b", 8, 16), "}"),
                    data, "bytes 6 to 8 of the data belong to no tensor"));
  EXPECT_TRUE(
      RefusedHeader(absl::StrCat("{", entry("a", 2, 16), "}"), data, "bytes 0 to 2"));
  EXPECT_TRUE(
      RefusedHeader(absl::StrCat("{", entry("a", 0, 14), "}"), data, "bytes 14 to 16"));
  EXPECT_TRUE(
      RefusedHeader(absl::StrCat("{", entry("a", 0, 8), ",", entry("a", 8, 16), "}"),
                    data, "the header names \"a\" twice"));
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string file =
      SafetensorsBuilder().AddF32("w", {2, 3}).AddF32("v", {4}).Build();
  for (size_t size = 0; size < file.size(); ++size) {
    const std::string cut = file.substr(0, size);
    EXPECT_EQ(ParseSafetensors(AsBytes(cut)).status().code(),
              StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(SafetensorsIndexTest, ReadsShards) {
  const auto index = ParseSafetensorsIndex(
      R"({"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors",
          "b": "model-00002-of-00002.safetensors"}})");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->size(), 2u);
  EXPECT_EQ(index->at("b"), "model-00002-of-00002.safetensors");
}

TEST(SafetensorsIndexTest, RefusesPathsAndJunk) {
  for (const char* name : {"../model.safetensors", "/etc/model.safetensors",
                           "a/b.safetensors", ".safetensors", "a\\\\b.safetensors",
                           "model.bin", "", "model\\u0000.safetensors"}) {
    const std::string json = absl::StrCat(R"({"weight_map": {"a": ")", name, "\"}}");
    EXPECT_TRUE(Refused(ParseSafetensorsIndex(json), StatusCode::kInvalidArgument,
                        "it must be the plain name of a .safetensors file"))
        << name;
  }
  for (const char* json : {"{}", R"({"weight_map": {}})"}) {
    EXPECT_TRUE(Refused(ParseSafetensorsIndex(json), StatusCode::kInvalidArgument,
                        "weight_map is missing or empty"));
  }
  EXPECT_TRUE(Refused(ParseSafetensorsIndex(R"({"weight_map": ["a"]})"),
                      StatusCode::kInvalidArgument,
                      "weight_map is [\"a\"]; it must be an object"));
  EXPECT_TRUE(Refused(ParseSafetensorsIndex(R"({"weight_map": {"a": 7}})"),
                      StatusCode::kInvalidArgument, "weight_map says 7 for tensor a"));
}

}  // namespace
}  // namespace quire
