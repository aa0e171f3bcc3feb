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

}  // namespace quire
