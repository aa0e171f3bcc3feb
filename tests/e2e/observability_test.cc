#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/e2e/service.h"

// What the server tells those who run it: metrics, health over HTTP, log, reflection.
namespace quire::e2e {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

class ObservabilityTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(server_.ready()) << server_.log(); }
  void TearDown() override { EXPECT_EQ(server_.Stop(), 0) << server_.log(); }

  Server server_{{ModelFolder("quire-19m")}};
};

Json RunForJson(const Server& server, std::vector<std::string> arguments,
                const std::string& input = "") {
  arguments.push_back("--json");
  const ProcessResult quire = RunQuire(server, arguments, input);
  EXPECT_EQ(quire.exit_code, 0) << quire.err;
  return Json::parse(quire.out);
}

TEST_F(ObservabilityTest, MetricsCountTheCallsThatWereMade) {
  const auto calls = [&](const std::string& method, const std::string& code) {
    return server_.Metric(absl::StrCat("quire_request_seconds_count{code=\"", code,
                                       "\",method=\"", method, "\"}"));
  };
  int64_t prompt = 0, generated = 0;
  for (const char* text : {"Once upon a time", "The captain said"}) {
    const Json usage =
        RunForJson(server_, {"generate", text, "--ignore-eos", "--max-tokens", "5"})
            .at("usage");
    prompt += usage.at("prompt_tokens").get<int64_t>();
    generated += usage.at("generated_tokens").get<int64_t>();
  }
  const Json score = RunForJson(server_, {"score", "-"}, "A story of the sea.");
  prompt += score.at("usage").at("prompt_tokens").get<int64_t>();
  EXPECT_EQ(RunQuire(server_, {"generate", "x", "--top-p", "3"}).exit_code, 2);
  EXPECT_EQ(RunQuire(server_, {"generate", "x", "--model", "none"}).exit_code, 6);

  EXPECT_EQ(generated, 10);
  EXPECT_EQ(calls("Generate", "OK"), 2);
  EXPECT_EQ(calls("Generate", "INVALID_ARGUMENT"), 1);
  EXPECT_EQ(calls("Generate", "NOT_FOUND"), 1);
  EXPECT_EQ(calls("Score", "OK"), 1);
  EXPECT_EQ(server_.Metric("quire_prompt_tokens_total"), static_cast<double>(prompt));
  EXPECT_EQ(server_.Metric("quire_generated_tokens_total"), 10);
  EXPECT_EQ(
      server_.Metric("quire_time_to_first_token_seconds_count{method=\"Generate\"}"), 2);
  EXPECT_EQ(server_.Metric("quire_inter_token_latency_seconds_count"), 4 + 4);
  EXPECT_EQ(server_.Metric("quire_requests_running{model=\"quire-19m\"}"), 0);
  EXPECT_EQ(server_.Metric("quire_requests_waiting{model=\"quire-19m\"}"), 0);
  EXPECT_EQ(server_.Metric("quire_kv_cache_usage_ratio{model=\"quire-19m\"}"), 0);
}

