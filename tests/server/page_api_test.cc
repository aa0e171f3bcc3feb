#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "prometheus/counter.h"
#include "prometheus/registry.h"
#include "server/page/api.h"
#include "server/page/assets.h"
#include "server/page/page.h"
#include "server/page/query.h"
#include "server/page/series.h"
#include "tests/server/every_series.h"
#include "tests/server/http_client.h"
#include "tests/server/test_server.h"

namespace quire::server {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Key;
using testing::Not;
using testing::Pair;
using testing::StartsWith;

// --------------------------------------------------------------------------------- query

TEST(PageQueryTest, IsNumbersByName) {
  const auto numbers = ParseQuery("step=10&since=1.5e3", {"step", "since"});
  ASSERT_TRUE(numbers.ok());
  EXPECT_THAT(*numbers, testing::ElementsAre(Pair("since", 1500), Pair("step", 10)));
  EXPECT_THAT(*ParseQuery("", {"step"}), IsEmpty());
  EXPECT_THAT(*ParseQuery("&&", {"step"}), IsEmpty());
}

TEST(PageQueryTest, RefusesByName) {
  const auto message = [](const char* query) {
    return std::string(ParseQuery(query, {"step", "since"}).status().message());
  };
  EXPECT_EQ(message("size=1"), "size is no parameter of this; there are step, since");
  EXPECT_EQ(message("%3Cscript%3E=1"),
            "query is no parameter of this; there are step, since");
  EXPECT_EQ(message("step=x"), "step is 'x'; it must be a number of at least 0");
  EXPECT_EQ(message("step"), "step is ''; it must be a number of at least 0");
  EXPECT_EQ(message("step=-1"), "step is '-1'; it must be a number of at least 0");
  EXPECT_EQ(message("step=inf"), "step is 'inf'; it must be a number of at least 0");
  EXPECT_EQ(message("step=nan"), "step is 'nan'; it must be a number of at least 0");
  EXPECT_EQ(message("step=1&step=2"), "step must be there only once");
  EXPECT_EQ(message(("step=" + std::string(1000, 'x')).c_str()),
            "step is '" + std::string(40, 'x') + "'; it must be a number of at least 0");
}

// ----------------------------------------------------------------------------------- api

class PageApiTest : public testing::Test {
 protected:
  HttpResponse Get(const std::string& path, const std::string& query = "") {
    return api_.Route().handle({.path = path, .query = query});
  }
  json Ok(const std::string& path, const std::string& query = "") {
    const HttpResponse response = Get(path, query);
    EXPECT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(response.content_type, "application/json");
    return json::parse(response.body);
  }
  // "field: message"
  std::string Refusal(const std::string& path, const std::string& query = "",
                      int status = 400) {
    const HttpResponse response = Get(path, query);
    EXPECT_EQ(response.status, status);
    const json error = json::parse(response.body)["error"];
    return absl::StrCat(error["field"].get<std::string>(), ": ",
                        error["message"].get<std::string>());
  }

