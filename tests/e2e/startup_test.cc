#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/e2e/service.h"
#include "tests/support/temp_path.h"

// Servers that must not start: the exit code and what the user is told.
namespace quire::e2e {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

constexpr int kExitOptions = 2;
constexpr int kExitCannotListen = 3;
constexpr int kExitModel = 4;

// ------------------------------------------------------------------------ broken models

// A copy of quire-19m to break: its weights are a link until they are written.
class ModelCopy {
 public:
  explicit ModelCopy(const std::string& name) : path_(TempPath("e2e" + name)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    const fs::path source = ModelFolder("quire-19m");
    for (const char* file : {"config.json", "tokenizer.json"}) {
      fs::copy_file(source / file, path_ / file);
    }
    fs::create_symlink(source / "model.safetensors", path_ / "model.safetensors");
  }
  ~ModelCopy() { fs::remove_all(path_); }

  const fs::path& path() const { return path_; }
  void Remove(const std::string& file) { fs::remove(path_ / file); }
  void Write(const std::string& file, const std::string& contents) {
    Remove(file);  // never through the link
    std::ofstream(path_ / file, std::ios::binary) << contents;
  }
  std::string Read(const std::string& file, size_t bytes) const {
    std::string contents(bytes, '\0');
    std::ifstream(path_ / file, std::ios::binary)
        .read(contents.data(), static_cast<std::streamsize>(bytes));
    return contents;
  }

 private:
  fs::path path_;
};

struct BrokenModel {
  std::string name;
  std::function<void(ModelCopy&)> spoil;
  std::string file;   // named in the message; "": the folder is
  std::string error;  // a part of it
};

void PrintTo(const BrokenModel& broken, std::ostream* out) { *out << broken.name; }

class BrokenModelTest : public testing::TestWithParam<BrokenModel> {};

TEST_P(BrokenModelTest, EndsTheServerAndIsNamed) {
  ModelCopy copy(GetParam().name);
  GetParam().spoil(copy);
  Server server({copy.path().string()});
  const ProcessResult result = server.Wait();
  EXPECT_EQ(result.exit_code, kExitModel) << result.err;
  EXPECT_FALSE(server.ready());
  EXPECT_THAT(result.err, HasSubstr("\"exit_code\":4"));
  EXPECT_THAT(result.err, HasSubstr(GetParam().file.empty()
                                        ? copy.path().string()
                                        : (copy.path() / GetParam().file).string()));
  EXPECT_THAT(result.err, HasSubstr(GetParam().error));
}

void CopyAdapterOf135m(ModelCopy& copy) {
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    fs::copy_file(fs::path(ModelFolder("quire-135m")) / file, copy.path() / file);
  }
}

// The header of a GGUF file, version 3, with these numbers of tensors and of metadata.
std::string GgufHeader(uint64_t tensors, uint64_t metadata) {
  std::string header("GGUF\x03\0\0\0", 8);
  for (const uint64_t count : {tensors, metadata}) {
    for (int byte = 0; byte < 8; ++byte) {
      header += static_cast<char>(count >> (8 * byte) & 0xFF);
    }
  }
  return header;
}

const std::vector<BrokenModel>& BrokenWeights() {
  static const auto& cases = *new std::vector<BrokenModel>{
      {"TruncatedWeights",
       [](ModelCopy& copy) {
         copy.Write("model.safetensors", copy.Read("model.safetensors", 1 << 20));
       },
       "model.safetensors", "model.safetensors"},
      {"TruncatedHeader",
       [](ModelCopy& copy) {
         copy.Write("model.safetensors", copy.Read("model.safetensors", 100));
       },
       "model.safetensors", "header"},
      {"HugeHeader",
       [](ModelCopy& copy) {
         copy.Write("model.safetensors", std::string(7, '\0') + "\x80" + "{}");
       },
       "model.safetensors", "9223372036854775808"},
      {"EmptyWeights", [](ModelCopy& copy) { copy.Write("model.safetensors", ""); },
       "model.safetensors", "0 bytes"},
      {"NoWeights", [](ModelCopy& copy) { copy.Remove("model.safetensors"); }, "",
       "there are no weights"},
      {"MissingShard",
       [](ModelCopy& copy) {
         copy.Remove("model.safetensors");
         copy.Write("model.safetensors.index.json",
                    R"({"weight_map": {"model.norm.weight": "one-of-two.safetensors"}})");
       },
       "one-of-two.safetensors", "model.safetensors.index.json"},
      {"GgufOfManyTensors",
       [](ModelCopy& copy) {
         copy.Remove("model.safetensors");
         copy.Write("weights.gguf", GgufHeader(uint64_t{1} << 63, 0));
       },
       "weights.gguf", "9223372036854775808"},
      {"TruncatedGguf",
       [](ModelCopy& copy) {
         copy.Remove("model.safetensors");
         copy.Write("weights.gguf", GgufHeader(1, 1));
       },
       "weights.gguf", "weights.gguf"},
      {"AdapterOfAnotherShape", CopyAdapterOf135m, "",
       "layers.0.self_attn.q_proj.lora_A.weight has shape [32, 576]; it must be [32, "
       "384]"},
  };
  return cases;
}

