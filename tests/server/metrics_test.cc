#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "server/config.h"
#include "server/observability/http_endpoint.h"
#include "tests/server/test_server.h"

namespace quire::server {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// What the address answers to these bytes, headers and all.
std::string Exchange(const std::string& address, const std::string& request) {
  const HostPort at = *ParseHostPort(address);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(at.port));
  inet_pton(AF_INET, at.host.c_str(), &peer.sin_addr);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  return answer;
}

std::string Ask(const HttpEndpoint& endpoint, const std::string& method,
                const std::string& path) {
  return Exchange(endpoint.address(),
                  method + " " + path + " HTTP/1.1\r\nHost: quire\r\n\r\n");
}

class HttpEndpointTest : public testing::Test {
 protected:
  explicit HttpEndpointTest(TestServerOptions options = {}) : server_(options) {
    auto endpoint = HttpEndpoint::Start(
        "127.0.0.1:0", {&server_.registry(), &server_.engines(), &process_},
        server_.state());
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }

  TestServer server_;
  ProcessCollector process_;
  std::unique_ptr<HttpEndpoint> endpoint_;
};

class LoadingHttpEndpointTest : public HttpEndpointTest {
 protected:
  LoadingHttpEndpointTest() : HttpEndpointTest({.serve = false}) {}
};

TEST_F(LoadingHttpEndpointTest, HealthFollowsThePhase) {
  EXPECT_THAT(Ask(*endpoint_, "GET", "/healthz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Ask(*endpoint_, "GET", "/healthz"), HasSubstr("\r\n\r\nloading\n"));
  EXPECT_THAT(Ask(*endpoint_, "GET", "/metrics"),
              Not(HasSubstr("quire_requests_running")));
  server_.Serve();
  EXPECT_THAT(Ask(*endpoint_, "GET", "/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Ask(*endpoint_, "GET", "/healthz"), HasSubstr("\r\n\r\nok\n"));
  server_.state().Drain();
  EXPECT_THAT(Ask(*endpoint_, "GET", "/healthz"), HasSubstr("\r\n\r\ndraining\n"));
}

TEST_F(HttpEndpointTest, OtherPathsAndMethodsAreRefused) {
  EXPECT_THAT(Ask(*endpoint_, "GET", "/"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask(*endpoint_, "GET", "/metrics/x"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask(*endpoint_, "DELETE", "/metrics"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Ask(*endpoint_, "DELETE", "/metrics"),
              HasSubstr("\r\nAllow: GET, HEAD\r\n"));
  EXPECT_THAT(
      Exchange(endpoint_->address(),
               "POST /metrics HTTP/1.1\r\nHost: q\r\nContent-Length: 9999999\r\n\r\nabc"),
      StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Ask(*endpoint_, "GET", "/" + std::string(20000, 'x')),
              StartsWith("HTTP/1.1 414 "));
  const std::string head = Ask(*endpoint_, "HEAD", "/metrics");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(head, testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask(*endpoint_, "GET", "/healthz"),
              StartsWith("HTTP/1.1 200 "));  // still there
}

TEST_F(HttpEndpointTest, APortInUseIsRefusedByName) {
  const auto second = HttpEndpoint::Start(endpoint_->address(), {}, server_.state());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(second.status().message()),
      HasSubstr("http_listen is '" + endpoint_->address() + "'; cannot listen there"));
}

void MakeSomeCalls(TestServer& server) {
  v1::GenerateRequest generate;
  generate.mutable_input()->mutable_token_ids()->add_ids(300);
  generate.mutable_input()->mutable_token_ids()->add_ids(301);
  generate.set_max_new_tokens(5);
  grpc::ClientContext first;
  EXPECT_TRUE(ReadAll(server.inference().Generate(&first, generate)).status.ok());
  grpc::ClientContext second;
  EXPECT_TRUE(ReadAll(server.inference().Generate(&second, generate)).status.ok());
  generate.set_top_logprobs(99);
  grpc::ClientContext third;
  EXPECT_FALSE(ReadAll(server.inference().Generate(&third, generate)).status.ok());
  v1::ScoreRequest score;
  for (int id = 1; id <= 11; ++id)
    score.mutable_input()->mutable_token_ids()->add_ids(id);
  grpc::ClientContext fourth;
  EXPECT_TRUE(ReadAll(server.inference().Score(&fourth, score)).status.ok());
}

TEST_F(HttpEndpointTest, CountsAKnownSetOfCalls) {
  MakeSomeCalls(server_);
  const auto is = [&](const std::string& series) { return server_.Metric(series); };
  EXPECT_EQ(is("quire_request_seconds_count{code=\"OK\",method=\"Generate\"}"), 2);
  EXPECT_EQ(
      is("quire_request_seconds_count{code=\"INVALID_ARGUMENT\",method=\"Generate\"}"),
      1);
  EXPECT_EQ(is("quire_request_seconds_count{code=\"OK\",method=\"Score\"}"), 1);
  EXPECT_EQ(is("quire_request_seconds_bucket{code=\"OK\",method=\"Score\",le=\"1800\"}"),
            1);
  EXPECT_EQ(is("quire_time_to_first_token_seconds_count{method=\"Generate\"}"), 2);
  EXPECT_EQ(is("quire_queue_seconds_count"), 3);
  EXPECT_EQ(is("quire_prompt_tokens_total"), 2 + 2 + 10);
  EXPECT_EQ(is("quire_generated_tokens_total"), 5 + 5);
  // The first token of an answer comes with the prompt's last chunk.
  EXPECT_EQ(is("quire_inter_token_latency_seconds_count"), 4 + 4);
  EXPECT_EQ(is("quire_requests_running{model=\"tiny\"}"), 0);
  EXPECT_EQ(is("quire_kv_cache_usage_ratio{model=\"tiny\"}"), 0);
  EXPECT_EQ(is("quire_build_info{version=\"" QUIRE_VERSION "\"}"), 1);
}

TEST_F(HttpEndpointTest, ProcessMetricsAreThoseOfThisProcess) {
  const std::string page = Ask(*endpoint_, "GET", "/metrics");
  for (const char* name : {"process_cpu_seconds_total", "process_start_time_seconds",
                           "process_resident_memory_bytes", "process_open_fds"}) {
    EXPECT_THAT(page, HasSubstr(std::string("\n") + name + " "));
  }
}

TEST_F(HttpEndpointTest, PromtoolFindsNothingWrong) {
  if (std::system("promtool --version > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool (Debian package prometheus) is not installed";
  }
  MakeSomeCalls(server_);
  const std::string answer = Ask(*endpoint_, "GET", "/metrics");
  const std::string path = testing::TempDir() + "quire_metrics_page";
  std::ofstream(path) << answer.substr(answer.find("\r\n\r\n") + 4);
  EXPECT_EQ(std::system(("promtool check metrics < '" + path + "'").c_str()), 0);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace quire::server
