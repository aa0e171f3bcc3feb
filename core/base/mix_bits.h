#pragma once

#include <cstdint>

namespace quire {

// A bijection of 32 bits whose results look random (C. Wellons, "lowbias32"); also for
// code on a GPU.
constexpr uint32_t MixBits(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352dU;
  x = (x ^ (x >> 15)) * 0x846ca68bU;
  return x ^ (x >> 16);
}

// Of a layer, a head and a position: where something random of theirs begins.
constexpr uint32_t MixPlace(int32_t layer, int32_t head, int64_t position) {
  return MixBits(
      static_cast<uint32_t>(position) * 0x9e3779b9U +
      MixBits(static_cast<uint32_t>(layer) * 1024U + static_cast<uint32_t>(head)));
}

}  // namespace quire
