#pragma once

#include <cstdio>
#include <string>

namespace quire::cuda_attention {

// Lines as they come, on standard output and in a file. What starts with # is no line of
// the table.
class CsvLines {
 public:
  // `path` may be empty: then there is no file. Throws std::runtime_error if it cannot be
  // written.
  CsvLines(const std::string& path, const std::string& header);
  ~CsvLines();
  CsvLines(const CsvLines&) = delete;
  CsvLines& operator=(const CsvLines&) = delete;

  void Note(const std::string& text) { Line("# " + text); }
  void Line(const std::string& text);

 private:
  std::FILE* file_ = nullptr;
};

}  // namespace quire::cuda_attention
