#include "server/observability/http_endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/observability/http_path.h"
#include "tests/server/http_client.h"

namespace quire::server {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// --------------------------------------------------------------------- paths and routes

TEST(HttpPathTest, IsDecodedOnce) {
  EXPECT_EQ(DecodeHttpPath("/"), "/");
  EXPECT_EQ(DecodeHttpPath("/a/b"), "/a/b");
  EXPECT_EQ(DecodeHttpPath("/a/"), "/a/");
  EXPECT_EQ(DecodeHttpPath("/%6detrics"), "/metrics");
  EXPECT_EQ(DecodeHttpPath("/a%20b"), "/a b");
  EXPECT_EQ(DecodeHttpPath("/%252e%252e/x"), "/%2e%2e/x");
}

TEST(HttpPathTest, WhatCannotBeAPathIsNone) {
  for (const char* target : {"",
                             "metrics",
                             "*",
                             "http://q/metrics",
                             "/..",
                             "/a/../b",
                             "/.",
                             "/a/./b",
                             "//a",
                             "/a//b",
                             "/%2e%2e/etc/passwd",
                             "/..%2fetc",
                             "/%2E%2e%2Fetc",
                             "/a\\..\\b",
                             "/a%5cb",
                             "/metrics%00",
                             "/a%0d%0ab",
                             "/%",
                             "/%4",
                             "/%zz",
                             "/a%7f"}) {
    EXPECT_EQ(DecodeHttpPath(target), std::nullopt) << target;
  }
}

TEST(HttpPathTest, WhateverComesNoPathLeavesItsFolder) {
  std::mt19937 random(1);
  constexpr const char* kPieces[] = {"/",  ".",   "..", "%2e", "%2F", "%",
                                     "\\", "%00", "a",  "%5c", "%25", "\x80"};
  const auto pick = [&](size_t n) { return random() % n; };
  for (int i = 0; i < 100'000; ++i) {
    std::string target = "/";
    for (size_t n = pick(9); n > 0; --n) target += kPieces[pick(std::size(kPieces))];
    const auto path = DecodeHttpPath(target);
    if (!path.has_value()) continue;
    ASSERT_EQ((*path)[0], '/') << target;
    ASSERT_THAT(*path + "/", Not(HasSubstr("/../"))) << target;
    ASSERT_THAT(*path + "/", Not(HasSubstr("/./"))) << target;
    ASSERT_THAT(*path, Not(HasSubstr("//"))) << target;
    ASSERT_THAT(*path, Not(HasSubstr("\\"))) << target;
    ASSERT_EQ(path->find('\0'), std::string::npos) << target;
  }
}

TEST(HttpRouteTest, TheLongestThatMatchesAnswers) {
  const std::vector<HttpRoute> routes = {
      {.path = "/", .handle = nullptr},
      {.path = "/a", .prefix = true, .handle = nullptr},
      {.path = "/a/b/", .prefix = true, .handle = nullptr},
      {.path = "/a/exact", .handle = nullptr}};
  const auto found = [&](const char* path) {
    const HttpRoute* route = FindRoute(routes, path);
    return route == nullptr ? std::string("none") : route->path;
  };
  EXPECT_EQ(found("/"), "/");
  EXPECT_EQ(found("/x"), "none");
  EXPECT_EQ(found("/a"), "/a");
  EXPECT_EQ(found("/a/"), "/a");
  EXPECT_EQ(found("/ab"), "none");
  EXPECT_EQ(found("/a/c"), "/a");
  EXPECT_EQ(found("/a/b"), "/a");
  EXPECT_EQ(found("/a/b/c"), "/a/b/");
  EXPECT_EQ(found("/a/exact"), "/a/exact");
  EXPECT_EQ(found("/a/exact/more"), "/a");
}

// ----------------------------------------------------------------------- the real socket

// Echoes what handlers get; has a page, an answer of a size and one with own headers.
class HttpEndpointTest : public testing::Test {
 protected:
  HttpEndpointTest() {
    auto endpoint = HttpEndpoint::Start("127.0.0.1:0", Routes());
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    endpoint_ = *std::move(endpoint);
  }
  static std::vector<HttpRoute> Routes() {
    return {{.path = "/echo",
             .prefix = true,
             .handle =
                 [](const HttpRequest& request) {
                   return PlainText(200, request.path + "|" + request.query + "\n");
                 }},
            {.path = "/page",
             .handle =
                 [](const HttpRequest&) {
                   return HttpResponse{.content_type = "text/html; charset=utf-8",
                                       .body = "<p>",
                                       .headers = {}};
                 }},
            {.path = "/own",
             .handle =
                 [](const HttpRequest&) {
                   return HttpResponse{
                       .status = 418,
                       .content_type = "text/css",
                       .body = "",
                       .headers = {{"cache-control", "max-age=9"},
                                   {"Content-Security-Policy", "sandbox"}}};
                 }},
            {.path = "/large", .handle = [](const HttpRequest&) {
               return PlainText(200, std::string(kLarge, 'x'));
             }}};
  }
  std::string Get(const std::string& path) const {
    return Ask(endpoint_->address(), "GET", path);
  }
  // How long one request takes.
  absl::Duration TimeOfScrape() const {
    const absl::Time start = absl::Now();
    EXPECT_THAT(Get("/echo"), HasSubstr("\r\n\r\n/echo|\n"));
    return absl::Now() - start;
  }

