#include "core/tokenizer/chat_template.h"

#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/tokenizer/goldens.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using testing::GoldenJson;
using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

ChatTemplate ParseOrDie(std::string_view source) {
  return ChatTemplate::Parse(source, "<s>", "</s>").value();
}

absl::StatusOr<std::string> RenderOne(std::string_view source,
                                      std::string content = "hi") {
  return ParseOrDie(source).Render({{"user", std::move(content)}}, true);
}

// ---- Against jinja2, set up as transformers does

std::vector<ChatMessage> Messages(const nlohmann::json& golden) {
  std::vector<ChatMessage> messages;
  for (const auto& message : golden) messages.push_back({message[0], message[1]});
  return messages;
}

TEST(ChatTemplateGoldenTest, RendersAsTransformersDoes) {
  int rendered = 0, refused = 0;
  for (const nlohmann::json& golden : GoldenJson("golden_chats.json")) {
    const std::string file = golden["template"];
    SCOPED_TRACE(file + ", " + golden["dialogue"].get<std::string>());
    const ChatTemplate chat_template =
        ParseOrDie(ReadFile(QUIRE_TESTDATA_DIR "/tokenizer/templates/" + file));
    const auto text = chat_template.Render(Messages(golden["messages"]),
                                           golden["add_generation_prompt"]);
    if (golden.contains("text")) {
      EXPECT_EQ(text.value_or(text.status().ToString()),
                golden["text"].get<std::string>());
      ++rendered;
    } else {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
      const bool raised =
          file != "broken_access.jinja";  // the engines word that differently
      EXPECT_THAT(text.status().message(),
                  HasSubstr(raised ? golden["error"].get<std::string>() : "undefined"));
      ++refused;
    }
  }
  EXPECT_GE(rendered, 80);
  EXPECT_GE(refused, 20);
}

TEST(ChatTemplateTest, TheBundledModelsOwnTemplate) {
  const auto config = nlohmann::json::parse(
      ReadFile(QUIRE_MODELS_DIR "/quire-135m/tokenizer_config.json"));
  const ChatTemplate chat_template =
      ParseOrDie(config["chat_template"].get<std::string>());
  EXPECT_EQ(
      chat_template.Render({{"system", "You read."}, {"user", "Summarize."}}, true)
          .value(),
      "<|im_start|>system\nYou read.<|im_end|>\n<|im_start|>user\nSummarize.<|im_end|>\n"
      "<|im_start|>assistant\n");
}

// ---- Content is data

TEST(ChatTemplateTest, ContentIsNeverATemplate) {
  const std::string hostile = "{{ 7 * 6 }}{% for x in y %}{# c #}<b>&amp;\"'";
  EXPECT_EQ(RenderOne("{{ messages[0].content }}", hostile).value(), hostile);
}

TEST(ChatTemplateTest, NulBytesAndEmptyListsAreFine) {
  const std::string text("a\0b", 3);
  EXPECT_EQ(RenderOne("{{ messages[0].content }}", text).value(), text);
  EXPECT_EQ(ParseOrDie("{{ messages | length }}").Render({}, false).value(), "0");
}

TEST(ChatTemplateTest, MessagesMustBeUtf8) {
  const absl::Status status =
      ParseOrDie("x").Render({{"user", "fine"}, {"user", "ab\xFF"}}, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "messages[1].content is not valid UTF-8 at byte 2");
}

TEST(ChatTemplateTest, StrftimeNowIsTheLocalDate) {
  const std::string format = "%d %b %Y";
  const auto today = [&] {
    return absl::FormatTime(format, absl::Now(), absl::LocalTimeZone());
  };
  const std::string before = today();
  const std::string rendered = RenderOne("{{ strftime_now('" + format + "') }}").value();
  EXPECT_THAT(rendered, ::testing::AnyOf(before, today()));  // midnight may fall between
  EXPECT_EQ(RenderOne("{{ strftime_now('') }}").value(), "");
}

// ---- Bad templates