const std::vector<BrokenModel>& BrokenTexts() {
  static const auto& cases = *new std::vector<BrokenModel>{
      {"ConfigNotJson", [](ModelCopy& copy) { copy.Write("config.json", "{\"a\": "); },
       "", "config.json is not JSON at byte"},
      {"ConfigOfAnotherShape",
       [](ModelCopy& copy) {
         Json config;
         std::ifstream(copy.path() / "config.json") >> config;
         config["hidden_size"] = 768;
         copy.Write("config.json", config.dump());
       },
       "",
       "tensor model.embed_tokens.weight has shape [8192, 384]; it must be [8192, 768]"},
      {"NoConfig", [](ModelCopy& copy) { copy.Remove("config.json"); }, "config.json",
       "config.json"},
      {"TokenizerNotJson",
       [](ModelCopy& copy) {
         copy.Write("tokenizer.json", copy.Read("tokenizer.json", 5000));
       },
       "tokenizer.json", "tokenizer.json"},
      {"NoTokenizer", [](ModelCopy& copy) { copy.Remove("tokenizer.json"); },
       "tokenizer.json", "there is no"},
      {"PromptsNotJson", [](ModelCopy& copy) { copy.Write("prompts.json", "[1]"); }, "",
       "prompts.json"},
  };
  return cases;
}

std::string NameOf(const testing::TestParamInfo<BrokenModel>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Weights, BrokenModelTest, testing::ValuesIn(BrokenWeights()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Texts, BrokenModelTest, testing::ValuesIn(BrokenTexts()),
                         NameOf);

TEST(StartupTest, AFolderThatIsNotThereIsNamed) {
  Server server({TempPath("no-such-model")});
  const ProcessResult result = server.Wait();
  EXPECT_EQ(result.exit_code, kExitModel);
  EXPECT_THAT(result.err, HasSubstr("no-such-model"));
}

TEST(StartupTest, BaseWeightsThatAreNotThereAreNamedWithTheWayToGetThem) {
  ModelCopy copy("WithoutBase");
  copy.Remove("model.safetensors");
  fs::copy_file(fs::path(ModelFolder("quire-135m")) / "base.json",
                copy.path() / "base.json");
  Process server({ServerBinary(), "--model", copy.path().string(), "--listen",
                  "127.0.0.1:0", "--http-listen", ""},
                 {"QUIRE_BASE_DIR=" + copy.path().string()});
  const ProcessResult result = server.Wait();
  EXPECT_EQ(result.exit_code, kExitModel);
  EXPECT_THAT(result.err, HasSubstr("SmolLM2-135M-Instruct.Q4_1.gguf"));
  EXPECT_THAT(result.err, HasSubstr("run deploy/setup.sh"));
}

// -------------------------------------------------------------------------------- device

TEST(StartupTest, ADeviceThatIsNotThereEndsTheServerAndIsNamed) {
  Server server({ModelFolder("quire-19m")}, {"--device", "cuda:63"});
  const ProcessResult result = server.Wait();
  EXPECT_EQ(result.exit_code, kExitModel);
  EXPECT_THAT(result.err, HasSubstr("device is cuda:63; "));
}

TEST(StartupTest, TheDeviceIsLogged) {
  Server server({ModelFolder("quire-19m")}, {"--device", "cpu"});
  ASSERT_TRUE(server.ready()) << server.log();
  EXPECT_THAT(server.log(), HasSubstr(R"("device":"cpu","device_note":"")"));
  EXPECT_EQ(server.Stop(), 0);
}

// --------------------------------------------------------------------------------- ports

// A port of the loopback that somebody else has.
class TakenPort {
 public:
  TakenPort() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<const sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  }
  ~TakenPort() { close(fd_); }
  const std::string& address() const { return address_; }

 private:
  const int fd_;
  std::string address_;
};

