#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/e2e/service.h"
#include "tests/support/load/load.h"

// Many clients at once: what becomes of each request, and whether the books balance. The
// same at length, for numbers: tests/benchmarks/load_bench.
namespace quire::e2e {
namespace {

using load::LoadOptions;
using load::Report;
using load::Result;

class ManyUsersTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(server_.ready()) << server_.log(); }
  void TearDown() override { EXPECT_EQ(server_.Stop(), 0) << server_.log(); }

  // Calls of all methods that ended so.
  double Calls(const std::string& code) const {
    double sum = 0;
    for (const char* method : {"Generate", "Score", "Summarize"}) {
      const double calls = server_.Metric(absl::StrCat(
          "quire_request_seconds_count{code=\"", code, "\",method=\"", method, "\"}"));
      sum += calls > 0 ? calls : 0;  // -1: no line
    }
    return sum;
  }

  // Nothing is left of what was asked: no request, no block in use.
  void ExpectIdle() const {
    // What the last clients cancelled ends with the step under way.
    for (int i = 0; i < 500 && server_.Metric("quire_tenants{model=\"quire-19m\"}") > 0;
         ++i) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    const ProcessResult load = RunQuire(server_, {"load", "--json"});
    ASSERT_EQ(load.exit_code, 0) << load.err;
    EXPECT_EQ(server_.Metric("quire_requests_running{model=\"quire-19m\"}"), 0);
    EXPECT_EQ(server_.Metric("quire_requests_waiting{model=\"quire-19m\"}"), 0);
    EXPECT_EQ(server_.Metric("quire_kv_cache_usage_ratio{model=\"quire-19m\"}"), 0);
    EXPECT_EQ(server_.Metric("quire_tenants{model=\"quire-19m\"}"), 0);
  }

  Server server_{{ModelFolder("quire-19m")},
                 {"--admission", "enforce", "--max-running", "16", "--chunk-tokens",
                  "128", "--max-waiting", "8"}};
};

std::map<std::string, int> Codes(const Report& report) {
  std::map<std::string, int> codes;
  for (const Result& result : report.results) ++codes[result.code];
  return codes;
}

TEST_F(ManyUsersTest, MixedLoadEndsInAnswersAndTheBooksBalance) {
  const LoadOptions options{.server = server_.grpc(),
                            .per_second = 12,
                            .seconds = 4,
                            .clients = 24,
                            .min_prompt = 20,
                            .max_prompt = 150,
                            .new_tokens = 12,
                            .score_share = 0.2,
                            .summarize_share = 0.1,
                            .deadline_s = 60,
                            .cancel_share = 0.15,
                            .tenants = 3,
                            .documents = 4};
  const Report report = load::Run(options);
  std::map<std::string, int> codes = Codes(report);
  EXPECT_GT(codes["OK"], 0);
  int64_t prompt = 0, generated = 0;
  for (const Result& result : report.results) {
    EXPECT_THAT((std::set<std::string>{"OK", "CANCELLED", "RESOURCE_EXHAUSTED"}),
                testing::Contains(result.code));
    if (result.code != "OK") continue;
    prompt += result.prompt_tokens;
    generated += result.generated_tokens;
  }
  ExpectIdle();
  EXPECT_EQ(Calls("RESOURCE_EXHAUSTED"), codes["RESOURCE_EXHAUSTED"]);
  // A call that is cancelled before the server has seen it is the client's alone, and one
  // that is cancelled while its last event is on its way is OK for the server alone.
  EXPECT_GE(Calls("OK"), codes["OK"]);
  EXPECT_LE(Calls("OK") + Calls("CANCELLED"), codes["OK"] + codes["CANCELLED"]);
  EXPECT_GE(server_.Metric("quire_prompt_tokens_total") +
                server_.Metric("quire_prefix_cached_tokens_total"),
            static_cast<double>(prompt));
  EXPECT_GE(server_.Metric("quire_generated_tokens_total"),
            static_cast<double>(generated));
  EXPECT_GT(server_.Metric("quire_prefix_cached_tokens_total"), 0);
}

TEST_F(ManyUsersTest, TooManyRequestsAreRefusedClearlyAndAtOnce) {
  const LoadOptions options{.server = server_.grpc(),
                            .per_second = 120,
                            .seconds = 3,
                            .clients = 64,
                            .min_prompt = 200,
                            .max_prompt = 400,
                            .new_tokens = 60,
                            .deadline_s = 4};
  const Report report = load::Run(options);
  std::map<std::string, int> codes = Codes(report);
  EXPECT_GT(codes["RESOURCE_EXHAUSTED"], 0);
  int refused = 0;
  for (const Result& result : report.results) {
    EXPECT_THAT((std::set<std::string>{"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}),
                testing::Contains(result.code));
    if (result.code != "RESOURCE_EXHAUSTED") continue;
    ++refused;
    EXPECT_TRUE(result.retry_info);
    EXPECT_THAT((std::set<std::string>{"WAITING_ROOM_FULL", "DEADLINE_UNREACHABLE"}),
                testing::Contains(result.reason));
  }
  ExpectIdle();
  const auto rejected = [&](const std::string& reason) {
    return server_.Metric(
        absl::StrCat("quire_admission_rejections_total{reason=\"", reason, "\"}"));
  };
  EXPECT_EQ(rejected("waiting_room_full") + rejected("deadline_unreachable"), refused);
  // A deadline may pass while the last event is on its way.
  EXPECT_GE(Calls("OK"), codes["OK"]);
  EXPECT_LE(Calls("OK"), codes["OK"] + codes["DEADLINE_EXCEEDED"]);
}

}  // namespace
}  // namespace quire::e2e