  static constexpr size_t kLarge = size_t{8} << 20;
  std::unique_ptr<HttpEndpoint> endpoint_;
};

TEST_F(HttpEndpointTest, HandlersGetPathAndQuery) {
  EXPECT_THAT(Get("/echo"), HasSubstr("\r\n\r\n/echo|\n"));
  EXPECT_THAT(Get("/%65cho/a%20b?c=%20+&d"), HasSubstr("\r\n\r\n/echo/a b|c=%20+&d\n"));
  EXPECT_THAT(Get("/echo?a?b"), HasSubstr("\r\n\r\n/echo|a?b\n"));
}

TEST_F(HttpEndpointTest, UnknownAndTraversingPathsAreNotFound) {
  for (const char* path : {"/", "/x", "/echox", "/../etc/passwd",
                           "/echo/../../etc/passwd", "/echo/%2e%2e/%2e%2e/etc/passwd",
                           "/echo/..%2f..%2fetc", "/echo%00", "/echo/%c3%28/..", "/%"}) {
    EXPECT_THAT(Get(path), StartsWith("HTTP/1.1 404 ")) << path;
  }
}

TEST_F(HttpEndpointTest, OnlyGetAndHead) {
  for (const char* method :
       {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "FOO"}) {
    const std::string answer = Ask(endpoint_->address(), method, "/echo");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 405 ")) << method;
    EXPECT_THAT(answer, HasSubstr("\r\nAllow: GET, HEAD\r\n")) << method;
    EXPECT_THAT(Ask(endpoint_->address(), method, "/x"), StartsWith("HTTP/1.1 404 "));
  }
  const std::string head = Ask(endpoint_->address(), "HEAD", "/echo/abc");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(head, HasSubstr("\r\nContent-Length: 11\r\n"));
  EXPECT_THAT(head, testing::EndsWith("\r\n\r\n"));
}

TEST_F(HttpEndpointTest, LongLinesAndHeadersAreRefused) {
  EXPECT_THAT(Get("/echo/" + std::string(20000, 'x')), StartsWith("HTTP/1.1 414 "));
  EXPECT_THAT(Get("/echo?" + std::string(20000, 'x')), StartsWith("HTTP/1.1 414 "));
  const std::string begin = "GET /echo HTTP/1.1\r\nHost: q\r\n";
  EXPECT_THAT(Exchange(endpoint_->address(),
                       begin + "X-Long: " + std::string(20000, 'x') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 431 "));
  std::string many = begin;
  for (int i = 0; i < 2000; ++i) many += "X-" + std::to_string(i) + ": y\r\n";
  EXPECT_THAT(Exchange(endpoint_->address(), many + "\r\n"), StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(Get("/echo/" + std::string(4000, 'x')), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpEndpointTest, WhatIsNotHttpIsRefused) {
  EXPECT_THAT(Exchange(endpoint_->address(), "GET /echo HTTP/1.1\r\n\r\n"),  // no Host
              StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Exchange(endpoint_->address(), std::string("\x16\x03\x01\0\r\n\r\n", 8)),
              Not(HasSubstr(" 200 ")));
  EXPECT_THAT(Get("/echo"), StartsWith("HTTP/1.1 200 "));  // still there
}

TEST_F(HttpEndpointTest, BodiesAreNeverRead) {
  for (const char* method : {"POST", "GET"}) {
    const std::string begin =
        std::string(method) + " /echo HTTP/1.1\r\nHost: q\r\nContent-Length: 9999999\r\n";
    const absl::Time start = absl::Now();
    // Not even a part of the body comes, and the answer does not wait for it.
    const std::string answer = Exchange(endpoint_->address(), begin + "\r\n");
    EXPECT_THAT(answer, StartsWith(*method == 'G' ? "HTTP/1.1 200 " : "HTTP/1.1 405 "));
    EXPECT_THAT(answer, HasSubstr("\r\nConnection: close\r\n"));
    EXPECT_LT(absl::Now() - start, absl::Seconds(4));
    EXPECT_THAT(Exchange(endpoint_->address(), begin + "Expect: 100-continue\r\n\r\n"),
                Not(HasSubstr("100 Continue")));
  }
  // What stands in a body is not taken for a request.
  const std::string smuggled = "GET /echo/smuggled HTTP/1.1\r\nHost: q\r\n\r\n";
  EXPECT_THAT(Exchange(endpoint_->address(),
                       "GET /echo HTTP/1.1\r\nHost: q\r\n"
                       "Content-Length: " +
                           std::to_string(smuggled.size()) + "\r\n\r\n" + smuggled),
              Not(HasSubstr("smuggled")));
}

TEST_F(HttpEndpointTest, HeadersThatKeepBrowsersSafe) {
  const std::string plain = Get("/echo");
  EXPECT_THAT(plain, HasSubstr("\r\nX-Content-Type-Options: nosniff\r\n"));
  EXPECT_THAT(plain, HasSubstr("\r\nReferrer-Policy: no-referrer\r\n"));
  EXPECT_THAT(plain, HasSubstr("\r\nCache-Control: no-store\r\n"));
  EXPECT_THAT(plain, HasSubstr("\r\nContent-Security-Policy: default-src 'none';"));
  EXPECT_THAT(Get("/page"),
              HasSubstr("\r\nContent-Security-Policy: default-src 'self';"));
  const std::string own = Get("/own");
  EXPECT_THAT(own, StartsWith("HTTP/1.1 418 "));
  EXPECT_THAT(own, HasSubstr("\r\ncache-control: max-age=9\r\n"));
  EXPECT_THAT(own, HasSubstr("\r\nContent-Security-Policy: sandbox\r\n"));
  EXPECT_THAT(own, Not(HasSubstr("no-store")));
  EXPECT_THAT(own, Not(HasSubstr("default-src")));
  EXPECT_THAT(Get("/x"), HasSubstr("\r\nX-Content-Type-Options: nosniff\r\n"));
}

TEST_F(HttpEndpointTest, AConnectionServesSeveralRequests) {
  TestSocket socket(endpoint_->address());
  for (const char* path : {"/echo/1", "/x", "/echo/2"}) {
    ASSERT_TRUE(socket.Send(std::string("GET ") + path + " HTTP/1.1\r\nHost: q\r\n\r\n"));
    EXPECT_THAT(socket.ReadAnswer(), HasSubstr(*(path + 1) == 'x' ? "not found" : path));
  }
}

TEST_F(HttpEndpointTest, IdleConnectionsEnd) {
  TestSocket fresh(endpoint_->address()), begun(endpoint_->address());
  ASSERT_TRUE(begun.Send("GET /echo HTT"));
  const absl::Duration limit = absl::Seconds(HttpEndpoint::kIdleSeconds + 5);
  EXPECT_TRUE(fresh.WaitForClose(limit));
  EXPECT_TRUE(begun.WaitForClose(limit));
}

// A byte now and then is enough for no idle timeout.
TEST_F(HttpEndpointTest, RequestsThatTakeTooLongEnd) {
  constexpr absl::Duration kLimit = absl::Milliseconds(400);
  const auto endpoint = HttpEndpoint::Start("127.0.0.1:0", Routes(), kLimit);
  ASSERT_TRUE(endpoint.ok());
  TestSocket good((*endpoint)->address()), slow((*endpoint)->address()),
      reader((*endpoint)->address());
  ASSERT_TRUE(reader.Send("GET /large HTTP/1.1\r\nHost: q\r\n\r\n"));
  ASSERT_TRUE(slow.Send("GET /echo HTTP/1.1\r\nX-Slow: "));
  const absl::Time begin = absl::Now();
  bool open = true;
  while (open && absl::Now() - begin < absl::Seconds(20)) {
    absl::SleepFor(absl::Milliseconds(50));
    open = slow.Send("x");
    // Every answer begins the time anew.
    ASSERT_TRUE(good.Send("GET /echo HTTP/1.1\r\nHost: q\r\n\r\n"));
    ASSERT_THAT(good.ReadAnswer(), StartsWith("HTTP/1.1 200 "));
  }
  EXPECT_FALSE(open);
  EXPECT_GE(absl::Now() - begin, kLimit);
  const std::string part = reader.ReadAll();  // what the kernel had of it
  EXPECT_LT(part.size(), kLarge);
}

TEST_F(HttpEndpointTest, IdleAndSlowClientsDelayNobody) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 8192);
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 4096) GTEST_SKIP() << "only " << files.rlim_cur << " open files";
  std::vector<TestSocket> idle;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(idle.emplace_back(endpoint_->address()).connected());
  }
  std::vector<TestSocket> slow;  // half a request, or an answer that is not taken
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(slow.emplace_back(endpoint_->address())
                    .Send("GET /echo HTTP/1.1\r\nX-" + std::to_string(i)));
  }
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(slow.emplace_back(endpoint_->address())
                    .Send("GET /large HTTP/1.1\r\nHost: q\r\n\r\n"));
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_LT(TimeOfScrape(),
              absl::Seconds(1));  // some milliseconds; machines are shared
  }
}

