#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

namespace quire {
namespace {

constexpr std::array<uint64_t, 12> kIntegers = {0,
                                                1,
                                                2,
                                                31,
                                                33,
                                                255,
                                                65536,
                                                0x7fffffff,
                                                0xffffffff,
                                                uint64_t{1} << 62,
                                                uint64_t{1} << 63,
                                                UINT64_MAX};

constexpr std::array<const char*, 14> kNumbers = {"0",
                                                  "-1",
                                                  "1",
                                                  "7",
                                                  "2147483648",
                                                  "9223372036854775807",
                                                  "9223372036854775808",
                                                  "18446744073709551616",
                                                  "1e400",
                                                  "0.5",
                                                  "null",
                                                  "true",
                                                  "[]",
                                                  "{}"};

}  // namespace

// Writes an extreme integer of 1 to 8 bytes anywhere.
void Mutator::OverwriteInteger(std::string& input) {
  const size_t width = size_t{1} << Below(4);
  if (input.size() < width) return;
  const uint64_t value = kIntegers[Below(kIntegers.size())];
  std::memcpy(input.data() + Below(input.size() - width + 1), &value, width);
}

// Replaces a run of digits, as JSON has them.
void Mutator::ReplaceNumber(std::string& input) {
  const auto digit = [](unsigned char c) { return std::isdigit(c) != 0; };
  const auto from = input.begin() + static_cast<std::ptrdiff_t>(Below(input.size()));
  const auto begin = std::find_if(from, input.end(), digit);
  const auto end = std::find_if_not(begin, input.end(), digit);
  input.replace(begin, end, kNumbers[Below(kNumbers.size())]);
}

void Mutator::Mutate(const std::vector<std::string>& corpus, std::string& input) {
  const size_t at = Below(input.size());
  const size_t length = std::min<size_t>(1 + Below(24), input.size() - at);
  switch (Below(8)) {
    case 0:
      if (!input.empty()) input[at] ^= static_cast<char>(1 << Below(8));
      break;
    case 1:
      if (!input.empty()) input[at] = static_cast<char>(Below(256));
      break;
    case 2:
      OverwriteInteger(input);
      break;
    case 3:
      ReplaceNumber(input);
      break;
    case 4:
      input.resize(at);
      break;
    case 5:
      input.erase(at, length);
      break;
    case 6:
      input.insert(at, input.substr(at, length));
      break;
    default: {
      const std::string& other = corpus[Below(corpus.size())];
      input.insert(at, other.substr(Below(other.size()), 1 + Below(64)));
    }
  }
}

std::string Mutator::Next(const std::vector<std::string>& corpus) {
  std::string input = corpus[Below(corpus.size())];
  for (uint64_t rounds = 1 + Below(4); rounds > 0; --rounds) Mutate(corpus, input);
  return input;
}

}  // namespace quire
