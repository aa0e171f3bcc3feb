#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace quire {

// Breaks valid inputs in the ways that find bugs in parsers: flipped bits, extreme
// integers, cuts, repeats, and pieces of other inputs. The same seed gives the same
// inputs everywhere (std::mt19937_64 is specified to the bit; distributions are not, so
// none is used).
class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  // One input with 1 to 4 mutations. REQUIRES: corpus not empty.
  std::string Next(const std::vector<std::string>& corpus);

 private:
  uint64_t Below(uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }
  void Mutate(const std::vector<std::string>& corpus, std::string& input);
  void OverwriteInteger(std::string& input);
  void ReplaceNumber(std::string& input);

  std::mt19937_64 random_;
};

}  // namespace quire
