#include "server/shadow/shadow_job.h"

#include <algorithm>
#include <cmath>
#include <variant>

namespace quire::server {

SeenToken Seen(const TokenScore& score) {
  return {.token = score.token,
          .logprob = score.logprob,
          .top = score.top.empty() ? score.token : score.top.front().token};
}

EngineRequest Rerun(const ShadowJob& job, bool dense) {
  EngineRequest again{.work = job.request.work};
  if (auto* generate = std::get_if<GenerateRequest>(&again.work)) {
    generate->forced.clear();
    for (const SeenToken& seen : job.seen) generate->forced.push_back(seen.token);
    generate->max_new_tokens = static_cast<int32_t>(generate->forced.size());
  }
  if (dense) {
    std::visit([](auto& work) { work.attention = {.mode = AttentionMode::kDense}; },
               again.work);
  }
  again.background = Background{.measure_from = job.cached_tokens};
  return again;
}

void Compare(const std::vector<SeenToken>& own, const std::vector<SeenToken>& dense,
             ShadowResult& result) {
  const size_t count = std::min(own.size(), dense.size());
  double delta = 0;
  for (size_t i = 0; i < count; ++i) {
    delta += std::abs(double{own[i].logprob} - double{dense[i].logprob});
    result.top1_mismatches += own[i].top != dense[i].top;
  }
  result.compared_tokens = static_cast<int64_t>(count);
  result.logprob_abs_delta = count == 0 ? 0 : delta / static_cast<double>(count);
}

}  // namespace quire::server
