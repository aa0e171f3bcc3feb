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

}  // namespace quire
