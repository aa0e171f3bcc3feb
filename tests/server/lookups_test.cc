#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/server/test_server.h"

// Calls that need no engine.
namespace quire::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ModelsTest, TellsWhatTheModelIs) {
  TestServer server;
  v1::GetModelResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(server.models().GetModel(&context, {}, &response).ok());
  const v1::Model& model = response.model();
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.architecture(), "llama");
  EXPECT_EQ(model.context_tokens(), 256);
  EXPECT_EQ(model.vocab_size(), kTestVocabulary);
  EXPECT_EQ(model.compute_type(), "float32");
  EXPECT_EQ(model.kv_cache_tokens(), 1024);
  EXPECT_TRUE(model.instruction_tuned());
  EXPECT_EQ(model.auto_sparse_from(), 4096);
  EXPECT_GT(model.parameters(), kTestVocabulary * 8);

  v1::ListModelsResponse list;
  grpc::ClientContext second;
  ASSERT_TRUE(server.models().ListModels(&second, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  EXPECT_EQ(list.models(0).name(), "tiny");
}

TEST(ModelsTest, TellsFromWhereAutoIsSparse) {
  const auto told = [](int32_t refined_pays_from) {
    TestServer server({.refined_pays_from = refined_pays_from});
    v1::GetModelResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(server.models().GetModel(&context, {}, &response).ok());
    return response.model();
  };
  EXPECT_EQ(told(10000).auto_sparse_from(), 10000);
  EXPECT_FALSE(told(kNeverPays).has_auto_sparse_from());
}

TEST(TokensTest, TokenizeDetokenizeAndCount) {
  TestServer server;
  const std::string text = "Once upon a time, in Zürich";
  v1::TokenizeRequest tokenize;
  tokenize.set_text(text);
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(server.inference().Tokenize(&first, tokenize, &tokens).ok());
  const Encoding want = *server.tokenizer().EncodeWithSpans(text, false, false);
  EXPECT_EQ(std::vector<TokenId>(tokens.token_ids().begin(), tokens.token_ids().end()),
            want.ids);
  ASSERT_EQ(tokens.spans_size(), static_cast<int>(want.spans.size()));
  EXPECT_EQ(tokens.spans(1).begin(), want.spans[1].begin);

  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse back;
  grpc::ClientContext second;
  ASSERT_TRUE(server.inference().Detokenize(&second, detokenize, &back).ok());
  EXPECT_EQ(back.text(), text);

  v1::CountTokensRequest count;
  count.mutable_input()->set_text(text);
  v1::CountTokensResponse counted;
  grpc::ClientContext third;
  ASSERT_TRUE(server.inference().CountTokens(&third, count, &counted).ok());
  EXPECT_EQ(counted.tokens(), tokens.token_ids_size());
  EXPECT_EQ(counted.context_tokens(), 256);
}

TEST(TokensTest, SpecialTokensInATextAreTextUnlessAskedFor) {
  TestServer server;
  v1::TokenizeRequest request;
  request.set_text("<|endoftext|>");
  v1::TokenizeResponse plain;
  grpc::ClientContext first;
  ASSERT_TRUE(server.inference().Tokenize(&first, request, &plain).ok());
  EXPECT_GT(plain.token_ids_size(), 1);
  request.set_parse_special_tokens(true);
  v1::TokenizeResponse special;
  grpc::ClientContext second;
  ASSERT_TRUE(server.inference().Tokenize(&second, request, &special).ok());
  EXPECT_THAT(special.token_ids(),
              ElementsAre(server.tokenizer().TokenToId("<|endoftext|>")));
}

// ------------------------------------------------------------------- health and
// reflection

// A length-delimited field of fewer than 128 bytes: Debian packages no generated code of
// these services.
std::string Field(int number, const std::string& value) {
  return absl::StrCat(std::string(1, static_cast<char>(number << 3 | 2)),
                      std::string(1, static_cast<char>(value.size())), value);
}

// grpc.health.v1.HealthCheckRequest{service} -> Response{status}; minus the code of an
// error.
int Health(TestServer& server, const std::string& service) {
  std::string response;
  const grpc::Status status =
      CallRaw(server, "/grpc.health.v1.Health/Check", Field(1, service), &response);
  if (!status.ok()) return -static_cast<int>(status.error_code());
  return response.size() == 2 ? response[1] : 0;
}

constexpr int kHealthServing = 1;
constexpr int kHealthNotServing = 2;

TEST(HealthTest, FollowsEachService) {
  TestServer server({.serve = false});
  for (const char* service : {"", "quire.v1.InferenceService", "quire.v1.ModelService"}) {
    EXPECT_EQ(Health(server, service), kHealthNotServing) << service;
  }
  server.Serve();
  for (const char* service : {"", "quire.v1.InferenceService", "quire.v1.ModelService"}) {
    EXPECT_EQ(Health(server, service), kHealthServing) << service;
  }
  EXPECT_EQ(Health(server, "quire.v1.NoSuchService"), -static_cast<int>(grpc::NOT_FOUND));
  server.grpc().SetServing(false);
  EXPECT_EQ(Health(server, ""), kHealthNotServing);
}

TEST(ReflectionTest, ListsTheServicesAndKnowsTheirFiles) {
  TestServer server;
  constexpr char kMethod[] =
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  // ServerReflectionRequest.list_services; a stream of one request is a unary call here.
  std::string services;
  EXPECT_TRUE(CallRaw(server, kMethod, Field(7, "*"), &services).ok());
  for (const char* name :
       {"quire.v1.InferenceService", "quire.v1.ModelService", "grpc.health.v1.Health"}) {
    EXPECT_THAT(services, HasSubstr(name));
  }
  // ServerReflectionRequest.file_containing_symbol
  std::string file;
  EXPECT_TRUE(
      CallRaw(server, kMethod, Field(4, "quire.v1.InferenceService.Summarize"), &file)
          .ok());
  EXPECT_THAT(file, HasSubstr("quire/v1/inference.proto"));
}

}  // namespace
}  // namespace quire::server
