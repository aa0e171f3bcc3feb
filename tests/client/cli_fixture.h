#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/client/fake_console.h"
#include "tests/client/fake_server.h"
#include "tests/support/temp_path.h"

namespace quire::cli::testing {

// A file of its own that lives as long as this.
class TextFile {
 public:
  explicit TextFile(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TextFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_ = TempPath("cli_test");
};

// Runs the program against a server that plays the script.
class CliTest : public ::testing::Test {
 protected:
  Program::Result Run(std::vector<std::string> arguments,
                      client::testing::Script script = client::testing::HappyScript()) {
    client::testing::FakeServer server(std::move(script));
    arguments.insert(arguments.begin(), {"--server", server.address()});
    return program_.Run(arguments);
  }

  Program program_{.input = "A text."};
};

}  // namespace quire::cli::testing
