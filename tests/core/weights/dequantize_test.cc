#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/weights/weight_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/weight_file_builder.h"

namespace quire {
namespace {

using testing::ElementsAre;

// Copied to an odd address first: views into a file may be unaligned.
std::vector<float> Dequantized(DType dtype, const std::string& bytes, int64_t count) {
  const std::string shifted = "x" + bytes;
  const TensorView view{dtype, {count}, AsBytes(shifted).subspan(1)};
  std::vector<float> out(static_cast<size_t>(count), -7.0f);
  DequantizeTo(view, absl::MakeSpan(out));
  return out;
}

TEST(DequantizeTest, F32IsCopied) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THAT(Dequantized(DType::kF32, BytesOf<float>({1.5f, -0.0f, inf}), 3),
              ElementsAre(1.5f, -0.0f, inf));
}

TEST(DequantizeTest, HalfCornerValues) {
  const auto half = [](uint16_t bits) {
    return Dequantized(DType::kF16, BytesOf<uint16_t>(bits), 1)[0];
  };
  EXPECT_EQ(half(0x0000), 0.0f);
  EXPECT_TRUE(std::signbit(half(0x8000)));
  EXPECT_EQ(half(0x8000), 0.0f);
  EXPECT_EQ(half(0x3c00), 1.0f);
  EXPECT_EQ(half(0xc000), -2.0f);
  EXPECT_EQ(half(0x3555), 0.333251953125f);
  EXPECT_EQ(half(0x7bff), 65504.0f);         // largest
  EXPECT_EQ(half(0x0400), 0x1p-14f);         // smallest normal
  EXPECT_EQ(half(0x03ff), 1023 * 0x1p-24f);  // largest subnormal
  EXPECT_EQ(half(0x0001), 0x1p-24f);         // smallest subnormal
  EXPECT_EQ(half(0x8001), -0x1p-24f);
  EXPECT_EQ(half(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_EQ(half(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(half(0x7e00)));
  EXPECT_TRUE(std::isnan(half(0x7c01)));
}

// Every one of the 65,536 halves, against ldexp.
TEST(DequantizeTest, AllHalves) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const std::vector<float> got = Dequantized(DType::kF16, BytesOf(bits), 65536);
  for (size_t i = 0; i < bits.size(); ++i) {
    const int exponent = static_cast<int>(i >> 10 & 31);
    const int mantissa = static_cast<int>(i & 1023);
    if (exponent == 31) continue;  // infinities and NaNs are above
    const float size =
        exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                      : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    ASSERT_EQ(got[i], (i & 0x8000) != 0 ? -size : size) << i;
  }
}

TEST(DequantizeTest, BrainFloatCornerValues) {
  const auto brain = [](uint16_t bits) {
    return Dequantized(DType::kBF16, BytesOf<uint16_t>(bits), 1)[0];
  };
  EXPECT_EQ(brain(0x3f80), 1.0f);
  EXPECT_EQ(brain(0xc0a0), -5.0f);
  EXPECT_TRUE(std::signbit(brain(0x8000)));
  EXPECT_EQ(brain(0x0001), 0x1p-133f);  // smallest subnormal
  EXPECT_EQ(brain(0x0080), 0x1p-126f);  // smallest normal
  EXPECT_EQ(brain(0x7f7f), 0x1.fep127f);
  EXPECT_EQ(brain(0xff80), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(brain(0x7fc0)));
}

// A block whose nibbles or bytes are told by a function of the value's index.
std::string Nibbles(int (*value)(int)) {
  std::string bytes(16, '\0');
  for (int i = 0; i < 16; ++i) {
    bytes[static_cast<size_t>(i)] = static_cast<char>(value(i) | value(i + 16) << 4);
  }
  return bytes;
}

TEST(DequantizeTest, Q8_0) {
  std::string block = BytesOf<uint16_t>(0x3800);  // scale 0.5
  for (int i = 0; i < 32; ++i) block += static_cast<char>(i == 31 ? -128 : i - 16);
  std::string second = BytesOf<uint16_t>(0xc000) + std::string(32, '\x7f');  // scale -2
  const std::vector<float> got = Dequantized(DType::kQ8_0, block + second, 64);
  for (int i = 0; i < 31; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], 0.5f * (i - 16));
  EXPECT_EQ(got[31], -64.0f);
  EXPECT_EQ(got[32], -254.0f);
  EXPECT_EQ(got[63], -254.0f);
}

TEST(DequantizeTest, Q4_0) {
  const std::string block = BytesOf<uint16_t>(0x3400) +
                            Nibbles([](int i) { return (i * 5 + 3) % 16; });  // 0.25
  const std::vector<float> got = Dequantized(DType::kQ4_0, block, 32);
  EXPECT_EQ(got[0], 0.25f * (3 - 8));
  EXPECT_EQ(got[1], 0.25f * (8 - 8));
  EXPECT_EQ(got[15], 0.25f * (14 - 8));
  EXPECT_EQ(got[16], 0.25f * (3 - 8));
  EXPECT_EQ(got[31], 0.25f * (14 - 8));
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(got[static_cast<size_t>(i)], 0.25f * ((i * 5 + 3) % 16 - 8)) << i;
  }
}

TEST(DequantizeTest, Q4_1) {
  // Scale 2, minimum -1.5; low nibbles count up and high ones down.
  const std::string block = BytesOf<uint16_t>({0x4000, 0xbe00}) +
                            Nibbles([](int i) { return i < 16 ? i : 31 - i; });
  const std::vector<float> got = Dequantized(DType::kQ4_1, block + block, 64);
  for (int i = 0; i < 64; ++i) {
    const int in_block = i % 32;
    const int nibble = in_block < 16 ? in_block : 31 - in_block;
    EXPECT_EQ(got[static_cast<size_t>(i)], 2.0f * nibble - 1.5f) << i;
  }
}

TEST(DequantizeTest, TailsOfAnyLength) {
  for (int64_t count = 0; count < 40; ++count) {
    std::vector<uint16_t> bits(static_cast<size_t>(count), 0x4200);
    EXPECT_EQ(Dequantized(DType::kF16, BytesOf(bits), count),
              std::vector<float>(static_cast<size_t>(count), 3.0f));
  }
}

TEST(DequantizeDeathTest, OutputOfAnotherSizeIsABug) {
  const std::string bytes = BytesOf<float>({1.0f, 2.0f});
  const TensorView view{DType::kF32, {2}, AsBytes(bytes)};
  std::vector<float> out(3);
  EXPECT_DEATH(DequantizeTo(view, absl::MakeSpan(out)), "check failed");
}

TEST(TensorViewTest, NamesAndLayouts) {
  EXPECT_EQ(DTypeName(DType::kBF16), "BF16");
  EXPECT_EQ(DTypeName(DType::kQ4_1), "Q4_1");
  EXPECT_EQ(LayoutOf(DType::kQ8_0).bytes, 34);
  EXPECT_EQ(LayoutOf(DType::kQ4_0).bytes, 18);
  EXPECT_EQ(LayoutOf(DType::kQ4_1).bytes, 20);
  EXPECT_EQ((TensorView{DType::kF32, {2, 3, 4}, {}}).num_elements(), 24);
  EXPECT_EQ((TensorView{DType::kF32, {}, {}}).num_elements(), 1);
}

}  // namespace
}  // namespace quire
