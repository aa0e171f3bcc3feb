#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "core/base/check.h"
#include "core/weights/weight_source.h"

// Plain loops that the compiler vectorises; data may be unaligned, so values are copied
// out. Numbers are little-endian in every format, as on the machines that this builds
// for.
namespace quire {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kBlock = 32;

template <typename T>
T Load(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// IEEE 754 half to single without a branch. The subnormals go through an integer
// conversion, so the result does not depend on the thread's flush-to-zero mode.
inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  const uint32_t normal = (magnitude << 13) + (uint32_t{112} << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000;  // infinity, NaN
  const auto subnormal = std::bit_cast<uint32_t>(
      static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  uint32_t bits = magnitude < 0x0400 ? subnormal : normal;
  bits = magnitude >= 0x7c00 ? special : bits;
  return std::bit_cast<float>(bits | sign);
}

void FromHalf(const std::byte* data, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = HalfToFloat(Load<uint16_t>(data, i));
}

void FromBrain(const std::byte* data, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(data, i)) << 16);
  }
}

// Q8_0: half scale, 32 signed bytes; value = scale * byte.
void FromQ8_0(const std::byte* block, float* out) {
  const float scale = HalfToFloat(Load<uint16_t>(block, 0));
  for (int64_t i = 0; i < kBlock; ++i) {
    out[i] = scale * static_cast<float>(Load<int8_t>(block + 2, i));
  }
}

// 16 bytes of nibbles: the low ones are values 0 to 15, the high ones 16 to 31.
void FromNibbles(const std::byte* nibbles, float scale, float base, int zero,
                 float* out) {
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const int pair = Load<uint8_t>(nibbles, i);
    out[i] = scale * static_cast<float>((pair & 0xf) - zero) + base;
    out[i + kBlock / 2] = scale * static_cast<float>((pair >> 4) - zero) + base;
  }
}

// Q4_0: half scale, nibbles; value = scale * (nibble - 8).
void FromQ4_0(const std::byte* block, float* out) {
  FromNibbles(block + 2, HalfToFloat(Load<uint16_t>(block, 0)), 0.0f, 8, out);
}

// Q4_1: half scale, half minimum, nibbles; value = scale * nibble + minimum.
void FromQ4_1(const std::byte* block, float* out) {
  FromNibbles(block + 4, HalfToFloat(Load<uint16_t>(block, 0)),
              HalfToFloat(Load<uint16_t>(block, 1)), 0, out);
}

template <void (*kFromBlock)(const std::byte*, float*)>
void FromBlocks(const std::byte* data, int64_t block_bytes, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kBlock, data += block_bytes)
    kFromBlock(data, out + i);
}

}  // namespace

void DequantizeTo(const TensorView& view, absl::Span<float> out) {
  const int64_t count = view.num_elements();
  const BlockLayout layout = LayoutOf(view.dtype);
  QUIRE_CHECK(static_cast<int64_t>(out.size()) == count);
  QUIRE_CHECK(static_cast<int64_t>(view.data.size()) ==
              count / layout.values * layout.bytes);
  if (count == 0) return;
  const std::byte* data = view.data.data();
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out.data(), data, view.data.size());
      return;
    case DType::kF16:
      return FromHalf(data, count, out.data());
    case DType::kBF16:
      return FromBrain(data, count, out.data());
    case DType::kQ8_0:
      return FromBlocks<FromQ8_0>(data, layout.bytes, count, out.data());
    case DType::kQ4_0:
      return FromBlocks<FromQ4_0>(data, layout.bytes, count, out.data());
    case DType::kQ4_1:
      return FromBlocks<FromQ4_1>(data, layout.bytes, count, out.data());
  }
}

}  // namespace quire
