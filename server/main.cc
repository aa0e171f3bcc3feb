#include <limits.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "server/app.h"
#include "server/config.h"

namespace {

// How long a thread of a step spins for its fellows before it sleeps, in libgomp's
// rounds: some 30 us, longer than the gaps within a step. Its default, some 10 ms, burns
// whole time slices as soon as anything else wants the cores: beside a dozen busy
// processes decoding was three times slower. libgomp reads the variable while it is
// loaded, so it takes a new start of the program.
constexpr char kSpinVariable[] = "GOMP_SPINCOUNT";
constexpr char kSpinRounds[] = "1000";

void LimitSpinning(char** argv) {
  if (std::getenv(kSpinVariable) != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr)
    return;
  setenv(kSpinVariable, kSpinRounds, /*overwrite=*/0);
  // Its path, not the link: the process keeps its name.
  char path[PATH_MAX + 1] = {};
  if (readlink("/proc/self/exe", path, PATH_MAX) > 0) execv(path, argv);
  // Otherwise the program just goes on; only its speed on a busy machine suffers.
}

}  // namespace

int main(int argc, char** argv) {
  LimitSpinning(argv);
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
