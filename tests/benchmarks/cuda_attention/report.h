#pragma once

#include <string>
#include <vector>

#include "tests/benchmarks/cuda_attention/csv_lines.h"

namespace quire::cuda_attention {

// One kernel at one shape.
struct Row {
  std::string kernel;
  std::string shape;
  double median_us = 0;
  double rate = 0;   // TB/s or TFLOP/s
  double limit = 0;  // of the rate
};

// The table, see CsvLines.
class Report {
 public:
  explicit Report(const std::string& path);

  void Note(const std::string& text) { lines_.Note(text); }
  // Rows of one shape. The peer of each is the fastest of `peers`, if there is any.
  void Add(const std::vector<Row>& rows, const std::vector<Row>& peers);

 private:
  CsvLines lines_;
};

}  // namespace quire::cuda_attention