TEST_F(ObservabilityTest, HttpAnswersItsPathsAndRefusesTheRest) {
  EXPECT_THAT(server_.Http("GET", "/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(server_.Http("GET", "/healthz"), HasSubstr("\r\n\r\nok\n"));
  const std::string page = server_.Http("GET", "/metrics");
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(page, HasSubstr("\nquire_build_info{version="));
  EXPECT_THAT(page, HasSubstr("\nquire_model_info{"));
  EXPECT_THAT(page, HasSubstr("model=\"quire-19m\""));
  EXPECT_THAT(page, HasSubstr("\nprocess_resident_memory_bytes "));
  EXPECT_THAT(server_.Http("GET", "/"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(server_.Http("GET", "/"), HasSubstr("\r\nContent-Type: text/html"));
  EXPECT_THAT(server_.Http("GET", "/..%2f..%2fetc/passwd"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(server_.Http("GET", "/etc/passwd"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(server_.Http("POST", "/metrics"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(server_.Http("DELETE", "/healthz"), HasSubstr("\r\nAllow: GET, HEAD\r\n"));
  EXPECT_THAT(server_.Http("HEAD", "/healthz"), testing::EndsWith("\r\n\r\n"));
}

TEST(HostileNamesTest, AModelsFolderCannotForgeLines) {
  const std::string forged = "m\"} 1\nquire_forged_total{x=\"";
  const std::string folder =
      absl::StrCat(testing::TempDir(), "quire_hostile_", getpid(), "/", forged);
  std::filesystem::create_directories(std::filesystem::path(folder).parent_path());
  std::filesystem::create_directory_symlink(
      std::filesystem::absolute(ModelFolder("quire-19m")), folder);
  {
    Server server({folder});
    ASSERT_TRUE(server.ready()) << server.log();
    EXPECT_EQ(server.Metric("quire_requests_running{model=\"m%22} "
                            "1%0Aquire_forged_total{x=%22\"}"),
              0);
    const std::string page = server.Http("GET", "/metrics");
    EXPECT_EQ(page.find("\nquire_forged_total"), std::string::npos);
    EXPECT_NE(page.find("model=\"m%22} 1%0Aquire_forged_total{x=%22\""),
              std::string::npos);
    EXPECT_EQ(server.Stop(), 0) << server.log();
  }
  std::filesystem::remove_all(std::filesystem::path(folder).parent_path());
}

// The line of that request, parsed; every line must be JSON.
Json LogLine(Server& server, const std::string& request_id) {
  EXPECT_TRUE(server.WaitForLog("\"request_id\":\"" + request_id + "\""));
  Json found;
  for (const absl::string_view line :
       absl::StrSplit(server.log(), '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line);
    EXPECT_TRUE(json.contains("time") && json.contains("level")) << line;
    if (json.value("request_id", "") == request_id) found = json;
  }
  return found;
}

TEST_F(ObservabilityTest, TheLogHasALineForEachCallAndNothingOfItsText) {
  const std::string secret = "the word is xylophone";
  RunQuire(server_, {"generate", secret, "--max-tokens", "3", "--ignore-eos",
                     "--request-id", "good-1"});
  RunQuire(server_, {"generate", secret, "--top-k", "-4", "--request-id", "bad-1"});
  const Json good = LogLine(server_, "good-1");
  EXPECT_EQ(good.at("event"), "call");
  EXPECT_EQ(good.at("method"), "Generate");
  EXPECT_EQ(good.at("code"), "OK");
  EXPECT_EQ(good.at("model"), "quire-19m");
  EXPECT_EQ(good.at("generated_tokens"), 3);
  EXPECT_GT(good.at("prompt_tokens").get<int>(), 3);
  const Json bad = LogLine(server_, "bad-1");
  EXPECT_EQ(bad.at("code"), "INVALID_ARGUMENT");
  EXPECT_EQ(bad.at("field"), "sampling.top_k");
  EXPECT_EQ(server_.log().find("xylophone"), std::string::npos);
}

// ---------------------------------------------------------------------------- reflection

// grpcurl's path, or "": install_peers.sh installs it.
std::string FindGrpcurl() {
  const char* path = std::getenv("PATH");
  for (const absl::string_view folder :
       absl::StrSplit(path == nullptr ? "" : path, ':')) {
    const std::string candidate = absl::StrCat(folder, "/grpcurl");
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

class GrpcurlTest : public ObservabilityTest {
 protected:
  void SetUp() override {
    ObservabilityTest::SetUp();
    if (FindGrpcurl().empty()) GTEST_SKIP() << "grpcurl is not installed";
  }
  // `grpcurl -plaintext OPTION... SERVER ARGUMENT...`
  std::string Grpcurl(const std::vector<std::string>& options,
                      const std::vector<std::string>& arguments) {
    std::vector<std::string> line = {FindGrpcurl(), "-plaintext"};
    line.insert(line.end(), options.begin(), options.end());
    line.push_back(server_.grpc());
    line.insert(line.end(), arguments.begin(), arguments.end());
    const ProcessResult result = Process(line).Wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
};

TEST_F(GrpcurlTest, ReflectionListsAndDescribesEverything) {
  const std::string services = Grpcurl({}, {"list"});
  for (const char* name : {"quire.v1.InferenceService", "quire.v1.ModelService",
                           "grpc.health.v1.Health", "grpc.reflection.v1alpha"}) {
    EXPECT_THAT(services, HasSubstr(name));
  }
  const std::string service = Grpcurl({}, {"describe", "quire.v1.InferenceService"});
  EXPECT_THAT(service, HasSubstr("rpc ScoreBatch ( stream .quire.v1.ScoreBatchRequest ) "
                                 "returns ( stream .quire.v1.ScoreBatchResponse );"));
  EXPECT_THAT(Grpcurl({}, {"describe", "quire.v1.Usage"}),
              HasSubstr("int64 prompt_tokens = 1;"));
}

TEST_F(GrpcurlTest, CallsNeedNoGeneratedCode) {
  const Json models =
      Json::parse(Grpcurl({"-d", "{}"}, {"quire.v1.ModelService/ListModels"}));
  EXPECT_EQ(models.at("models").at(0).at("name"), "quire-19m");
  const std::string answer =
      Grpcurl({"-d",
               R"({"input": {"text": "VGhlIHNlYQ=="}, "maxNewTokens": 3,
                   "ignoreEos": true})"},
              {"quire.v1.InferenceService/Generate"});
  EXPECT_THAT(answer, HasSubstr("\"generated_tokens\": \"3\""));
  EXPECT_THAT(answer, HasSubstr("FINISH_REASON_LENGTH"));
}

TEST_F(GrpcurlTest, HealthIsDescribedAndServing) {
  const std::string answer =
      Grpcurl({"-d", R"({"service": "quire.v1.InferenceService"})"},
              {"grpc.health.v1.Health/Check"});
  EXPECT_EQ(Json::parse(answer).at("status"), "SERVING");
}

}  // namespace
}  // namespace quire::e2e
