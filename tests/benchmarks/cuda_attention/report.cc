#include "tests/benchmarks/cuda_attention/report.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace quire::cuda_attention {

Report::Report(const std::string& path)
    : lines_(path, "kernel,shape,median_us,rate,share_of_limit,ratio_to_peer,peer") {}

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
      lines_.Line(absl::StrFormat("%s,%s,%.2f,%.3f,%.3f,%s", row.kernel, row.shape,
                                  row.median_us, row.rate, row.rate / row.limit, peer));
    }
  }
}

}  // namespace quire::cuda_attention
