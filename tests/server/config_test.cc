#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/support/temp_path.h"

namespace quire::server {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using Variables = std::map<std::string, std::string>;

absl::StatusOr<CommandLine> Parse(std::vector<std::string> arguments,
                                  Variables variables = {}) {
  return ParseCommandLine(arguments, [&](const std::string& name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

std::string ErrorOf(std::vector<std::string> arguments, Variables variables = {}) {
  const auto command = Parse(std::move(arguments), std::move(variables));
  EXPECT_EQ(command.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(command.status().message());
}

// A config file that goes with the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) : path_(TempPath("config.json")) {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

TEST(ConfigTest, DefaultsNeedOnlyAModel) {
  const auto command = Parse({"--model", "a"});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_THAT(command->options.model, ElementsAre("a"));
  EXPECT_EQ(command->options.listen, "127.0.0.1:50051");
  EXPECT_EQ(command->options.http_listen, "127.0.0.1:8080");
  EXPECT_EQ(command->options.max_message_bytes, 64 << 20);
  EXPECT_FALSE(command->check_config);
  EXPECT_FALSE(command->text.has_value());
}

TEST(ConfigTest, FlagsWinOverEnvironmentOverFileOverDefaults) {
  const ConfigFile file(
      R"({"model": ["f"], "threads": 1, "chunk_tokens": 11, "max_waiting": 21,
          "max_running": 9, "drain_seconds": 1.5})");
  const auto command =
      Parse({"--config", file.path(), "--threads", "3"}, {{"QUIRE_THREADS", "2"},
                                                          {"QUIRE_CHUNK_TOKENS", "12"},
                                                          {"QUIRE_DRAIN_SECONDS", ""}});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->options.threads, 3);
  EXPECT_EQ(command->options.chunk_tokens, 12);
  EXPECT_EQ(command->options.max_waiting, 21);
  EXPECT_EQ(command->options.drain_seconds, 1.5);
  EXPECT_EQ(command->options.write_stall_seconds, 30);
  EXPECT_THAT(command->options.model, ElementsAre("f"));
}

TEST(ConfigTest, TheDeviceIsChosenAtTheStart) {
  EXPECT_EQ(Parse({"--model", "a"})->options.device, "auto");
  const ConfigFile file(R"({"model": "f", "device": "cuda"})");
  EXPECT_EQ(Parse({"--config", file.path()})->options.device, "cuda");
  EXPECT_EQ(Parse({"--config", file.path()}, {{"QUIRE_DEVICE", "cpu"}})->options.device,
            "cpu");
  EXPECT_EQ(Parse({"--model", "a", "--device", "cuda:7"})->options.device, "cuda:7");
}

TEST(ConfigTest, AttentionOfRequestsThatSayNothing) {
  const AttentionOptions unset = Parse({"--model", "a"})->options.attention();
  EXPECT_EQ(unset.mode, AttentionMode::kAuto);
  EXPECT_EQ(unset.eps, AttentionOptions().eps);
  EXPECT_EQ(unset.max_error, 1.0f);
  EXPECT_EQ(unset.min_sparse_tokens, -1);
  const ConfigFile file(R"({"model": "f", "attention_mode": "refined",
                            "attention_eps": 0.25, "attention_min_sparse_tokens": 500})");
  const AttentionOptions set = Parse({"--config", file.path(), "--attention-eps", "0.5"},
                                     {{"QUIRE_ATTENTION_MAX_ERROR", "0.125"}})
                                   ->options.attention();
  EXPECT_EQ(set.mode, AttentionMode::kRefined);
  EXPECT_EQ(set.eps, 0.5f);
  EXPECT_EQ(set.max_error, 0.125f);
  EXPECT_EQ(set.min_sparse_tokens, 500);
  for (const auto& [name, mode] : std::map<std::string, AttentionMode>{
           {"dense", AttentionMode::kDense}, {"faithful", AttentionMode::kFaithful}}) {
    EXPECT_EQ(Parse({"--model", "a", "--attention-mode", name})->options.attention().mode,
              mode);
  }
}

TEST(ConfigTest, OptionsOfTheEngine) {
  const ServerOptions unset = Parse({"--model", "a"})->options;
  EXPECT_EQ(unset.max_running, 256);
  EXPECT_EQ(unset.max_waiting, 64);
  EXPECT_EQ(unset.max_waiting_tokens, 1 << 20);
  EXPECT_EQ(unset.long_prompt_tokens, 4096);
  EXPECT_EQ(unset.max_long_prefills, 2);
  EXPECT_EQ(unset.decode_stretch_percent, 180);
  EXPECT_EQ(unset.max_step_seconds, 0.25);
  EXPECT_EQ(unset.prefix_caching(), PrefixCaching::kPerTenant);
  EXPECT_EQ(unset.admission_mode(), AdmissionMode::kReport);
  EXPECT_EQ(unset.stream_interval_ms, 10);
  EXPECT_EQ(unset.stream_events_per_second, 0);
  EXPECT_EQ(unset.min_context_tokens, 1024);
  EXPECT_EQ(unset.price_per_device_hour, 0);
  EXPECT_EQ(unset.shadow_share, 0.01);
  EXPECT_EQ(unset.shadow_device_seconds_per_minute, 6);
  EXPECT_EQ(unset.schedule_trace, "");
  const ConfigFile file(R"({"model": "f", "max_running": 8, "max_waiting_tokens": 5000,
      "long_prompt_tokens": 100, "max_long_prefills": 1, "decode_stretch_percent": 250,
      "max_step_seconds": 0, "stream_interval_ms": 0,
      "stream_events_per_second": 50, "min_context_tokens": 64,
      "price_per_device_hour": 2.5, "shadow_share": 0.5,
      "shadow_device_seconds_per_minute": 0, "schedule_trace": "t.txt"})");
  const ServerOptions set = Parse({"--config", file.path(), "--prefix-cache", "shared"},
                                  {{"QUIRE_ADMISSION", "enforce"}})
                                ->options;
  EXPECT_EQ(set.max_running, 8);
  EXPECT_EQ(set.max_waiting_tokens, 5000);
  EXPECT_EQ(set.long_prompt_tokens, 100);
  EXPECT_EQ(set.max_long_prefills, 1);
  EXPECT_EQ(set.decode_stretch_percent, 250);
  EXPECT_EQ(set.max_step_seconds, 0);
  EXPECT_EQ(set.stream_interval_ms, 0);
  EXPECT_EQ(set.stream_events_per_second, 50);
  EXPECT_EQ(set.min_context_tokens, 64);
  EXPECT_EQ(set.price_per_device_hour, 2.5);
  EXPECT_EQ(set.shadow_share, 0.5);
  EXPECT_EQ(set.shadow_device_seconds_per_minute, 0);
  EXPECT_EQ(set.schedule_trace, "t.txt");
  EXPECT_EQ(set.prefix_caching(), PrefixCaching::kShared);
  EXPECT_EQ(set.admission_mode(), AdmissionMode::kEnforce);
  EXPECT_EQ(Parse({"--model", "a", "--prefix-cache", "off"})->options.prefix_caching(),
            PrefixCaching::kOff);
  EXPECT_EQ(Parse({"--model", "a", "--admission", "off"})->options.admission_mode(),
            AdmissionMode::kOff);
}

TEST(ConfigTest, ACacheThatHoldsNoUsefulRequestIsRefusedWithBothSizes) {
  const ServerOptions options = Parse({"--model", "a"})->options;
  EXPECT_TRUE(options.CheckCache(1 << 20, 1024, 32768).ok());
  EXPECT_TRUE(options.CheckCache(1 << 20, 512, 512).ok());  // the model's whole context
  EXPECT_EQ(options.CheckCache(512'000, 512, 32768),
            absl::InvalidArgumentError(
                "kv_cache_bytes is 512000, which holds 512 tokens; it must hold at least "
                "1024, about 1024000 bytes: min_context_tokens is 1024 and the model's "
                "context 32768"));
  EXPECT_EQ(options.CheckCache(0, 0, 32768).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ConfigTest, ModelsComeFromRepeatedFlagsAListOrAPath) {
  EXPECT_THAT(Parse({"--model", "a", "--model", "b"})->options.model,
              ElementsAre("a", "b"));
  EXPECT_THAT(Parse({}, {{"QUIRE_MODEL", "a:b"}})->options.model, ElementsAre("a", "b"));
  const ConfigFile one(R"({"model": "only"})");
  EXPECT_THAT(Parse({"--config", one.path()})->options.model, ElementsAre("only"));
}

TEST(ConfigTest, TheConfigFileMayBeNamedByTheEnvironment) {
  const ConfigFile file(R"({"model": "f"})");
  EXPECT_THAT(Parse({}, {{"QUIRE_CONFIG", file.path()}})->options.model,
              ElementsAre("f"));
}

TEST(ConfigTest, WhatIsPrintedCanBeReadBack) {
  const std::string json =
      ToJson(Parse({"--model", "a", "--model", "b", "--kv-cache-bytes", "123456789012",
                    "--listen", "[::1]:0", "--http-listen", "", "--log-level", "debug"})
                 ->options);
  const ConfigFile file(json);
  const auto again = Parse({"--config", file.path(), "--check-config"});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(ToJson(again->options), json);
  EXPECT_TRUE(again->check_config);
}

TEST(ConfigTest, HelpAndVersionAreTextToPrint) {
  EXPECT_THAT(*Parse({"--help"})->text, HasSubstr("--max-waiting"));
  EXPECT_THAT(*Parse({"--version"})->text, HasSubstr("quire-server " QUIRE_VERSION));
}

struct WrongCase {
  std::vector<std::string> arguments;
  const char* error;
};

const std::vector<WrongCase> kWrongCases = {
    {{"--threads", "-1"}, "threads is -1 (--threads); it must be in [0, 1024]"},
    {{"--threads", "two"},
     "threads is \"two\" (--threads); it must be an integer in [0, 1024]"},
    {{"--threads", "1.5"},
     "threads is \"1.5\" (--threads); it must be an integer in [0, 1024]"},
    {{"--threads", "99999999999999999999"},
     "threads is \"99999999999999999999\" (--threads); it must be an integer in [0, "
     "1024]"},
    {{"--max-waiting", "0"}, "max_waiting is 0 (--max-waiting); it must be in [1, 1000]"},
    {{"--max-message-bytes", "2147483648"},
     "max_message_bytes is 2147483648 (--max-message-bytes); it must be in [1024, "
     "2147483647]"},
    {{"--drain-seconds", "nan"},
     "drain_seconds is \"nan\" (--drain-seconds); it must be a number in [0, 86400]"},
    {{"--chunk-tokens", "1", "--chunk-tokens", "2"},
     "chunk_tokens is given more than once (--chunk-tokens); it must be given once"},
    {{"--max-running", "0"}, "max_running is 0 (--max-running); it must be in [1, 1024]"},
    {{"--max-running", "513", "--chunk-tokens", "512"},
     "chunk_tokens is 512; it must be >= max_running, which is 513"},
    {{"--chunk-tokens", "255"},
     "chunk_tokens is 255; it must be >= max_running, which is 256"},
    {{"--max-waiting-tokens", "0"},
     "max_waiting_tokens is 0 (--max-waiting-tokens); it must be in [1, "
     "1000000000000]"},
    {{"--decode-stretch-percent", "100"},
     "decode_stretch_percent is 100 (--decode-stretch-percent); it must be in [101, "
     "100000]"},
    {{"--max-step-seconds", "-0.5"},
     "max_step_seconds is -0.5 (--max-step-seconds); it must be in [0, 3600]"},
    {{"--prefix-cache", "on"},
     "prefix_cache is 'on'; it must be one of off, tenant, shared"},
    {{"--admission", "strict"},
     "admission is 'strict'; it must be one of off, report, enforce"},
    {{"--stream-interval-ms", "10001"},
     "stream_interval_ms is 10001 (--stream-interval-ms); it must be in [0, 10000]"},
    {{"--min-context-tokens", "0"},
     "min_context_tokens is 0 (--min-context-tokens); it must be in [1, 2147483647]"},
    {{"--price-per-device-hour", "-1"},
     "price_per_device_hour is -1.0 (--price-per-device-hour); it must be in [0, "
     "1000000]"},
    {{"--shadow-share", "1.5"},
     "shadow_share is 1.5 (--shadow-share); it must be in [0, 1]"},
    {{"--shadow-device-seconds-per-minute", "61"},
     "shadow_device_seconds_per_minute is 61.0 (--shadow-device-seconds-per-minute); it "
     "must be in [0, 60]"},
    {{"--compute", "int8"},
     "compute is 'int8'; it must be one of auto, float32, bfloat16"},
    {{"--device", "gpu"},
     "device is 'gpu'; it must be auto, cpu, cuda or cuda:N with N in [0, 63]"},
    {{"--device", "cuda:64"},
     "device is 'cuda:64'; it must be auto, cpu, cuda or cuda:N with N in [0, 63]"},
    {{"--attention-mode", "sparse"},
     "attention_mode is 'sparse'; it must be one of auto, dense, faithful, refined"},
    {{"--attention-eps", "1.5"},
     "attention_eps is 1.5 (--attention-eps); it must be in [0, 1]"},
    {{"--attention-max-error", "nan"},
     "attention_max_error is \"nan\" (--attention-max-error); it must be a number in "
     "[0, 1]"},
    {{"--attention-min-sparse-tokens", "-2"},
     "attention_min_sparse_tokens is -2 (--attention-min-sparse-tokens); it must be in "
     "[-1, 2147483647]"},
    {{"--log-format", "xml"}, "log_format is 'xml'; it must be one of json, text"},
    {{"--listen", "localhost"},
     "listen is 'localhost'; it must be host:port with a port in [0, 65535]"},
    {{"--listen", "::1:80"},
     "listen is '::1:80'; it must be host:port with a port in [0, 65535]"},
    {{"--http-listen", "a:65536"},
     "http_listen is 'a:65536'; it must be host:port with a port in [0, 65535]"},
    {{"--model", ""}, "model is ''; it must name a folder"},
};

TEST(ConfigTest, WrongValuesAreNamedWithTheirLimit) {
  for (const WrongCase& wrong : kWrongCases) {
    std::vector<std::string> arguments = {"--model", "m"};
    arguments.insert(arguments.end(), wrong.arguments.begin(), wrong.arguments.end());
    EXPECT_EQ(ErrorOf(arguments), wrong.error);
  }
}

TEST(ConfigTest, AModelMustBeSet) {
  EXPECT_EQ(ErrorOf({}), "model is not set; it must name at least one folder");
}

TEST(ConfigTest, TheSourceOfAWrongValueIsNamed) {
  EXPECT_EQ(ErrorOf({"--model", "m"}, {{"QUIRE_THREADS", "x"}}),
            "threads is \"x\" (QUIRE_THREADS); it must be an integer in [0, 1024]");
  const ConfigFile file(R"({"listen": 50051})");
  EXPECT_EQ(ErrorOf({"--config", file.path()}),
            "listen is 50051 (" + file.path() + "); it must be a string");
}

TEST(ConfigTest, UnknownKeysAndFlagsAreRefusedByName) {
  const ConfigFile file(R"({"model": "m", "max-waiting": 3})");
  EXPECT_EQ(ErrorOf({"--config", file.path()}),
            "unknown key 'max-waiting' in config '" + file.path() + "'");
  EXPECT_THAT(ErrorOf({"--model", "m", "--nosuch", "1"}), HasSubstr("--nosuch"));
}

TEST(ConfigTest, AFileThatIsNoObjectOrIsMissingIsRefused) {
  const ConfigFile broken(R"({"model": )");
  EXPECT_THAT(ErrorOf({"--config", broken.path()}),
              HasSubstr("it must hold a JSON object"));
  const ConfigFile list("[1]");
  EXPECT_THAT(ErrorOf({"--config", list.path()}),
              HasSubstr("it must hold a JSON object"));
  const auto missing = Parse({"--config", "/nonexistent/quire.json"});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
}

TEST(HostPortTest, SplitsNamesNumbersAndBrackets) {
  EXPECT_EQ(ParseHostPort("localhost:1")->host, "localhost");
  EXPECT_EQ(ParseHostPort("[::1]:65535")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:65535")->port, 65535);
  for (const char* wrong : {"", ":1", "a:", "a:-1", "a:x", "[]:1", "a"}) {
    EXPECT_FALSE(ParseHostPort(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace quire::server