TEST_F(HttpEndpointTest, WhatSlowClientsLeaveUntakenIsBounded) {
  std::vector<TestSocket> slow;
  // The kernel's buffers take a part of each answer, but count as untaken until all went.
  const int64_t most = HttpEndpoint::kMaxUnsentBytes / static_cast<int64_t>(kLarge);
  for (int64_t i = 0; i < most; ++i) {
    ASSERT_TRUE(slow.emplace_back(endpoint_->address())
                    .Send("GET /large HTTP/1.1\r\nHost: q\r\n\r\n"));
  }
  const auto refused = [&] {
    return absl::StartsWith(Ask(endpoint_->address(), "HEAD", "/large"), "HTTP/1.1 503 ");
  };
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!refused() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_TRUE(refused());
  slow.clear();
  for (int i = 0; i < 100 && Get("/echo").find(" 200 ") == std::string::npos; ++i) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_THAT(Get("/echo"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpEndpointTest, APortInUseIsRefusedByName) {
  const auto second = HttpEndpoint::Start(endpoint_->address(), {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(second.status().message()),
      HasSubstr("http_listen is '" + endpoint_->address() + "'; cannot listen there"));
  EXPECT_EQ(HttpEndpoint::Start("no.such.host.invalid:0", {}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(HttpEndpoint::Start("nonsense", {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(HttpEndpointTest, StoppingEndsConnections) {
  TestSocket idle(endpoint_->address());
  const std::string address = endpoint_->address();
  endpoint_.reset();
  EXPECT_TRUE(idle.WaitForClose(absl::Seconds(5)));
  EXPECT_FALSE(TestSocket(address).connected());
}

TEST(HttpEndpointAddressTest, OtherHostsAndNames) {
  for (const char* address : {"localhost:0", "0.0.0.0:0"}) {
    const auto endpoint = HttpEndpoint::Start(address, {});
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    EXPECT_THAT((*endpoint)->address(), Not(testing::EndsWith(":0")));
  }
}

}  // namespace
}  // namespace quire::server
