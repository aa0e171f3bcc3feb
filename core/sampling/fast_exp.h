#pragma once

#include <bit>
#include <cstdint>

namespace quire {

// exp(x) for x <= 0 with a relative error below 1e-15; 0 for x < -700 and for NaN. It has
// no branch and calls nothing, so a compiler turns a loop over it into vector
// instructions: a softmax over a large vocabulary is several times faster than with
// std::exp. x = n ln 2 + r, |r| <= ln 2 / 2; exp(r) is its Taylor polynomial of
// degree 12.
inline double FastExp(double x) {
  constexpr double kLog2E = 1.4426950408889634074;
  constexpr double kLn2High =
      0x1.62e42fee00000p-1;  // short, so that n * kLn2High is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;  // ln 2 - kLn2High
  constexpr double kToInteger = 0x1.8p52;            // adding it rounds to the low bits
  const double clamped = x > -700.0 ? x : -700.0;    // NaN too
  const double shifted = clamped * kLog2E + kToInteger;
  const double n = shifted - kToInteger;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;
  const double r2 = r * r;
  const double r4 = r2 * r2;
  const double low = (1.0 + r) + r2 * (1.0 / 2 + r * (1.0 / 6));
  const double middle =
      (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
  const double high =
      (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800 + r * (1.0 / 39916800));
  const double fraction = low + r4 * (middle + r4 * (high + r4 * (1.0 / 479001600)));
  // Two to the n-th: n stands in the low bits of `shifted`, the exponent's bias is 1023.
  const uint64_t exponent = (std::bit_cast<uint64_t>(shifted) + 1023) << 52;
  const double result = fraction * std::bit_cast<double>(exponent);
  return x > -700.0 ? result : 0.0;
}

}  // namespace quire
