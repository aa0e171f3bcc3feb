#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/test_server.h"

// Every request that is refused: the code, the field's path and the sentence.
namespace quire::server {
namespace {

using testing::HasSubstr;

v1::GenerateRequest ValidGenerate() {
  v1::GenerateRequest request;
  request.mutable_input()->set_text("Once upon a time");
  request.set_max_new_tokens(4);
  return request;
}

struct GenerateCase {
  const char* name;
  std::function<void(v1::GenerateRequest&)> spoil;
  const char* violation;
};

class GenerateRefusalTest : public testing::TestWithParam<GenerateCase> {};

TEST_P(GenerateRefusalTest, NamesFieldLimitAndValue) {
  static TestServer& server =
      *new TestServer({.calls = {.limits = {.max_text_bytes = 2000}}});
  v1::GenerateRequest request = ValidGenerate();
  GetParam().spoil(request);
  grpc::ClientContext context;
  const auto result = ReadAll(server.inference().Generate(&context, request));
  EXPECT_EQ(result.status.error_code(), grpc::INVALID_ARGUMENT)
      << result.status.error_message();
  EXPECT_EQ(FieldViolation(result.status), GetParam().violation);
  EXPECT_EQ(Reason(result.status), "INVALID_FIELD");
  EXPECT_TRUE(result.events.empty());
}

using G = v1::GenerateRequest;
const std::vector<GenerateCase> kGenerateCases = {
    {"NoInput", [](G& r) { r.clear_input(); },
     "input: input is not set; it must hold one of text, token_ids and chat"},
    {"EmptyText", [](G& r) { r.mutable_input()->set_text(""); },
     "input.text: input.text is empty; it must hold at least one byte"},
    {"LongText", [](G& r) { r.mutable_input()->set_text(std::string(2001, 'a')); },
     "input.text: input.text has 2001 bytes; it must have at most 2000"},
    {"NotUtf8", [](G& r) { r.mutable_input()->set_text("abc\xff"); },
     "input.text: input.text is not UTF-8: byte 3 is the first bad one"},
    {"NoIds", [](G& r) { r.mutable_input()->mutable_token_ids(); },
     "input.token_ids.ids: input.token_ids.ids is empty; it must hold at least one id"},
    {"IdTooLarge",
     [](G& r) {
       r.mutable_input()->mutable_token_ids()->add_ids(5);
       r.mutable_input()->mutable_token_ids()->add_ids(8192);
     },
     "input.token_ids.ids[1]: input.token_ids.ids[1] is 8192; it must be in [0, 8191]"},
    {"NegativeId", [](G& r) { r.mutable_input()->mutable_token_ids()->add_ids(-1); },
     "input.token_ids.ids[0]: input.token_ids.ids[0] is -1; it must be in [0, 8191]"},
    {"NoMessages", [](G& r) { r.mutable_input()->mutable_chat(); },
     "input.chat.messages: input.chat.messages is empty; it must hold at least one "
     "message"},
    {"NoRole", [](G& r) { r.mutable_input()->mutable_chat()->add_messages(); },
     "input.chat.messages[0].role: input.chat.messages[0].role is empty; it must name "
     "who "
     "speaks, such as 'user'"},
    {"ChatNotUtf8",
     [](G& r) {
       auto* message = r.mutable_input()->mutable_chat()->add_messages();
       message->set_role("user");
       message->set_content("\xc3");
     },
     "input.chat.messages[0].content: input.chat.messages[0].content is not UTF-8: byte "
     "0 is "
     "the first bad one"},
    {"ManyIds",
     [](G& r) {
       for (int i = 0; i < 501; ++i) r.mutable_input()->mutable_token_ids()->add_ids(9);
     },
     "input.token_ids.ids: input.token_ids.ids has 501 ids; it must have at most 500"},
    {"PromptBeyondTheContext",
     [](G& r) {
       for (int i = 0; i < 256; ++i) r.mutable_input()->mutable_token_ids()->add_ids(9);
     },
     "input: input has 256 tokens; it must have at most 255, one less than the model's "
     "context"},
    {"ZeroNewTokens", [](G& r) { r.set_max_new_tokens(0); },
     "max_new_tokens: max_new_tokens is 0; it must be in [1, 252]: the input has 4 "
     "tokens and "
     "the model's context 256"},
    {"NewTokensBeyondTheContext", [](G& r) { r.set_max_new_tokens(253); },
     "max_new_tokens: max_new_tokens is 253; it must be in [1, 252]: the input has 4 "
     "tokens "
     "and the model's context 256"},
    {"EmptyStop", [](G& r) { r.add_stop(std::string()); },
     "stop[0]: stop[0] has 0 bytes; it must have 1 to 256"},
    {"LongStop",
     [](G& r) {
       r.add_stop(std::string(1, 'a'));
       r.add_stop(std::string(257, 'a'));
     },
     "stop[1]: stop[1] has 257 bytes; it must have 1 to 256"},
    {"ManyStops",
     [](G& r) {
       for (int i = 0; i < 17; ++i) r.add_stop(std::string(1, 'a'));
     },
     "stop: stop has 17 entries; it must have at most 16"},
    {"ManyStopTokens",
     [](G& r) {
       for (int i = 0; i < 17; ++i) r.add_stop_token_ids(1);
     },
     "stop_token_ids: stop_token_ids has 17 ids; it must have at most 16"},
    {"StopTokenTooLarge", [](G& r) { r.add_stop_token_ids(8192); },
     "stop_token_ids[0]: stop_token_ids[0] is 8192; it must be in [0, 8191]"},
    {"TopLogprobs", [](G& r) { r.set_top_logprobs(21); },
     "top_logprobs: top_logprobs is 21; it must be in [0, 20]"},
};

INSTANTIATE_TEST_SUITE_P(All, GenerateRefusalTest, testing::ValuesIn(kGenerateCases),
                         [](const auto& info) { return std::string(info.param.name); });

// The sentences are the core's; the path must be the protocol's.
struct SamplingCase {
  const char* name;
  std::function<void(v1::Sampling&)> spoil;
  const char* field;
};

class SamplingRefusalTest : public testing::TestWithParam<SamplingCase> {};

TEST_P(SamplingRefusalTest, NamesTheField) {
  static TestServer& server = *new TestServer();
  v1::GenerateRequest request = ValidGenerate();
  GetParam().spoil(*request.mutable_sampling());
  grpc::ClientContext context;
  const auto result = ReadAll(server.inference().Generate(&context, request));
  EXPECT_EQ(result.status.error_code(), grpc::INVALID_ARGUMENT);
  const std::string field = absl::StrCat("sampling.", GetParam().field);
  EXPECT_THAT(FieldViolation(result.status),
              testing::StartsWith(absl::StrCat(field, ": ", field, " is ")));
}

using S = v1::Sampling;
const std::vector<SamplingCase> kSamplingCases = {
    {"NegativeTemperature", [](S& s) { s.set_temperature(-0.1f); }, "temperature"},
    {"NanTemperature", [](S& s) { s.set_temperature(std::nanf("")); }, "temperature"},
    {"InfiniteTemperature", [](S& s) { s.set_temperature(INFINITY); }, "temperature"},
    {"NegativeTopK", [](S& s) { s.set_top_k(-1); }, "top_k"},
    {"ZeroTopP", [](S& s) { s.set_top_p(0); }, "top_p"},
    {"NanTopP", [](S& s) { s.set_top_p(std::nanf("")); }, "top_p"},
    {"LargeMinP", [](S& s) { s.set_min_p(1.5f); }, "min_p"},
    {"ZeroRepetition", [](S& s) { s.set_repetition_penalty(0); }, "repetition_penalty"},
    {"NanPresence", [](S& s) { s.set_presence_penalty(std::nanf("")); },
     "presence_penalty"},
    {"LargeFrequency", [](S& s) { s.set_frequency_penalty(11); }, "frequency_penalty"},
    {"NegativeNgram", [](S& s) { s.set_no_repeat_ngram(-1); }, "no_repeat_ngram"},
};

INSTANTIATE_TEST_SUITE_P(All, SamplingRefusalTest, testing::ValuesIn(kSamplingCases),
                         [](const auto& info) { return std::string(info.param.name); });

struct ScoreCase {
  const char* name;
  std::function<void(v1::ScoreRequest&)> spoil;
  const char* violation;
};

class ScoreRefusalTest : public testing::TestWithParam<ScoreCase> {};

TEST_P(ScoreRefusalTest, NamesFieldLimitAndValue) {
  static TestServer& server = *new TestServer();
  v1::ScoreRequest request;
  request.mutable_input()->set_text("Once upon");
  GetParam().spoil(request);
  grpc::ClientContext context;
  const auto result = ReadAll(server.inference().Score(&context, request));
  EXPECT_EQ(result.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(result.status), GetParam().violation);
}

v1::ByteSpan& AddSpan(v1::ScoreRequest& request, int64_t begin, int64_t end) {
  v1::ByteSpan& span = *request.mutable_options()->add_spans();
  span.set_begin(begin);
  span.set_end(end);
  return span;
}

using R = v1::ScoreRequest;
const std::vector<ScoreCase> kScoreCases = {
    {"NoInput", [](R& r) { r.clear_input(); },
     "input: input is not set; it must hold text or token_ids"},
    {"EmptyText", [](R& r) { r.mutable_input()->set_text(""); },
     "input.text: input.text is empty; it must hold at least one byte"},
    {"Chat", [](R& r) { r.mutable_input()->mutable_chat(); },
     "input.chat: input.chat is for Generate; it must be text or token_ids"},
    {"SpanBeyondTheText", [](R& r) { AddSpan(r, 0, 10); },
     "options.spans[0]: options.spans[0] is [0, 10); it must be inside [0, 9)"},
    {"SpanBackwards",
     [](R& r) {
       AddSpan(r, 0, 1);
       AddSpan(r, 3, 2);
     },
     "options.spans[1]: options.spans[1] is [3, 2); it must be inside [0, 9)"},
    {"ManySpans",
     [](R& r) {
       for (int i = 0; i < 10001; ++i) AddSpan(r, 0, 1);
     },
     "options.spans: options.spans has 10001 entries; it must have at most 10000"},
    {"SpansOfIds",
     [](R& r) {
       r.mutable_input()->mutable_token_ids()->add_ids(1);
       AddSpan(r, 0, 1);
     },
     "options.spans: options.spans is set; it must be empty when the input is not text"},
    {"TopLogprobs", [](R& r) { r.mutable_options()->set_top_logprobs(-1); },
     "options.top_logprobs: options.top_logprobs is -1; it must be in [0, 20]"},
    {"ZeroOverlap", [](R& r) { r.mutable_options()->set_overlap_tokens(0); },
     "options.overlap_tokens: options.overlap_tokens is 0; it must be in [1, 255]"},
    {"LargeOverlap", [](R& r) { r.mutable_options()->set_overlap_tokens(256); },
     "options.overlap_tokens: options.overlap_tokens is 256; it must be in [1, 255]"},
};

INSTANTIATE_TEST_SUITE_P(All, ScoreRefusalTest, testing::ValuesIn(kScoreCases),
                         [](const auto& info) { return std::string(info.param.name); });

grpc::Status Summarize(TestServer& server, const v1::SummarizeRequest& request) {
  grpc::ClientContext context;
  return ReadAll(server.inference().Summarize(&context, request)).status;
}

TEST(RefusalTest, SummarizeNamesTheField) {
  TestServer server;
  v1::SummarizeRequest request;
  EXPECT_EQ(FieldViolation(Summarize(server, request)),
            "input: input is not set; it must hold text or token_ids");
  request.mutable_input()->mutable_chat();
  EXPECT_EQ(FieldViolation(Summarize(server, request)),
            "input.chat: input.chat is for Generate; it must be text or token_ids");
  request.mutable_input()->set_text("A text.");
  request.set_max_new_tokens(256);
  EXPECT_EQ(FieldViolation(Summarize(server, request)),
            "max_new_tokens: max_new_tokens is 256; it must be in [1, 255]");
  request.clear_max_new_tokens();
  request.set_target_words(9);
  EXPECT_THAT(FieldViolation(Summarize(server, request)),
              testing::StartsWith("target_words: target_words is 9"));
  request.set_target_words(0);
  request.set_question(std::string(2001, 'q'));
  EXPECT_THAT(FieldViolation(Summarize(server, request)),
              testing::StartsWith("question: "));
  request.clear_question();
  request.set_strategy(static_cast<v1::SummaryStrategy>(9));
  EXPECT_THAT(FieldViolation(Summarize(server, request)),
              testing::StartsWith("strategy: strategy is 9"));
}

TEST(RefusalTest, AnUnknownModelIsNotFoundAndTheKnownOnesAreListed) {
  TestServer server;
  v1::GenerateRequest generate = ValidGenerate();
  generate.set_model("nosuch");
  grpc::ClientContext first;
  const auto result = ReadAll(server.inference().Generate(&first, generate));
  EXPECT_EQ(result.status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(result.status.error_message(), "model is 'nosuch'; this server has 'tiny'");
  EXPECT_EQ(Reason(result.status), "UNKNOWN_MODEL");

  v1::GetModelRequest get;
  get.set_name("nosuch");
  v1::GetModelResponse response;
  grpc::ClientContext second;
  EXPECT_EQ(server.models().GetModel(&second, get, &response).error_code(),
            grpc::NOT_FOUND);
}

TEST(RefusalTest, AMessageOverTheLimitIsResourceExhausted) {
  TestServer server({.max_message_bytes = 10000});
  v1::GenerateRequest request;
  request.mutable_input()->set_text(std::string(10001, 'a'));
  grpc::ClientContext context;
  const auto result = ReadAll(server.inference().Generate(&context, request));
  EXPECT_EQ(result.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(result.status.error_message(), HasSubstr("10000"));
}

TEST(RefusalTest, AStringThatIsNotUtf8IsNamed) {
  TestServer server;
  // protobuf would not let us make such a message.
  // SummarizeRequest.question = "ab\xff"
  const grpc::Status question = CallRaw(server, "/quire.v1.InferenceService/Summarize",
                                        "\x22\x03"
                                        "ab\xff");
  EXPECT_EQ(question.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(question),
            "question: question is not UTF-8: byte 2 is the first bad one");
  // GenerateRequest.input.chat.messages[1].role = "\xff"
  const grpc::Status role =
      CallRaw(server, "/quire.v1.InferenceService/Generate",
              std::string("\x12\x0a\x1a\x08\x0a\x01\x0a\x0a\x03\x0a\x01\xff", 12));
  EXPECT_EQ(role.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(FieldViolation(role), HasSubstr("role is not UTF-8"));
  // GenerateRequest.stop[1] = "\xc0\x80"
  const grpc::Status stop = CallRaw(server, "/quire.v1.InferenceService/Generate",
                                    "\x2a\x01"
                                    "a"
                                    "\x2a\x02\xc0\x80");
  EXPECT_EQ(FieldViolation(stop),
            "stop[1]: stop[1] is not UTF-8: byte 0 is the first bad one");
  // A unary call: GetModelRequest.name = "\xff"
  const grpc::Status name =
      CallRaw(server, "/quire.v1.ModelService/GetModel", "\x0a\x01\xff");
  EXPECT_EQ(FieldViolation(name), "name: name is not UTF-8: byte 0 is the first bad one");
}

TEST(RefusalTest, BytesThatAreNoMessageAreInvalid) {
  TestServer server;
  const grpc::Status status = CallRaw(server, "/quire.v1.InferenceService/Summarize",
                                      "\x22\x7f"
                                      "ab");
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(),
            "the request is not a valid quire.v1.SummarizeRequest");
  EXPECT_EQ(Reason(status), "MALFORMED_MESSAGE");
}

TEST(RefusalTest, TokensAreCheckedToo) {
  TestServer server;
  {
    v1::TokenizeRequest request;
    request.set_text(std::string((1 << 20) + 1, 'a'));
    v1::TokenizeResponse response;
    grpc::ClientContext context;
    const auto status = server.inference().Tokenize(&context, request, &response);
    EXPECT_EQ(FieldViolation(status),
              "text: text has 1048577 bytes; it must have at most 1048576");
  }
  {
    v1::DetokenizeRequest request;
    request.add_token_ids(1);
    request.add_token_ids(8192);
    v1::DetokenizeResponse response;
    grpc::ClientContext context;
    const auto status = server.inference().Detokenize(&context, request, &response);
    EXPECT_EQ(FieldViolation(status),
              "token_ids[1]: token_ids[1] is 8192; it must be in [0, 8191]");
  }
  {
    v1::CountTokensRequest request;
    v1::CountTokensResponse response;
    grpc::ClientContext context;
    const auto status = server.inference().CountTokens(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
    EXPECT_THAT(FieldViolation(status), HasSubstr("input is not set"));
  }
}

}  // namespace
}  // namespace quire::server
