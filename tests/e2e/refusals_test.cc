#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/e2e/rpc.h"

// Every kind of bad input: the code, the field, the limit and the value, from the real
// server; and the server goes on.
namespace quire::e2e {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class RefusalsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = std::make_unique<Server>(
        std::vector<std::string>{ModelFolder("quire-19m")},
        std::vector<std::string>{"--max-text-bytes", "10000", "--max-message-bytes",
                                 "2000000"});
    ASSERT_TRUE(server_->ready()) << server_->log();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->Stop(), 0) << server_->log();
    server_.reset();
  }
  void TearDown() override {
    const auto good = Generate(client_, SmallRequest());
    EXPECT_TRUE(good.status.ok()) << good.status.error_message() << server_->log();
  }

  RawClient client_{server_->grpc()};
  static inline std::unique_ptr<Server> server_;
};

// ------------------------------------------------------------------- fields of a request

struct BadField {
  std::string name;
  std::function<void(v1::GenerateRequest&)> spoil;
  std::string violation;  // FIELD: description
};

void PrintTo(const BadField& bad, std::ostream* out) { *out << bad.name; }

class BadFieldTest : public RefusalsTest, public testing::WithParamInterface<BadField> {};

TEST_P(BadFieldTest, IsInvalidArgument) {
  v1::GenerateRequest request = SmallRequest();
  GetParam().spoil(request);
  const auto result = Generate(client_, request);
  EXPECT_EQ(result.status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(FieldViolation(result.status), GetParam().violation);
  EXPECT_THAT(GetParam().violation, testing::EndsWith(result.status.error_message()));
  EXPECT_EQ(Reason(result.status), "INVALID_FIELD");
  EXPECT_TRUE(result.events.empty());
}

const std::vector<BadField>& BadTexts() {
  static const auto& cases = *new std::vector<BadField>{
      {"EmptyText", [](auto& request) { request.mutable_input()->set_text(""); },
       "input.text: input.text is empty; it must hold at least one byte"},
      {"LongText",
       [](auto& request) { request.mutable_input()->set_text(std::string(10'001, 'a')); },
       "input.text: input.text has 10001 bytes; it must have at most 10000"},
      {"TextNotUtf8",
       [](auto& request) { request.mutable_input()->set_text("ab\xC3\x28"); },
       "input.text: input.text is not UTF-8: byte 2 is the first bad one"},
      {"StopNotUtf8", [](auto& request) { request.add_stop(std::string("\xFF")); },
       "stop[0]: stop[0] is not UTF-8: byte 0 is the first bad one"},
      {"NoInput", [](auto& request) { request.clear_input(); },
       "input: input is not set; it must hold one of text, token_ids and chat"},
      {"TokenIdTooLarge",
       [](auto& request) { request.mutable_input()->mutable_token_ids()->add_ids(8192); },
       "input.token_ids.ids[0]: input.token_ids.ids[0] is 8192; it must be in [0, 8191]"},
      {"TokenIdNegative",
       [](auto& request) {
         request.mutable_input()->mutable_token_ids()->add_ids(5);
         request.mutable_input()->mutable_token_ids()->add_ids(-1);
       },
       "input.token_ids.ids[1]: input.token_ids.ids[1] is -1; it must be in [0, 8191]"},
  };
  return cases;
}

const std::vector<BadField>& BadSampling() {
  static const auto& cases = *new std::vector<BadField>{
      {"TemperatureNegative",
       [](auto& request) { request.mutable_sampling()->set_temperature(-1); },
       "sampling.temperature: sampling.temperature is -1; it must be in [0, 100]"},
      {"TemperatureNan",
       [](auto& request) { request.mutable_sampling()->set_temperature(kNan); },
       "sampling.temperature: sampling.temperature is nan; it must be in [0, 100]"},
      {"TopKNegative", [](auto& request) { request.mutable_sampling()->set_top_k(-3); },
       "sampling.top_k: sampling.top_k is -3; it must be >= 0"},
      {"TopPNan", [](auto& request) { request.mutable_sampling()->set_top_p(kNan); },
       "sampling.top_p: sampling.top_p is nan; it must be in (0, 1]"},
      {"MinPLarge", [](auto& request) { request.mutable_sampling()->set_min_p(1.5); },
       "sampling.min_p: sampling.min_p is 1.5; it must be in [0, 1]"},
      {"RepetitionPenaltyZero",
       [](auto& request) { request.mutable_sampling()->set_repetition_penalty(0); },
       "sampling.repetition_penalty: sampling.repetition_penalty is 0; it must be in "
       "[0.01, 100]"},
  };
  return cases;
}

const std::vector<BadField>& BadLimits() {
  static const auto& cases = *new std::vector<BadField>{
      {"MaxNewTokensBeyondTheWindow",
       [](auto& request) {
         request.mutable_input()->mutable_token_ids()->add_ids(300);
         request.set_max_new_tokens(16'384);
       },
       "max_new_tokens: max_new_tokens is 16384; it must be in [1, 16383]: the input has "
       "1 tokens and the model's context 16384"},
      {"StopTooLong", [](auto& request) { request.add_stop(std::string(257, 'x')); },
       "stop[0]: stop[0] has 257 bytes; it must have 1 to 256"},
      {"TooManyStops",
       [](auto& request) {
         for (int i = 0; i < 17; ++i) request.add_stop(std::string("end"));
       },
       "stop: stop has 17 entries; it must have at most 16"},
      {"TopLogprobs", [](auto& request) { request.set_top_logprobs(21); },
       "top_logprobs: top_logprobs is 21; it must be in [0, 20]"},
  };
  return cases;
}

std::string NameOf(const testing::TestParamInfo<BadField>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Text, BadFieldTest, testing::ValuesIn(BadTexts()), NameOf);
INSTANTIATE_TEST_SUITE_P(Sampling, BadFieldTest, testing::ValuesIn(BadSampling()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Limit, BadFieldTest, testing::ValuesIn(BadLimits()), NameOf);

// --------------------------------------------------------------------------- other calls

TEST_F(RefusalsTest, AnUnknownModelIsNotFound) {
  v1::GenerateRequest request = SmallRequest();
  request.set_model("gpt-9");
  const auto result = Generate(client_, request);
  EXPECT_EQ(result.status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(result.status.error_message(),
            "model is 'gpt-9'; this server has 'quire-19m'");
  EXPECT_EQ(Reason(result.status), "UNKNOWN_MODEL");
}

TEST_F(RefusalsTest, AMessageOverTheLimitIsRefusedWithBothSizes) {
  v1::GenerateRequest request = SmallRequest();
  request.mutable_input()->set_text(std::string(2'000'001, 'a'));
  const auto result = Generate(client_, request);
  EXPECT_EQ(result.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(result.status.error_message(),
              HasSubstr(absl::StrCat(request.ByteSizeLong())));
  EXPECT_THAT(result.status.error_message(), HasSubstr("2000000"));
}

TEST_F(RefusalsTest, ADeadlineAlreadyPastEndsTheCall) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  StreamResult<v1::GenerateResponse> result;
  ReadInto(*client_.inference().Generate(&context, SmallRequest()), result);
  EXPECT_EQ(result.status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(result.events.empty());
}

TEST_F(RefusalsTest, SummariesNeedAModelThatWritesThem) {
  v1::SummarizeRequest request;
  request.mutable_input()->set_text("A story.");
  request.set_strategy(v1::SUMMARY_STRATEGY_ABSTRACTIVE);
  grpc::ClientContext context;
  StreamResult<v1::SummarizeResponse> result;
  ReadInto(*client_.inference().Summarize(&context, request), result);
  EXPECT_EQ(result.status.error_code(), grpc::FAILED_PRECONDITION);
}

TEST_F(RefusalsTest, ScoreNamesItsFields) {
  v1::ScoreRequest request;
  request.mutable_input()->set_text("abc");
  auto& span = *request.mutable_options()->add_spans();
  span.set_begin(1);
  span.set_end(4);
  EXPECT_EQ(FieldViolation(Score(client_, request).status),
            "options.spans[0]: options.spans[0] is [1, 4); it must be inside [0, 3)");
  request.mutable_options()->clear_spans();
  request.mutable_options()->set_overlap_tokens(16'384);
  EXPECT_EQ(FieldViolation(Score(client_, request).status),
            "options.overlap_tokens: options.overlap_tokens is 16384; it must be in [1, "
            "16383]");
}

// --------------------------------------------------------------------------- the command

struct BadCommand {
  std::string name;
  std::vector<std::string> arguments;
  std::string input;
  int exit_code;
  std::string error;
};

void PrintTo(const BadCommand& bad, std::ostream* out) { *out << bad.name; }

class BadCommandTest : public RefusalsTest,
                       public testing::WithParamInterface<BadCommand> {};

TEST_P(BadCommandTest, SaysWhatIsWrong) {
  const ProcessResult quire = RunQuire(*server_, GetParam().arguments, GetParam().input);
  EXPECT_EQ(quire.exit_code, GetParam().exit_code);
  EXPECT_EQ(quire.out, "");
  EXPECT_THAT(quire.err, HasSubstr(GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(
    Quire, BadCommandTest,
    testing::Values(
        BadCommand{"Empty", {"summarize", "-"}, "", 2, "standard input is empty"},
        BadCommand{"NotUtf8",
                   {"summarize", "-"},
                   "ab\xFF",
                   2,
                   "standard input is not UTF-8: byte 0xFF at offset 2"},
        BadCommand{"Long",
                   {"summarize", "-"},
                   std::string(10'001, 'a'),
                   2,
                   "input.text has 10001 bytes; it must have at most 10000"},
        // Too large for one message: it goes in pieces and is refused once put together.
        BadCommand{
            "LongInPieces", {"score", "-"}, std::string(3'000'000, 'a'), 2, "10000"},
        BadCommand{
            "Message", {"summarize", "-"}, std::string(2'000'001, 'a'), 4, "2000000"},
        BadCommand{"Temperature",
                   {"generate", "x", "--temperature", "-1"},
                   "",
                   2,
                   "sampling.temperature is -1; it must be in [0, 100]"},
        BadCommand{"TopP",
                   {"generate", "x", "--top-p", "nan"},
                   "",
                   2,
                   "sampling.top_p is nan; it must be in (0, 1]"},
        BadCommand{"MaxTokens",
                   {"generate", "x", "--max-tokens", "99999"},
                   "",
                   2,
                   "max_new_tokens is 99999; it must be in [1, 16383]"},
        BadCommand{"Stop",
                   {"generate", "x", "--stop", std::string(300, 's')},
                   "",
                   2,
                   "stop[0] has 300 bytes; it must have 1 to 256"},
        BadCommand{"TokenId",
                   {"tokens", "-", "--decode"},
                   "5 8192",
                   2,
                   "token_ids[1] is 8192; it must be in [0, 8191]"},
        BadCommand{"Timeout",
                   {"score", "-", "--timeout", "0.001"},
                   "Once upon a time",
                   5,
                   "not done within --timeout 0.001"},
        BadCommand{"Model",
                   {"generate", "x", "--model", "gpt-9"},
                   "",
                   6,
                   "model is 'gpt-9'; this server has 'quire-19m'"}),
    [](const auto& info) { return info.param.name; });

TEST_F(RefusalsTest, TheCommandsJsonHoldsTheFieldAndTheRequestId) {
  const ProcessResult quire = RunQuire(
      *server_, {"generate", "x", "--json", "--top-p", "2", "--request-id", "r7"});
  EXPECT_EQ(quire.exit_code, 2);
  const Json error = Json::parse(quire.out).at("error");
  EXPECT_EQ(error.at("code"), "INVALID_ARGUMENT");
  EXPECT_EQ(error.at("field_violations").at(0).at("field"), "sampling.top_p");
  EXPECT_EQ(error.at("request_id"), "r7");
  EXPECT_TRUE(server_->WaitForLog("\"request_id\":\"r7\""));
}

}  // namespace
}  // namespace quire::e2e
