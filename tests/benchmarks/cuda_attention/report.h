#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace quire::cuda_attention {

// One kernel at one shape.
struct Row {
  std::string kernel;
  std::string shape;
  double median_us = 0;
  double rate = 0;   // TB/s or TFLOP/s
  double limit = 0;  // of the rate
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
  // Rows of one shape. The peer of each is the fastest of `peers`, if there is any.
  void Add(const std::vector<Row>& rows, const std::vector<Row>& peers);

 private:
  void Line(const std::string& text);

  std::FILE* file_ = nullptr;
};

}  // namespace quire::cuda_attention
