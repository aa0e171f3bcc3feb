#include "tests/benchmarks/cuda_attention/report.h"

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_format.h"

namespace quire::cuda_attention {

Report::Report(const std::string& path) {
  if (!path.empty()) file_ = std::fopen(path.c_str(), "w");
  if (!path.empty() && file_ == nullptr) {
    throw std::runtime_error("cannot write " + path);
  }
  Line("kernel,shape,median_us,rate,share_of_limit,ratio_to_peer,peer");
}

Report::~Report() {
  if (file_ != nullptr) std::fclose(file_);
}

void Report::Note(const std::string& text) { Line("# " + text); }

void Report::Add(const std::vector<Row>& rows, const std::vector<Row>& peers) {
  const auto fastest = std::min_element(
      peers.begin(), peers.end(),
      [](const Row& a, const Row& b) { return a.median_us < b.median_us; });
  for (const std::vector<Row>* part : {&rows, &peers}) {
    for (const Row& row : *part) {
      const std::string peer =
          fastest == peers.end()
              ? ","
              : absl::StrFormat("%.3f,%s", fastest->median_us / row.median_us,
                                fastest->kernel);
      Line(absl::StrFormat("%s,%s,%.2f,%.3f,%.3f,%s", row.kernel, row.shape,
                           row.median_us, row.rate, row.rate / row.limit, peer));
    }
  }
}

void Report::Line(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  if (file_ == nullptr) return;
  std::fprintf(file_, "%s\n", text.c_str());
  std::fflush(file_);  // a run that is cut off leaves what it had
}

}  // namespace quire::cuda_attention