TEST(StartupTest, APortInUseIsExitCode3) {
  const TakenPort port;
  for (const std::string field : {"listen", "http_listen"}) {
    const std::string flag = field == "listen" ? "--listen" : "--http-listen";
    Server server({ModelFolder("quire-19m")}, {flag, port.address()});
    const ProcessResult result = server.Wait();
    EXPECT_EQ(result.exit_code, kExitCannotListen) << result.err;
    EXPECT_THAT(result.err, HasSubstr(absl::StrCat(field, " is '", port.address(), "'")));
  }
}

TEST(StartupTest, TwoServersOnOnePortAreRefused) {
  Server first({ModelFolder("quire-19m")});
  ASSERT_TRUE(first.ready()) << first.log();
  Server second({ModelFolder("quire-19m")}, {"--listen", first.grpc()});
  EXPECT_EQ(second.Wait().exit_code, kExitCannotListen);
  EXPECT_EQ(RunQuire(first, {"models"}).exit_code, 0);
  EXPECT_EQ(first.Stop(), 0) << first.log();
}

// --------------------------------------------------------------------------- the options

ProcessResult RunServerBinary(std::vector<std::string> arguments,
                              const std::vector<std::string>& environment = {}) {
  arguments.insert(arguments.begin(), ServerBinary());
  return Process(arguments, environment).Wait();
}

TEST(StartupTest, BadFlagsNameFieldLimitAndValue) {
  const ProcessResult number =
      RunServerBinary({"--model", ModelFolder("quire-19m"), "--threads", "-1"});
  EXPECT_EQ(number.exit_code, kExitOptions);
  EXPECT_THAT(number.err, HasSubstr("threads is -1"));
  EXPECT_THAT(number.err, HasSubstr("it must be in [0, 1024]"));
  const ProcessResult unknown = RunServerBinary({"--no-such-flag"});
  EXPECT_EQ(unknown.exit_code, kExitOptions);
  EXPECT_THAT(unknown.err, HasSubstr("--no-such-flag"));
  EXPECT_EQ(RunServerBinary({}).exit_code, kExitOptions);  // no model
}

TEST(StartupTest, ABadConfigFileIsFoundByCheckConfig) {
  const TemporaryFile unknown_key(R"({"model": "m", "treads": 3})");
  const ProcessResult key =
      RunServerBinary({"--config", unknown_key.path(), "--check-config"});
  EXPECT_EQ(key.exit_code, kExitOptions);
  EXPECT_THAT(key.err, HasSubstr("treads"));
  const TemporaryFile not_json("{");
  const ProcessResult broken =
      RunServerBinary({"--config", not_json.path(), "--check-config"});
  EXPECT_EQ(broken.exit_code, kExitOptions);
  EXPECT_THAT(broken.err, HasSubstr(not_json.path()));
  const ProcessResult missing = RunServerBinary({"--config", "no-such-file"});
  EXPECT_EQ(missing.exit_code, kExitOptions);
  EXPECT_THAT(missing.err, HasSubstr("no-such-file"));
}

TEST(StartupTest, CheckConfigPrintsWhatWouldHold) {
  const TemporaryFile file(
      R"({"model": "m", "max_running": 4, "max_waiting": 3, "chunk_tokens": 5})");
  const ProcessResult result =
      RunServerBinary({"--config", file.path(), "--check-config", "--max-waiting", "7"},
                      {"QUIRE_CHUNK_TOKENS=6", "QUIRE_MAX_WAITING=8"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json.at("model"), Json::array({"m"}));
  EXPECT_EQ(json.at("max_waiting"), 7);   // the flag
  EXPECT_EQ(json.at("chunk_tokens"), 6);  // the environment
}

}  // namespace
}  // namespace quire::e2e
