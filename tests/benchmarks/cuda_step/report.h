#pragma once

#include <cstdint>
#include <string>

#include "tests/benchmarks/cuda_attention/csv_lines.h"

namespace quire::cuda_step {

// Of an H200, measured: a copy on the device, bytes read and written (cuda_attention).
inline constexpr double kCopyLimit = 4.1;  // TB/s

// One measurement; a row of the table.
struct Row {
  std::string model;
  std::string what;    // token, sampled_token, first_token, or a linear layer's name
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

// The table, see CsvLines.
class Report {
 public:
  explicit Report(const std::string& path);

  void Note(const std::string& text) { lines_.Note(text); }
  void Add(const Row& row);

 private:
  cuda_attention::CsvLines lines_;
};

}  // namespace quire::cuda_step
