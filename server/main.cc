#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "server/app.h"
#include "server/config.h"

int main(int argc, char** argv) {
  using namespace quire::server;
  const auto command =
      ParseCommandLine({argv + 1, argv + argc}, [](const std::string& name) {
        const char* value = std::getenv(name.c_str());
        return value == nullptr ? std::nullopt : std::optional<std::string>(value);
      });
  if (!command.ok()) {
    std::fprintf(stderr, "quire-server: %s\n",
                 std::string(command.status().message()).c_str());
    return kExitOptions;
  }
  if (command->text.has_value() || command->check_config) {
    const std::string text =
        command->text.has_value() ? *command->text : ToJson(command->options) + "\n";
    return std::fputs(text.c_str(), stdout) < 0 ? kExitUnexpected : kExitStopped;
  }
  return RunServer(command->options);
}