  ServingState state_;
  History history_;
  RequestLog requests_;
  Api api_{
      {.grpc_address = "127.0.0.1:5", .price_per_device_hour = 2.5, .shadow_share = 1},
      state_,
      history_,
      requests_};
};

TEST_F(PageApiTest, SaysWhatTheServerIs) {
  const json overview = Ok("/api/v1/overview");
  EXPECT_EQ(overview["state"], "loading");
  EXPECT_EQ(overview["models"], json::array());
  EXPECT_EQ(overview["price_per_device_hour_usd"], 2.5);
  EXPECT_EQ(overview["shadow_share"], 1.0);
  EXPECT_EQ(overview["grpc_address"], "127.0.0.1:5");
}

TEST_F(PageApiTest, TellsSamples) {
  history_.Add(absl::UnixEpoch() + absl::Seconds(5), {{"a", 1}});
  history_.Add(absl::UnixEpoch() + absl::Seconds(6), {{"a", 2}});
  requests_.Add({.id = "x"});
  EXPECT_EQ(Ok("/api/v1/history", "step=1&since=5"),
            json::parse(R"({"state":"loading","requests_version":1,"step":1,"times":[6],
                            "series":{"a":2}})"));
  EXPECT_EQ(Ok("/api/v1/history")["times"], json({5, 6}));
}

TEST_F(PageApiTest, RefusesBadParametersByName) {
  EXPECT_EQ(Refusal("/api/v1/history", "step=7"),
            "step: step is 7; it must be 1, 10 or 60");
  EXPECT_EQ(Refusal("/api/v1/history", "since=1e12"),
            "since: since is 1e+12; it must be Unix seconds, at most 1e11");
  EXPECT_EQ(Refusal("/api/v1/history", "after=1"),
            "after: after is no parameter of this; there are step, since");
  EXPECT_EQ(Refusal("/api/v1/requests", "limit=0"),
            "limit: limit is 0; it must be 1 to 200");
  EXPECT_EQ(Refusal("/api/v1/requests", "limit=201"),
            "limit: limit is 201; it must be 1 to 200");
  EXPECT_EQ(Refusal("/api/v1/requests", "limit=1.5"),
            "limit: limit is 1.5; it must be 1 to 200");
  EXPECT_EQ(Refusal("/api/v1/requests", "after=0.5"),
            "after: after is 0.5; it must be a whole number up to 1e15");
  EXPECT_EQ(Refusal("/api/v1/requests", "after=1e300"),
            "after: after is 1e+300; it must be a whole number up to 1e15");
  EXPECT_EQ(Refusal("/api/v1/overview", "x=1"),
            "x: x is no parameter of this; there are none");
}

TEST_F(PageApiTest, WhatIsNotThereIs404) {
  for (const char* path :
       {"/api", "/api/", "/api/v1", "/api/v1/", "/api/v2/overview", "/api/v1/overview/",
        "/api/v1/requests/unknown", "/api/v1/requests/number/1",
        "/api/v1/requests/number/x", "/api/v1/requests/"}) {
    EXPECT_THAT(Refusal(path, "", 404), HasSubstr("is not there")) << path;
  }
}

TEST_F(PageApiTest, RequestsAreFoundByIdAndByNumber) {
  requests_.Add({.id = "a/b c"});
  requests_.Add({.id = "d"});
  EXPECT_EQ(Ok("/api/v1/requests/a/b c")["number"], 1);
  EXPECT_EQ(Ok("/api/v1/requests/number/2")["id"], "d");
  const json all = Ok("/api/v1/requests", "after=1");
  EXPECT_EQ(all["version"], 2);
  ASSERT_EQ(all["requests"].size(), 1u);
  EXPECT_EQ(all["requests"][0]["id"], "d");
  EXPECT_EQ(Ok("/api/v1/requests", "limit=1")["requests"][0]["id"], "d");
}

TEST_F(PageApiTest, ARecordThatGotNowhereHasNoReceipt) {
  requests_.Add(
      {.id = "r", .code = absl::StatusCode::kUnavailable, .reason = "DRAINING"});
  const json record = Ok("/api/v1/requests/r");
  EXPECT_EQ(record["code"], "UNAVAILABLE");
  EXPECT_EQ(record["reason"], "DRAINING");
  for (const char* field : {"receipt", "heads", "shadow", "measured", "modelled", "mode",
                            "density", "audit_error", "time_to_first_token_seconds"}) {
    EXPECT_TRUE(record[field].is_null()) << field;
  }
  EXPECT_EQ(record["trace"], json::array());
}

// ------------------------------------------------------------------------- of real calls

v1::GenerateRequest Prompt(int32_t tokens, int32_t answer) {
  v1::GenerateRequest request;
  auto& ids = *request.mutable_input()->mutable_token_ids()->mutable_ids();
  for (int32_t i = 0; i < tokens; ++i) ids.Add(300 + i);
  request.set_max_new_tokens(answer);
  return request;
}

json RecordOf(const TestServer& server, const std::string& id) {
  History history;
  ServingState state;
  const Api api({}, state, history, server.requests());
  const HttpResponse response =
      api.Route().handle({.path = "/api/v1/requests/" + id, .query = ""});
  return json::parse(response.body);
}

TEST(PageRequestsTest, ARecordIsWhatTheReceiptSaid) {
  TestServer server;
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "mine");
  context.AddMetadata("x-quire-tenant", "a-tenant");
  const auto result = ReadAll(server.inference().Generate(&context, Prompt(40, 5)));
  ASSERT_TRUE(result.status.ok());
  const v1::GenerateFinal& final = result.events.back().final();
  ASSERT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"OK\",method=\"Generate\"}", 1));
  const json record = RecordOf(server, "mine");
  EXPECT_EQ(record["method"], "Generate");
  EXPECT_EQ(record["code"], "OK");
  EXPECT_EQ(record["model"], final.model());
  EXPECT_EQ(record["prompt_tokens"], 40);
  EXPECT_EQ(record["generated_tokens"], 5);
  EXPECT_EQ(record["queue_seconds"], final.timings().queue_seconds());
  EXPECT_EQ(record["prefill_seconds"], final.timings().prefill_seconds());
  EXPECT_GE(record["seconds"], final.timings().total_seconds());
  EXPECT_EQ(record["time_to_first_token_seconds"],
            final.timings().time_to_first_token_seconds());
  const json& decode = record["trace"].back();
  EXPECT_EQ(decode["phase"], "decode");
  EXPECT_EQ(decode["done"], 5);
  EXPECT_EQ(decode["total"], 5);
  EXPECT_EQ(record["trace"][0]["phase"], "prefill");
  EXPECT_EQ(record["trace"][0]["total"], 40);
  EXPECT_THAT(record.dump(), Not(HasSubstr("a-tenant")));
}