TEST(ChatTemplateTest, SyntaxErrorsHaveAPosition) {
  const absl::Status status =
      ChatTemplate::Parse("line one\nline two {% if %}\n", "", "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("syntax error"), HasSubstr("chat_template:2"),
                    HasSubstr("byte 24")));
}

TEST(ChatTemplateTest, BadTemplatesAreInvalid) {
  for (const std::string source :
       {"{{", "{% for %}", "{% endfor %}", "{{ 1 | no_such_filter }}",
        "{% unknown_tag %}", "{% generation %}", "\xFF", "{{ ' }}", "{% macro %}"}) {
    const auto parsed = ChatTemplate::Parse(source, "", "");
    const absl::Status status =
        parsed.ok() ? parsed->Render({{"user", "x"}}, true).status() : parsed.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_NE(status.message(), "") << source;
  }
}

TEST(ChatTemplateTest, RefusesAHugeTemplate) {
  const absl::Status status =
      ChatTemplate::Parse(std::string((1 << 20) + 1, 'x'), "", "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "the chat template has 1048577 bytes; the limit is 1048576");
}

TEST(ChatTemplateTest, DeepNestingIsRefusedAndDoesNotOverflowTheStack) {
  const std::string deep =
      "{{ " + std::string(50000, '(') + "1" + std::string(50000, ')') + " }}";
  EXPECT_EQ(ChatTemplate::Parse(deep, "", "").status().code(),
            absl::StatusCode::kInvalidArgument);
  std::string blocks;
  for (int i = 0; i < 20000; ++i) blocks += "{% if true %}";
  EXPECT_EQ(ChatTemplate::Parse(blocks, "", "").status().code(),
            absl::StatusCode::kInvalidArgument);
}

// ---- Hostile templates end

TEST(ChatTemplateTest, EndlessLoopsRunOutOfInstructions) {
  const std::string nested =
      "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
  const absl::Status status = RenderOne(nested).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "the chat template ran for more than 10000000 instructions");
}

TEST(ChatTemplateTest, EndlessRecursionIsRefused) {
  const absl::Status status =
      RenderOne("{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, DeepValuesAreRefused) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(100) %}{% set ns.x = [ns.x] %}{% "
      "endfor %}";
  for (const std::string print : {"{{ ns.x }}", "{{ ns.x | tojson }}"}) {
    const absl::Status status = RenderOne(nest + print).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("a value is nested over 64 deep"));
  }
}

TEST(ChatTemplateTest, HugeRangesAndRepetitionsAreRefused) {
  for (const char* source :
       {"{{ range(1000000000) | list }}", "{{ 'x' * 10000000000 }}"}) {
    EXPECT_EQ(RenderOne(source).status().code(), absl::StatusCode::kInvalidArgument)
        << source;
  }
}

TEST(ChatTemplateTest, OutputIsBounded) {
  const absl::Status status =
      RenderOne("{% for i in range(100) %}{{ messages[0].content }}{% endfor %}",
                std::string(1 << 20, 'x'))
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "the rendered chat is over the limit of 67108864 bytes");
}

TEST(ChatTemplateTest, AThousandTurnsAreFine) {
  const std::vector<ChatMessage> messages(1000, {"user", "turn"});
  const ChatTemplate chat_template =
      ParseOrDie(ReadFile(QUIRE_TESTDATA_DIR "/tokenizer/templates/qwen_style.jinja"));
  EXPECT_EQ(chat_template.Render(messages, false).value().size(), 1000u * 32);
}

TEST(ChatTemplateTest, ThreadsMayShareATemplate) {
  const ChatTemplate chat_template =
      ParseOrDie("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}");
  std::vector<int> differences(4, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string content = std::to_string(t);
      for (int i = 0; i < 200; ++i) {
        differences[t] += chat_template.Render({{"user", content}}, false).value() !=
                          "user:" + content + ";";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(differences, Each(0));
}

}  // namespace
}  // namespace quire
