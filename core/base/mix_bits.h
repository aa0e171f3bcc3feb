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

}  // namespace quire