TEST(PageRequestsTest, ScoresOfSeveralWindowsAreOneRecord) {
  TestServer server({.context_tokens = 64});
  v1::ScoreRequest request;
  auto& ids = *request.mutable_input()->mutable_token_ids()->mutable_ids();
  for (int32_t i = 0; i < 150; ++i) ids.Add(300 + i);
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "windows");
  const auto result = ReadAll(server.inference().Score(&context, request));
  ASSERT_TRUE(result.status.ok());
  const v1::ScoreFinal& final = result.events.back().final();
  ASSERT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"OK\",method=\"Score\"}", 1));
  const json record = RecordOf(server, "windows");
  EXPECT_EQ(record["prompt_tokens"], final.usage().prompt_tokens());
  EXPECT_EQ(record["trace"].back()["pass"], final.windows());
  EXPECT_GT(final.windows(), 1);
}

TEST(PageRequestsTest, LookUpsAreNotListedRefusalsAre) {
  TestServer server;
  grpc::ClientContext first;
  v1::GetModelRequest lookup;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.models().GetModel(&first, lookup, &model).ok());
  grpc::ClientContext second;
  second.AddMetadata("x-request-id", "bad");
  v1::GenerateRequest bad = Prompt(4, 1);
  bad.mutable_sampling()->set_top_p(7);
  EXPECT_FALSE(ReadAll(server.inference().Generate(&second, bad)).status.ok());
  ASSERT_TRUE(server.WaitForMetric(
      "quire_request_seconds_count{code=\"INVALID_ARGUMENT\",method=\"Generate\"}", 1));
  const auto records = server.requests().Changed(0, 10);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].id, "bad");
  EXPECT_EQ(records[0].reason, "INVALID_FIELD");
}

// --------------------------------------------------------------------------------- files

TEST(PageAssetsTest, PagesNameTheirFilesWithTheHashOfAll) {
  const auto answer = [](const std::vector<Asset>& assets, const std::string& path,
                         const std::string& query = "") {
    for (const HttpRoute& route : AssetRoutes(assets)) {
      if (route.path == path) return route.handle({.path = path, .query = query});
      const bool below = route.prefix && absl::StrContains(path, route.path + "/");
      if (below) return route.handle({.path = path, .query = query});
    }
    return PlainText(404, "no route");
  };
  std::vector<Asset> assets = {{"index.html", "<a href=\"/assets/a.js?v=HASH\">"},
                               {"request.html", "one"},
                               {"a.js", "import \"./b.js?v=HASH\""}};
  const HttpResponse page = answer(assets, "/");
  EXPECT_EQ(page.content_type, "text/html; charset=utf-8");
  ASSERT_EQ(page.body.size(),
            std::string("<a href=\"/assets/a.js?v=0123456789abcdef\">").size());
  const std::string version = page.body.substr(page.body.find("?") + 1, 18);
  EXPECT_EQ(answer(assets, "/request/x").body, "one");

  const HttpResponse script = answer(assets, "/assets/a.js", version);
  EXPECT_EQ(script.content_type, "text/javascript; charset=utf-8");
  EXPECT_EQ(script.body, "import \"./b.js?" + version + "\"");
  EXPECT_THAT(script.headers,
              Contains(Pair("Cache-Control", "public, max-age=31536000, immutable")));
  EXPECT_THAT(answer(assets, "/assets/a.js").headers,
              Contains(Pair("Cache-Control", "no-cache")));
  EXPECT_EQ(answer(assets, "/assets/c.js").status, 404);
  EXPECT_EQ(answer(assets, "/assets/").status, 404);

  assets[2].bytes = "changed";
  EXPECT_THAT(answer(assets, "/").body, Not(HasSubstr(version)));
}

