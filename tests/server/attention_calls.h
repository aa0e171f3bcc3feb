#pragma once

#include <gtest/gtest.h>

#include "tests/server/test_server.h"

// Calls that tests of attention make.
namespace quire::server {

// Of so many different tokens.
inline v1::GenerateRequest Prompt(int tokens, int32_t max_new_tokens = 2) {
  v1::GenerateRequest request;
  for (int i = 0; i < tokens; ++i) {
    request.mutable_input()->mutable_token_ids()->add_ids(300 + i);
  }
  request.set_max_new_tokens(max_new_tokens);
  return request;
}

// The same, to be scored.
inline v1::ScoreRequest Text(int tokens) {
  v1::ScoreRequest request;
  *request.mutable_input() = Prompt(tokens).input();
  return request;
}

inline StreamResult<v1::GenerateResponse> Generate(TestServer& server,
                                                   const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Generate(&context, request));
}

inline StreamResult<v1::ScoreResponse> Score(TestServer& server,
                                             const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Score(&context, request));
}

inline v1::Receipt ReceiptOf(TestServer& server, const v1::GenerateRequest& request) {
  const auto result = Generate(server, request);
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  return result.events.back().final().receipt();
}

inline void Faithful(v1::AttentionOptions& attention) {
  attention.set_mode(v1::ATTENTION_MODE_FAITHFUL);
}

}  // namespace quire::server
