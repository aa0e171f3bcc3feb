#include "core/engine/request.h"

namespace quire {

Usage& Usage::operator+=(const Usage& other) {
  prompt_tokens += other.prompt_tokens;
  cached_tokens += other.cached_tokens;
  generated_tokens += other.generated_tokens;
  return *this;
}

Timings& Timings::operator+=(const Timings& other) {
  queue += other.queue;
  prefill += other.prefill;
  decode += other.decode;
  return *this;
}

DeviceTime& DeviceTime::operator+=(const DeviceTime& other) {
  prefill += other.prefill;
  decode += other.decode;
  alone = alone && other.alone;
  dense_prefill += other.dense_prefill;
  dense_decode += other.dense_decode;
  skipped += other.skipped;
  return *this;
}

void AddHeadColumns(const std::vector<int64_t>& pass, std::vector<int64_t>& sum) {
  if (sum.size() < pass.size()) sum.resize(pass.size());
  for (size_t i = 0; i < pass.size(); ++i) sum[i] += pass[i];
}

}  // namespace quire
