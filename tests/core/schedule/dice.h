#pragma once

#include <cstdint>
#include <random>

namespace quire {

// Random integers, the same on every machine.
class Dice {
 public:
  explicit Dice(uint32_t seed) : random_(seed) {}
  // [0, count)
  int64_t Below(int64_t count) { return static_cast<int64_t>(random_() % count); }
  // [least, most]
  int64_t In(int64_t least, int64_t most) { return least + Below(most - least + 1); }
  bool OneIn(int64_t count) { return Below(count) == 0; }
  std::mt19937& generator() { return random_; }

 private:
  std::mt19937 random_;
};

}  // namespace quire
