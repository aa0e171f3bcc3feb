#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/app.h"
#include "client/cli/console.h"

namespace quire::cli::testing {

// What is written, kept; after `fail_after` bytes, `failure`.
class StringOutput final : public Output {
 public:
  explicit StringOutput(bool terminal = false, int columns = 80, int rows = 24)
      : terminal_(terminal), columns_(columns), rows_(rows) {}
  absl::Status Write(std::string_view bytes) override {
    if (text_.size() + bytes.size() > fail_after) return failure;
    text_ += bytes;
    if (on_write) on_write(bytes);
    return absl::OkStatus();
  }
  bool is_terminal() const override { return terminal_; }
  int columns() const override { return columns_; }
  int rows() const override { return rows_; }
  const std::string& text() const { return text_; }

  size_t fail_after = std::string::npos;
  absl::Status failure;
  std::function<void(std::string_view)> on_write;

 private:
  const bool terminal_;
  const int columns_;
  const int rows_;
  std::string text_;
};

class StringInput final : public Input {
 public:
  explicit StringInput(std::string text = "", bool terminal = false)
      : text_(std::move(text)), terminal_(terminal) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    // Small reads, so that putting pieces together is tested too.
    const size_t count = std::min({size, text_.size() - next_, size_t{1000}});
    std::copy_n(text_.data() + next_, count, buffer);
    next_ += count;
    return count;
  }
  bool is_terminal() const override { return terminal_; }

 private:
  const std::string text_;
  const bool terminal_;
  size_t next_ = 0;
};

// One run of the program in this process.
struct Program {
  std::string input;
  bool in_terminal = false, out_terminal = false, err_terminal = false;
  int columns = 80, rows = 24;
  std::shared_ptr<client::CancelToken> cancel = std::make_shared<client::CancelToken>();
  size_t out_fails_after = std::string::npos;
  absl::Status out_failure;
  std::function<void(std::string_view)> on_out;

  struct Result {
    int code;
    std::string out, err;
  };

  Result Run(const std::vector<std::string>& arguments) {
    StringInput in(input, in_terminal);
    StringOutput out(out_terminal, columns, rows), err(err_terminal, columns, rows);
    out.fail_after = out_fails_after;
    out.failure = out_failure;
    out.on_write = on_out;
    client::ClientHooks hooks = client::ClientHooks::Default();
    hooks.sleep = [](absl::Duration, const client::CancelToken&) {};
    // Every look at the clock is a second later: every progress event is drawn.
    absl::Time now = absl::UnixEpoch();
    Environment environment = {in,     out,
                               err,    /*unicode=*/false,
                               cancel, [&now] { return now += absl::Seconds(1); },
                               hooks};
    const int code = cli::Run(arguments, environment);
    return {code, out.text(), err.text()};
  }
};

}  // namespace quire::cli::testing