TEST(PageAssetsTest, ThePagesAskNobodyElse) {
  for (const Asset& asset : EmbeddedAssets()) {
    EXPECT_FALSE(asset.bytes.empty()) << asset.name;
    const bool ours = !absl::StartsWith(asset.name, "uPlot");
    if (!ours) continue;
    std::string text(asset.bytes);
    for (const char* name : {"http://www.w3.org/2000/svg"}) {
      while (text.find(name) != std::string::npos) text.erase(text.find(name), 10);
    }
    EXPECT_THAT(text, AllOf(Not(HasSubstr("http://")), Not(HasSubstr("https://")),
                            Not(HasSubstr(" style=\"")), Not(HasSubstr("onclick="))))
        << asset.name;
  }
}

// ---------------------------------------------------------------------------------- page

TEST(PageTest, IsServedWithoutAnyFileAndSamplesByItself) {
  prometheus::Registry registry;
  prometheus::BuildCounter()
      .Name("quire_prompt_tokens_total")
      .Register(registry)
      .Add({})
      .Increment(42);
  ServingState state;
  RequestLog requests;
  const Page page({}, {&registry}, state, requests);
  auto http = HttpEndpoint::Start("127.0.0.1:0", page.Routes());
  ASSERT_TRUE(http.ok());
  const std::string address = (*http)->address();
  const std::string index = Ask(address, "GET", "/");
  EXPECT_THAT(index, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(index, HasSubstr("Content-Security-Policy: default-src 'self';"));
  EXPECT_THAT(index, HasSubstr("<title>Quire</title>"));
  EXPECT_THAT(Ask(address, "GET", "/request/some-id"), HasSubstr("<title>Request"));
  EXPECT_THAT(Ask(address, "GET", "/assets/uPlot.js"), HasSubstr("uPlot"));
  EXPECT_THAT(Ask(address, "POST", "/api/v1/overview"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask(address, "GET", "/api/v1/history?step=2"), StartsWith("HTTP/1.1 400"));
  std::string history;
  for (int i = 0; i < 200 && !absl::StrContains(history, "42"); ++i) {
    history = Ask(address, "GET", "/api/v1/history");
  }
  EXPECT_THAT(history, HasSubstr("\"quire_prompt_tokens_total\":42"));
}

TEST(PageTest, AllThatItShowsFitsItsHistory) {
  prometheus::Registry registry;
  Metrics metrics(registry);
  FillEverySeries(metrics);
  const FakeEngineGauges gauges;
  const ProcessCollector process;
  const Sample sample = TakeSample({&registry, &gauges, &process});
  EXPECT_LT(sample.size(), History::kMaxSeries);
  for (const char* name :
       {"quire_attention_flops_total",
        "quire_attention_flops_dense_equivalent_total",
        "quire_attention_columns_total{context=\"le_1024\"}",
        "quire_attention_columns_dense_equivalent_total{context=\"more\"}",
        "quire_request_device_seconds_total{basis=\"measured\"}",
        "quire_request_dense_device_seconds_total{basis=\"modelled\"}",
        "quire_measured_savings_usd_total",
        "quire_measured_losses_usd_total",
        "quire_estimated_savings_usd_total",
        "quire_estimated_losses_usd_total",
        "quire_shadow_samples_total",
        "quire_shadow_compared_tokens_total",
        "quire_shadow_top1_mismatch_total",
        "quire_shadow_device_seconds_total",
        "quire_shadow_logprob_abs_delta_sum",
        "quire_attention_error_count",
        "quire_time_to_first_token_seconds_bucket{le=\"1\"}",
        "quire_inter_token_latency_seconds_bucket{le=\"+Inf\"}",
        "quire_gpu_seconds_total{phase=\"prefill\"}",
        "quire_prompt_tokens_total",
        "quire_prefix_cached_tokens_total",
        "quire_generated_tokens_total",
        "quire_requests_running",
        "quire_requests_waiting",
        "quire_kv_cache_usage_ratio",
        "quire_kv_cache_cached_ratio",
        "quire_prefill_backlog_seconds",
        "process_start_time_seconds",
        "process_resident_memory_bytes"}) {
    EXPECT_THAT(sample, Contains(Key(name)));
  }
}

}  // namespace
}  // namespace quire::server
