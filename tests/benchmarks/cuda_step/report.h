#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace quire::cuda_step {

// Of an H200, measured: a copy on the device, bytes read and written (cuda_attention).
inline constexpr double kCopyLimit = 4.1;  // TB/s

// One measurement; a row of the table.
struct Row {
  std::string model;
  std::string what;    // token, first_token, or a linear layer's name
  std::string mode;    // of the attention; own or cublas
  int64_t batch = 0;   // sequences, or rows
  int64_t length = 0;  // tokens in the cache, or of the prompt
  double median_ms = 0;
  double tokens_per_second = 0;
  // What has to be read for a token; 0: not judged by that.
  double weight_bytes = 0, kv_bytes = 0;
  double far_columns = 0;     // that a query head reads, beside sinks and window
  double eps = 0;             // with which it came to that
  double attention_ms = 0;    // of a prompt, all layers, by events; 0: not known
  double ratio_to_dense = 0;  // the dense row's time over this one's; 0: there is none
  // Of the host: making tables, launching, waiting for the device. 0: not asked for.
  double tables_us = 0, launch_us = 0, wait_us = 0;
};

// CSV lines as they come, on standard output and in a file. What starts with # is no line
// of the table.
class Report {
 public:
  // `path` may be empty: then there is no file. Throws std::runtime_error if it cannot be
  // written.
  explicit Report(const std::string& path);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void Note(const std::string& text);
  void Add(const Row& row);

 private:
  void Line(const std::string& text);

  std::FILE* file_ = nullptr;
};

}  // namespace quire::cuda_step
