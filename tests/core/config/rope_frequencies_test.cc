#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "core/config/model_config.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

struct RopeCase {
  std::string name;
  RopeConfig rope;
  int32_t head_dim;
  // Channel and frequency, computed by transformers 5.17 with the same settings.
  std::vector<std::pair<size_t, double>> expected;
};

RopeConfig Rope(RopeType type, double theta, double factor, int32_t original) {
  RopeConfig rope;
  rope.type = type;
  rope.theta = theta;
  rope.factor = factor;
  rope.original_max_positions = original;
  return rope;
}

std::vector<RopeCase> Cases() {
  RopeConfig untruncated = Rope(RopeType::kYarn, 150000, 32, 4096);
  untruncated.truncate = false;
  return {
      {"Default",
       Rope(RopeType::kDefault, 10000, 1, 0),
       64,
       {{0, 1},
        {1, 0.749894202},
        {5, 0.237137362},
        {16, 0.00999999978},
        {31, 0.00013335215}}},
      {"LargeTheta",
       Rope(RopeType::kDefault, 1e6, 1, 0),
       64,
       {{1, 0.649381638},
        {10, 0.0133352149},
        {25, 2.05352499e-05},
        {31, 1.53992653e-06}}},
      {"Linear",
       Rope(RopeType::kLinear, 10000, 4, 0),
       64,
       {{0, 0.25}, {1, 0.18747355}, {17, 0.00187473558}, {31, 3.33380376e-05}}},
      {"Llama3",
       Rope(RopeType::kLlama3, 500000, 8, 8192),
       64,
       {{0, 1},
        {1, 0.663601279},
        {13, 0.00483942125},
        {16, 0.000524846022},
        {17, 0.000178507791},
        {18, 7.78465546e-05},
        {31, 3.7673226e-07}}},
      {"Llama3Tiny",
       Rope(RopeType::kLlama3, 10000, 2, 64),
       16,
       {{0, 1}, {1, 0.275174528}, {5, 0.00158113893}}},
      {"Yarn",
       Rope(RopeType::kYarn, 1e6, 4, 32768),
       64,
       {{1, 0.649381638},
        {10, 0.0133352149},
        {13, 0.0030431177},
        {16, 0.000583333371},
        {20, 4.44569851e-05},
        {31, 3.84981632e-07}}},
      {"YarnUntruncated",
       untruncated,
       64,
       {{1, 0.689044297},
        {10, 0.0193349998},
        {13, 0.00386035908},
        {17, 0.000129318694},
        {18, 3.83088118e-05},
        {31, 3.0235114e-07}}},
      {"YarnTinyHead", Rope(RopeType::kYarn, 10000, 2, 32), 4, {{0, 1}, {1, 0.005}}},
      {"YarnTinyHeadOf8",
       Rope(RopeType::kYarn, 10000, 2, 32),
       8,
       {{0, 1}, {1, 0.0500000007}}},
  };
}

void PrintTo(const RopeCase& param, std::ostream* out) { *out << param.name; }

class RopeFrequencies : public testing::TestWithParam<RopeCase> {};

TEST_P(RopeFrequencies, EqualTransformers) {
  const RopeCase& param = GetParam();
  const std::vector<double> got =
      RopeInverseFrequencies(param.rope, param.head_dim, 4096);
  ASSERT_EQ(got.size(), static_cast<size_t>(param.head_dim / 2));
  for (const auto& [channel, frequency] : param.expected) {
    EXPECT_NEAR(got[channel], frequency, 3e-7 * frequency) << "channel " << channel;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, RopeFrequencies, testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

TEST(RopeFrequenciesTest, OriginalLengthFallsBackToMaxPositions) {
  const RopeConfig stated = Rope(RopeType::kYarn, 10000, 4, 2048);
  const RopeConfig open = Rope(RopeType::kYarn, 10000, 4, 0);
  EXPECT_EQ(RopeInverseFrequencies(open, 64, 2048),
            RopeInverseFrequencies(stated, 64, 9999));
  EXPECT_NE(RopeInverseFrequencies(open, 64, 4096),
            RopeInverseFrequencies(stated, 64, 9999));
}

}  // namespace
}  // namespace quire
