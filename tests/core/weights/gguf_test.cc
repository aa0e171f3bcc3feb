#include "core/weights/gguf.h"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/weights/gguf_rows.h"
#include "core/weights/weight_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/refused.h"
#include "tests/support/weight_file_builder.h"

namespace quire {
namespace {

using absl::StatusCode;
using testing::ElementsAre;

GgufBuilder Llama() { return GgufBuilder().AddArchitecture("llama"); }

testing::AssertionResult RefusedGguf(const GgufBuilder& builder, StatusCode code,
                                     const std::string& message) {
  const std::string file = builder.Build();
  return Refused(ParseGguf(AsBytes(file)), code, message);
}

TEST(GgufTest, ReadsTensorsUnderHuggingFaceNames) {
  for (const uint32_t version : {2, 3}) {
    GgufBuilder builder = Llama();
    builder.version = version;
    builder.AddMetadata("llama.block_count", 4, BytesOf<uint32_t>(1))
        .AddMetadata("tokenizer.ggml.tokens", 9,
                     absl::StrCat(BytesOf<uint32_t>(8), BytesOf<uint64_t>(2),
                                  GgufBuilder::String("a"), GgufBuilder::String("bb")))
        .AddMetadata("tokenizer.ggml.scores", 9,
                     absl::StrCat(BytesOf<uint32_t>(6), BytesOf<uint64_t>(2),
                                  BytesOf<float>({1.0f, 2.0f})))
        .AddMetadata("general.flag", 7, "\x01")
        .Add("token_embd.weight", GgufBuilder::kF32, {2, 3},
             BytesOf<float>({0, 1, 2, 3, 4, 5}))
        .Add("blk.0.attn_q.weight", GgufBuilder::kQ8_0, {32, 2},
             std::string(2, '\0') + std::string(66, '\1'));
    const std::string file = builder.Build();
    const absl::StatusOr<GgufContents> gguf = ParseGguf(AsBytes(file));
    ASSERT_TRUE(gguf.ok()) << gguf.status();
    EXPECT_EQ(gguf->architecture, "llama");
    EXPECT_THAT(gguf->tensors.names(),
                ElementsAre("model.embed_tokens.weight",
                            "model.layers.0.self_attn.q_proj.weight"));
    // The file's dimensions are innermost first: 3 rows of 2.
    std::vector<float> rows(6);
    DequantizeTo(*gguf->tensors.Get("model.embed_tokens.weight", {3, 2}),
                 absl::MakeSpan(rows));
    EXPECT_THAT(rows, ElementsAre(0, 1, 2, 3, 4, 5));
    EXPECT_EQ(gguf->tensors.Get("model.layers.0.self_attn.q_proj.weight", {2, 32})->dtype,
              DType::kQ8_0);
  }
}

TEST(GgufTest, TakesTheStatedAlignment) {
  GgufBuilder builder = Llama();
  builder.alignment = 128;
  builder.AddMetadata("general.alignment", 4, BytesOf<uint32_t>(128))
      .Add("output_norm.weight", GgufBuilder::kF32, {1}, BytesOf(1.0f))
      .Add("output.weight", GgufBuilder::kF32, {1}, BytesOf(2.0f));
  const std::string file = builder.Build();
  const absl::StatusOr<GgufContents> gguf = ParseGguf(AsBytes(file));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  std::vector<float> value(1);
  DequantizeTo(*gguf->tensors.Get("lm_head.weight", {1}), absl::MakeSpan(value));
  EXPECT_THAT(value, ElementsAre(2.0f));
}

TEST(GgufTest, NamesOfEveryTensorOfTheFourFamilies) {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"},
      {"blk.1.attn_q.bias", "model.layers.1.self_attn.q_proj.bias"},
      {"blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight"},
      {"blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight"},
      {"blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"},
      {"blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight"},
      {"blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"},
      {"blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"},
      {"blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight"},
      {"blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"},
      {"blk.999.ffn_down.weight", "model.layers.999.mlp.down_proj.weight"},
      // No counterpart: unchanged.
      {"rope_freqs.weight", "rope_freqs.weight"},
      {"blk.x.attn_q.weight", "blk.x.attn_q.weight"},
      {"blk..attn_q.weight", "blk..attn_q.weight"},
      {"blk.1.attn_q.scale", "blk.1.attn_q.scale"},
      {"blk.1", "blk.1"},
      {"weight", "weight"},
      {"", ""},
  };
  for (const auto& [gguf, hugging_face] : names)
    EXPECT_EQ(HuggingFaceName(gguf), hugging_face);
}

TEST(GgufTest, RefusesAnyOtherTypeByItsName) {
  const auto type = [](uint32_t id) {
    return Llama().Add("blk.0.ffn_up.weight", id, {256}, std::string(512, '\0'));
  };
  const StatusCode code = StatusCode::kUnimplemented;
  EXPECT_TRUE(
      RefusedGguf(type(GgufBuilder::kQ4_K), code,
                  "tensor blk.0.ffn_up.weight has type Q4_K; F32, F16, BF16, Q8_0"));
  EXPECT_TRUE(RefusedGguf(type(14), code, "has type Q6_K"));
  EXPECT_TRUE(RefusedGguf(type(20), code, "has type IQ4_NL"));
  EXPECT_TRUE(RefusedGguf(type(39), code, "has type MXFP4"));
  EXPECT_TRUE(RefusedGguf(type(4), code, "has type number 4"));
  EXPECT_TRUE(RefusedGguf(type(UINT32_MAX), code, "has type number 4294967295"));
}

TEST(GgufTest, RefusesABrokenHeader) {
  GgufBuilder magic = Llama();
  magic.magic = 0x46554748;
  EXPECT_TRUE(
      RefusedGguf(magic, StatusCode::kInvalidArgument, "does not begin with GGUF"));
  GgufBuilder old = Llama();
  old.version = 1;
  EXPECT_TRUE(
      RefusedGguf(old, StatusCode::kUnimplemented, "version 1; 2 and 3 are supported"));
  GgufBuilder many = Llama();
  many.StateCounts(uint64_t{1} << 63, 1);
  EXPECT_TRUE(RefusedGguf(many, StatusCode::kInvalidArgument,
                          "the file states 9223372036854775808 tensors; at most"));
  many.StateCounts(0, UINT64_MAX);
  EXPECT_TRUE(
      RefusedGguf(many, StatusCode::kInvalidArgument,
                  "the file states 18446744073709551615 metadata entries; at most"));
  EXPECT_TRUE(RefusedGguf(GgufBuilder(), StatusCode::kInvalidArgument,
                          "general.architecture is missing"));
}

TEST(GgufTest, RefusesBrokenMetadata) {
  const StatusCode code = StatusCode::kInvalidArgument;
  const auto with = [](uint32_t type, const std::string& value) {
    return Llama()
        .AddMetadata("k", type, value)
        .Add("t", 0, {64}, std::string(256, '\0'));
  };
  const auto array = [](uint32_t type, uint64_t count) {
    return absl::StrCat(BytesOf(type), BytesOf(count));
  };
  EXPECT_TRUE(RefusedGguf(with(13, ""), code, "metadata k has value type 13"));
  EXPECT_TRUE(RefusedGguf(with(9, array(9, 1)), code, "no array of arrays"));
  EXPECT_TRUE(RefusedGguf(with(9, array(13, 1)), code, "has value type 13"));
  EXPECT_TRUE(RefusedGguf(with(9, array(10, uint64_t{1} << 61)), code,
                          "the file states 2305843009213693952 items of k; at most"));
  EXPECT_TRUE(RefusedGguf(with(9, array(8, uint64_t{1} << 63)), code, "items of k"));
  EXPECT_TRUE(RefusedGguf(with(8, BytesOf<uint64_t>(UINT64_MAX)), code,
                          "the file ends within k: 18446744073709551615 bytes wanted"));
  EXPECT_TRUE(RefusedGguf(with(8, GgufBuilder::String("v")).AddMetadata("k", 7, "x"),
                          code, "metadata k is there twice"));
  EXPECT_TRUE(
      RefusedGguf(Llama().AddMetadata("", 7, "x").Add("t", 0, {8}, std::string(32, 'x')),
                  code, "a metadata key is '' (0 bytes)"));
  EXPECT_TRUE(RefusedGguf(
      Llama().AddMetadata("\xff", 7, "x").Add("t", 0, {8}, std::string(32, 'x')), code,
      "printable ASCII"));
}

TEST(GgufTest, RefusesABadAlignment) {
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 21, UINT32_MAX}) {
    EXPECT_TRUE(RefusedGguf(
        Llama().AddMetadata("general.alignment", 4, BytesOf(alignment)),
        StatusCode::kInvalidArgument,
        absl::StrCat("general.alignment is ", alignment, "; it must be a power of two")));
  }
  EXPECT_TRUE(RefusedGguf(
      Llama().AddMetadata("general.alignment", 10, BytesOf<uint64_t>(32)),
      StatusCode::kInvalidArgument, "metadata general.alignment has value type 10"));
}

