#include "tests/benchmarks/cuda_step/report.h"

#include "absl/strings/str_format.h"

namespace quire::cuda_step {

namespace {

constexpr char kHeader[] =
    "model,what,mode,batch,length,median_ms,tokens_per_second,weight_bytes,kv_bytes,"
    "limit_ms,time_to_limit,far_columns,eps,attention_ms,ratio_to_dense,tables_us,"
    "launch_us,wait_us";

}  // namespace

Report::Report(const std::string& path) : lines_(path, kHeader) {}

void Report::Add(const Row& r) {
  const double limit_ms = (r.weight_bytes + r.kv_bytes) / kCopyLimit * 1e-9;
  lines_.Line(absl::StrFormat(
      "%s,%s,%s,%d,%d,%.3f,%.1f,%.0f,%.0f,%.3f,%.3f,%.0f,%.4f,%.2f,%.3f,%.1f,%.1f,%.1f",
      r.model, r.what, r.mode, r.batch, r.length, r.median_ms, r.tokens_per_second,
      r.weight_bytes, r.kv_bytes, limit_ms, limit_ms > 0 ? r.median_ms / limit_ms : 0,
      r.far_columns, r.eps, r.attention_ms, r.ratio_to_dense, r.tables_us, r.launch_us,
      r.wait_us));
}

}  // namespace quire::cuda_step
