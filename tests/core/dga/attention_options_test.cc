#include "core/dga/attention_options.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace quire {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Change>
std::string Refusal(Change change) {
  AttentionOptions options;
  change(options);
  const absl::Status status = options.Validate("request.attention");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(AttentionOptionsTest, DefaultsAndLimitsThemselvesAreValid) {
  EXPECT_EQ(AttentionOptions().Validate(), absl::OkStatus());
  for (const float x : {0.0f, 1.0f}) {
    EXPECT_EQ((AttentionOptions{.eps = x, .max_error = x}).Validate(), absl::OkStatus());
  }
  AttentionOptions options;
  options.faithful = {.group_tokens = 1,
                      .focal_share = std::numeric_limits<float>::min(),
                      .min_focal_tokens = 0,
                      .sampled_queries = 1};
  EXPECT_EQ(options.Validate(), absl::OkStatus());
  options.faithful.focal_share = 1;
  EXPECT_EQ(options.Validate(), absl::OkStatus());
}

TEST(AttentionOptionsTest, EpsAndMaxErrorAreInTheUnitInterval) {
  EXPECT_EQ(Refusal([](auto& o) { o.eps = -0.5f; }),
            "request.attention.eps is -0.5; it must be in [0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.eps = 1.5f; }),
            "request.attention.eps is 1.5; it must be in [0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.eps = kNan; }),
            "request.attention.eps is nan; it must be in [0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.eps = kInfinity; }),
            "request.attention.eps is inf; it must be in [0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.max_error = -0.5f; }),
            "request.attention.max_error is -0.5; it must be in [0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.max_error = 2; }),
            "request.attention.max_error is 2; it must be in [0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.max_error = kNan; }),
            "request.attention.max_error is nan; it must be in [0, 1]");
}

TEST(AttentionOptionsTest, FaithfulParametersHaveTheirLimitsInEveryMode) {
  const std::string path = "request.attention.faithful.";
  EXPECT_EQ(Refusal([](auto& o) { o.faithful.group_tokens = 0; }),
            path + "group_tokens is 0; it must be >= 1");
  EXPECT_EQ(Refusal([](auto& o) { o.faithful.focal_share = 0; }),
            path + "focal_share is 0; it must be in (0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.faithful.focal_share = 1.25f; }),
            path + "focal_share is 1.25; it must be in (0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.faithful.focal_share = kNan; }),
            path + "focal_share is nan; it must be in (0, 1]");
  EXPECT_EQ(Refusal([](auto& o) { o.faithful.min_focal_tokens = -1; }),
            path + "min_focal_tokens is -1; it must be >= 0");
  EXPECT_EQ(Refusal([](auto& o) { o.faithful.sampled_queries = 0; }),
            path + "sampled_queries is 0; it must be >= 1");
}

TEST(AttentionOptionsTest, ThePathIsAttentionUnlessNamed) {
  EXPECT_EQ((AttentionOptions{.eps = 2}).Validate(),
            absl::InvalidArgumentError("attention.eps is 2; it must be in [0, 1]"));
}

// Sinks 64 + window 128: below 193 visible tokens nothing is left to choose from.
TEST(AttentionOptionsTest, SparseFromIsTheModesOwnOrAsAskedButNeverInsideTheWindow) {
  const auto from = [](AttentionMode mode, int32_t min_sparse_tokens) {
    return AttentionOptions{.mode = mode, .min_sparse_tokens = min_sparse_tokens}
        .SparseFrom();
  };
  EXPECT_EQ(from(AttentionMode::kAuto, -1), 4096);
  EXPECT_EQ(from(AttentionMode::kRefined, -1), 193);
  EXPECT_EQ(from(AttentionMode::kAuto, 1000), 1000);
  EXPECT_EQ(from(AttentionMode::kRefined, 1000), 1000);
  EXPECT_EQ(from(AttentionMode::kAuto, 0), 193);
  EXPECT_EQ(from(AttentionMode::kRefined, 192), 193);
  EXPECT_EQ(from(AttentionMode::kRefined, 194), 194);
}

TEST(AttentionOptionsTest, AutoIsSparseOnlyWhereItPays) {
  AttentionOptions options{.min_sparse_tokens = 1000, .refined_pays_from = 7000};
  EXPECT_EQ(options.SparseFrom(), 7000);
  options.min_sparse_tokens = 8000;
  EXPECT_EQ(options.SparseFrom(), 8000);
  options.refined_pays_from = kNeverPays;
  EXPECT_EQ(options.SparseFrom(), kNeverPays);
  options.compact = true;
  EXPECT_EQ(options.SparseFrom(), 8000);
  options.compact = false;
  options.mode = AttentionMode::kRefined;
  EXPECT_EQ(options.SparseFrom(), 8000);
}

TEST(AttentionOptionsTest, ModesHaveNames) {
  EXPECT_EQ(AttentionModeName(AttentionMode::kAuto), "AUTO");
  EXPECT_EQ(AttentionModeName(AttentionMode::kDense), "DENSE");
  EXPECT_EQ(AttentionModeName(AttentionMode::kFaithful), "FAITHFUL");
  EXPECT_EQ(AttentionModeName(AttentionMode::kRefined), "REFINED");
}

}  // namespace
}  // namespace quire