TEST(GgufTest, RefusesABrokenTensor) {
  const StatusCode code = StatusCode::kInvalidArgument;
  const std::string data(256, '\0');
  const auto padded = [&](const GgufBuilder& builder) {
    return GgufBuilder(builder).Add("pad", GgufBuilder::kF32, {64}, data);
  };
  EXPECT_TRUE(
      RefusedGguf(Llama().Add("t", 0, {}, data), code, "tensor t has 0 dimensions"));
  EXPECT_TRUE(
      RefusedGguf(Llama().Add("t", 0, {1, 1, 1, 1, 1}, data), code, "has 5 dimensions"));
  EXPECT_TRUE(
      RefusedGguf(Llama().Add("t", 0, {uint64_t{1} << 63}, data), code,
                  "tensor t: shape [-9223372036854775808] has a negative dimension"));
  EXPECT_TRUE(
      RefusedGguf(Llama().Add("t", 0, {uint64_t{1} << 40, uint64_t{1} << 40}, data), code,
                  "is too large"));
  EXPECT_TRUE(
      RefusedGguf(Llama().Add("t", GgufBuilder::kQ4_0, {48}, data), code,
                  "tensor t: shape [48] does not end in whole blocks of 32 values"));
  EXPECT_TRUE(RefusedGguf(Llama().Add("t", 0, {65}, data), code,
                          "tensor t has 260 bytes at byte 0 of the data, which has 256"));
  EXPECT_TRUE(RefusedGguf(padded(Llama().AddAt("t", 0, {1}, 16)), code,
                          "begins at byte 16 of the data; it must be a multiple of 32"));
  EXPECT_TRUE(
      RefusedGguf(padded(Llama().AddAt("t", 0, {1}, uint64_t{1} << 63)), code,
                  "tensor t has 4 bytes at byte 9223372036854775808 of the data"));
  EXPECT_TRUE(RefusedGguf(padded(Llama().AddAt("t", 0, {1}, UINT64_MAX - 31)), code,
                          "of the data, which has 256"));
  EXPECT_TRUE(
      RefusedGguf(padded(Llama().AddAt("t", 0, {16}, 32)), code, "inside tensor"));
  EXPECT_TRUE(RefusedGguf(Llama().Add("t", 0, {8}, data).Add("t", 0, {8}, data), code,
                          "tensor t is there twice"));
  EXPECT_TRUE(
      RefusedGguf(Llama().Add(std::string(300, 'n'), 0, {8}, data), code, "(300 bytes)"));
}

