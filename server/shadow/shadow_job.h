#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "core/engine/request.h"
#include "server/shadow/savings.h"

namespace quire::server {

// The token that a run reported at one place, and the one that it held for the most
// probable there.
struct SeenToken {
  TokenId token = 0;
  float logprob = 0;
  TokenId top = 0;
};

// Of what RequestSink is told; REQUIRES: at least one alternative was asked for.
SeenToken Seen(const TokenScore& score);

// A request that is to be computed again, and what came of it the first time.
struct ShadowJob {
  EngineRequest request;  // as it was asked for, one alternative at least
  std::vector<SeenToken> seen;
  DeviceTime device;  // the model's dense time not corrected
  int64_t cached_tokens = 0;
  absl::Time finished;
};

// The same request, to be run in the background: with dense attention, or again as it
// was. A generated answer is what it was the first time.
EngineRequest Rerun(const ShadowJob& job, bool dense);

// Fills in how `dense` differs from what was seen the first time. Tokens that only one of
// them has are not compared.
void Compare(const std::vector<SeenToken>& own, const std::vector<SeenToken>& dense,
             ShadowResult& result);

}  // namespace quire::server
