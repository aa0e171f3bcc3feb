#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "core/engine/engine.h"
#include "core/engine/request.h"

namespace quire {

// Tokens that the model must read before it answers: a prompt, or all but the last token
// to be scored (after which nothing is asked).
int64_t PromptTokens(const EngineRequest& request);

// The most tokens that the request will ever have in the key/value cache. The last
// generated token is never read, so it takes no place.
int64_t CacheTokens(const EngineRequest& request);

// What Engine::Submit refuses by looking at the request alone; errors as written there.
absl::Status CheckRequest(const EngineRequest& request, const EngineOptions& options,
                          absl::Time now);

}  // namespace quire
