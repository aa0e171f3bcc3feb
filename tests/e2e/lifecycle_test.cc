#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/rpc.h"

// How the server comes and goes, as seen by its clients and by whoever supervises it.
namespace quire::e2e {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr char kInference[] = "quire.v1.InferenceService";

std::unique_ptr<Process> StartAnswer(const Server& server, int tokens) {
  auto quire = StartQuire(server, {"generate", "Once upon a time", "--ignore-eos",
                                   "--max-tokens", std::to_string(tokens)});
  EXPECT_TRUE(WaitUntil([&] { return !quire->out().empty(); })) << quire->err();
  return quire;
}

TEST(LifecycleTest, HealthIsServingForEachService) {
  Server server({ModelFolder("quire-19m")});
  ASSERT_TRUE(server.ready()) << server.log();
  RawClient client(server.grpc());
  EXPECT_EQ(client.Health(""), kHealthServing);
  EXPECT_EQ(client.Health(kInference), kHealthServing);
  EXPECT_EQ(client.Health("quire.v1.ModelService"), kHealthServing);
  EXPECT_EQ(client.Health("quire.v1.Nothing"), -static_cast<int>(grpc::NOT_FOUND));
  EXPECT_EQ(server.Stop(), 0) << server.log();
}

TEST(LifecycleTest, TheFirstSignalLetsARunningRequestFinish) {
  Server server({ModelFolder("quire-19m")}, {"--drain-seconds", "3600"});
  ASSERT_TRUE(server.ready()) << server.log();
  const auto quire = StartAnswer(server, 300);
  server.Signal(SIGTERM);
  ASSERT_TRUE(server.WaitForLog("\"event\":\"draining\""));
  const ProcessResult answer = quire->Wait();
  EXPECT_EQ(answer.exit_code, 0) << answer.err;
  EXPECT_THAT(answer.err, HasSubstr("wrote 300 in "));
  const ProcessResult result = server.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("\"event\":\"stopped\""));
  EXPECT_THAT(result.err, testing::Not(HasSubstr("\"event\":\"cancelling\"")));
}

void ExpectDraining(const Server& server, RawClient& client) {
  const auto refused = Generate(client, SmallRequest());
  EXPECT_EQ(refused.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(Reason(refused.status), "DRAINING");
  EXPECT_EQ(client.Health(kInference), kHealthNotServing);
  EXPECT_THAT(server.Http("GET", "/healthz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(server.Http("GET", "/healthz"), HasSubstr("draining\n"));
  EXPECT_EQ(server.Metric("quire_admission_rejections_total{reason=\"draining\"}"), 1);
}

TEST(LifecycleTest, WhileDrainingCallsAreRefusedAndTheSecondSignalCancels) {
  Server server({ModelFolder("quire-19m")}, {"--drain-seconds", "3600"});
  ASSERT_TRUE(server.ready()) << server.log();
  RawClient client(server.grpc());
  ASSERT_TRUE(Generate(client, SmallRequest()).status.ok());  // connected
  const auto quire = StartAnswer(server, 16'000);
  server.Signal(SIGTERM);
  ASSERT_TRUE(server.WaitForLog("\"event\":\"draining\""));
  ExpectDraining(server, client);
  EXPECT_FALSE(server.exited());
  server.Signal(SIGTERM);
  const ProcessResult answer = quire->Wait();
  EXPECT_EQ(answer.exit_code, 3) << answer.err;
  EXPECT_THAT(answer.err, HasSubstr("the server is shutting down"));
  const ProcessResult result = server.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("\"event\":\"cancelling\""));
}

TEST(LifecycleTest, AtTheEndOfTheDrainWhatIsLeftIsCancelled) {
  Server server({ModelFolder("quire-19m")}, {"--drain-seconds", "0.2"});
  ASSERT_TRUE(server.ready()) << server.log();
  const auto quire = StartAnswer(server, 16'000);
  server.Signal(SIGINT);
  EXPECT_EQ(quire->Wait().exit_code, 3);
  EXPECT_EQ(server.Wait().exit_code, 0) << server.log();
}

TEST(LifecycleTest, AnIdleServerStopsAndItsClientsAreToldSo) {
  Server server({ModelFolder("quire-19m")});
  ASSERT_TRUE(server.ready()) << server.log();
  EXPECT_EQ(server.Stop(), 0) << server.log();
  const ProcessResult quire = RunQuire(server, {"models"});
  EXPECT_EQ(quire.exit_code, 3);
  EXPECT_THAT(quire.err, HasSubstr("no service from " + server.grpc()));
}

}  // namespace
}  // namespace quire::e2e
