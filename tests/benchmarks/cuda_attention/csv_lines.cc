#include "tests/benchmarks/cuda_attention/csv_lines.h"

#include <stdexcept>

namespace quire::cuda_attention {

CsvLines::CsvLines(const std::string& path, const std::string& header) {
  if (!path.empty()) file_ = std::fopen(path.c_str(), "w");
  if (!path.empty() && file_ == nullptr) {
    throw std::runtime_error("cannot write " + path);
  }
  Line(header);
}

CsvLines::~CsvLines() {
  if (file_ != nullptr) std::fclose(file_);
}

void CsvLines::Line(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  if (file_ == nullptr) return;
  std::fprintf(file_, "%s\n", text.c_str());
  std::fflush(file_);  // a run that is cut off leaves what it had
}

}  // namespace quire::cuda_attention
