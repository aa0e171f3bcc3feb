#pragma once

#include <cstdint>

namespace quire {

// A uniform number in [0, 1) that depends on (seed, step) alone: no state is carried from
// one token to the next, so batching, pausing and replaying change nothing. SplitMix64
// (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
// with Stafford's mix 13): output `step` of the stream whose start is the mixed seed. The
// seed is mixed so that near seeds do not give the same stream shifted.
double UniformAt(uint64_t seed, int64_t step);

}  // namespace quire
