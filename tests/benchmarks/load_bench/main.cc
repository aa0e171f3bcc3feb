// Load on a running quire-server, open loop: requests are sent when they are due,
// whatever became of the ones before. One JSON line for each rate.
//   load_bench --server HOST:PORT --rate 2 --rate 20 --clients 256
#include <CLI/CLI.hpp>
#include <cstdio>
#include <vector>

#include "tests/support/load/load.h"

int main(int argc, char** argv) {
  CLI::App app("Open-loop load on a running quire-server.");
  quire::load::LoadOptions options;
  std::vector<double> rates = {1};
  app.add_option("--server", options.server);
  app.add_option("--rate", rates, "requests a second; several: one run after the other")
      ->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds)->check(CLI::PositiveNumber);
  app.add_option("--clients", options.clients)->check(CLI::Range(1, 4096));
  app.add_option("--min-prompt", options.min_prompt)->check(CLI::PositiveNumber);
  app.add_option("--max-prompt", options.max_prompt)->check(CLI::PositiveNumber);
  app.add_option("--new", options.new_tokens)->check(CLI::PositiveNumber);
  app.add_option("--score-share", options.score_share)->check(CLI::Range(0., 1.));
  app.add_option("--summarize-share", options.summarize_share)->check(CLI::Range(0., 1.));
  app.add_option("--cancel-share", options.cancel_share)->check(CLI::Range(0., 1.));
  app.add_option("--deadline", options.deadline_s, "seconds; 0: none");
  app.add_option("--tenants", options.tenants)->check(CLI::Range(1, 1000));
  app.add_option("--documents", options.documents);
  app.add_option("--seed", options.seed);
  CLI11_PARSE(app, argc, argv);
  for (const double rate : rates) {
    options.per_second = rate;
    std::printf("%s\n", quire::load::ToJson(options, quire::load::Run(options)).c_str());
    std::fflush(stdout);
  }
  return 0;
}