TEST(GgufTest, HolesAreAllowed) {
  const std::string file = Llama()
                               .Add("a", 0, {1}, std::string(100, '\0'))
                               .Add("b", 0, {1}, BytesOf(3.0f))
                               .Build();
  EXPECT_TRUE(ParseGguf(AsBytes(file)).ok());
}

TEST(GgufTest, EveryTruncationIsRefused) {
  const std::string file =
      Llama()
          .AddMetadata("list", 9,
                       absl::StrCat(BytesOf<uint32_t>(8), BytesOf<uint64_t>(1),
                                    GgufBuilder::String("item")))
          .Add("t", GgufBuilder::kQ4_1, {32, 2}, std::string(40, '\1'))
          .Build();
  ASSERT_TRUE(ParseGguf(AsBytes(file)).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    const std::string cut = file.substr(0, size);
    EXPECT_EQ(ParseGguf(AsBytes(cut)).status().code(), StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(GgufRowsTest, PutsTheHalvesOfAHeadBackTogether) {
  // One head of 8: the file has 0 4 1 5 2 6 3 7, so row 1 of Hugging Face is the file's
  // row 2.
  std::vector<int64_t> source;
  for (int64_t row = 0; row < 8; ++row) source.push_back(UnpermuteGgufRow(row, 8));
  EXPECT_THAT(source, ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_EQ(UnpermuteGgufRow(64 + 33, 64), 64 + 3);  // second head: pair 1, second half
}

TEST(GgufRowsTest, IsAPermutationWithinEachHead) {
  for (const int64_t head_dim : {2, 4, 6, 64, 128}) {
    std::set<int64_t> seen;
    for (int64_t row = 0; row < 3 * head_dim; ++row) {
      const int64_t source = UnpermuteGgufRow(row, head_dim);
      EXPECT_EQ(source / head_dim, row / head_dim);
      seen.insert(source);
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(3 * head_dim));
  }
}

}  // namespace
}  // namespace quire
