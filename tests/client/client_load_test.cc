#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "client/error_details.h"
#include "client/score_pieces.h"
#include "tests/client/fake_server.h"

// Load, cost and tenants through the library.
namespace quire::client {
namespace {

using ::testing::ElementsAre;
using testing::FakeServer;
using testing::HappyScript;
using testing::Script;

// Waits are only noted.
Client MakeClient(const FakeServer& server,
                  std::vector<absl::Duration>* waits = nullptr) {
  ClientOptions options;
  options.address = server.address();
  ClientHooks hooks = ClientHooks::Default();
  hooks.sleep = [waits](absl::Duration wait, const CancelToken&) {
    if (waits != nullptr) waits->push_back(wait);
  };
  hooks.random = [] { return 0.5; };
  auto client = Client::Create(options, std::move(hooks));
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

TEST(ClientLoadTest, LoadOfTheNamedModel) {
  std::string asked;
  Script script = HappyScript();
  script.get_load = [&, happy = script.get_load](auto* context, const auto& request,
                                                 auto* response) {
    asked = request.model();
    return happy(context, request, response);
  };
  FakeServer server(script);
  const absl::StatusOr<v1::Load> load = MakeClient(server).GetLoad("mine");
  ASSERT_TRUE(load.ok()) << load.status();
  EXPECT_EQ(asked, "mine");
  EXPECT_EQ(load->running(), 3);
  EXPECT_EQ(load->kv_blocks(), 400);
}

TEST(ClientLoadTest, CostOfACall) {
  FakeServer server(HappyScript());
  v1::EstimateCostRequest request;
  request.set_prompt_tokens(77);
  const auto cost = MakeClient(server).EstimateCost(request);
  ASSERT_TRUE(cost.ok()) << cost.status();
  EXPECT_EQ(cost->prompt_tokens(), 77);
  EXPECT_EQ(cost->dense().flops(), 1.5e12);
}

TEST(ClientLoadTest, TheTenantGoesWithTheCall) {
  std::promise<std::string> tenant;
  Script script = HappyScript();
  script.get_load = [&, happy = script.get_load](auto* context, const auto& request,
                                                 auto* response) {
    for (const auto& [key, value] : context->client_metadata()) {
      if (key == "x-quire-tenant") tenant.set_value({value.data(), value.size()});
    }
    return happy(context, request, response);
  };
  FakeServer server(script);
  const Client client = MakeClient(server);
  ASSERT_TRUE(client.GetLoad("", {.tenant = "acme"}).ok());
  EXPECT_EQ(tenant.get_future().get(), "acme");
  EXPECT_EQ(client.GetLoad("", {.tenant = "\n"}).status(),
            absl::InvalidArgumentError("tenant must be printable ASCII"));
}

TEST(ClientLoadTest, ATextInPiecesThatFindsNoRoomIsTriedAgainWhenTheServerSays) {
  std::atomic<int> calls = 0;
  Script script;
  script.score_batch = [&](auto*, auto* stream) {
    v1::ScoreBatchRequest piece;
    while (stream->Read(&piece)) {
    }
    v1::ScoreBatchResponse event;
    if (++calls == 1) {
      event.mutable_error()->set_code(grpc::StatusCode::RESOURCE_EXHAUSTED);
      event.mutable_error()->set_reason("WAITING_ROOM_FULL");
      event.mutable_error()->set_retry_seconds(2.5);
    } else {
      event.mutable_final()->set_scored_tokens(9);
    }
    stream->Write(event);
    return grpc::Status::OK;
  };
  FakeServer server(script);
  std::vector<absl::Duration> waits;
  v1::ScoreRequest request;
  request.mutable_input()->set_text(std::string(kMaxWholeInputBytes + 1, 'x'));
  auto stream = MakeClient(server, &waits).Score(request);
  const auto event = stream.Next();
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ((*event)->final().scored_tokens(), 9);
  // With its own first backoff on top.
  EXPECT_THAT(waits, ElementsAre(absl::Seconds(2.7)));
}

}  // namespace
}  // namespace quire::client
