#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "core/dga/attention_options.h"
#include "core/engine/engine.h"
#include "core/engine/request.h"

namespace quire {

// Tokens that the model must read before it answers: a prompt, or all but the last token
// to be scored (after which nothing is asked).
int64_t PromptTokens(const EngineRequest& request);

// The most tokens that the request will ever have in the key/value cache. The last
// generated token is never read, so it takes no place.
int64_t CacheTokens(const EngineRequest& request);

// Values that no request may have; also what contradicts itself. kInvalidArgument names
// the field below `path`, its limit and its value. Part of CheckRequest.
absl::Status CheckAttention(const AttentionOptions& attention,
                            std::string_view path = "attention");

// Whether a text can be read as published: a group is no longer than the text, and a text
// whose focal tokens are chosen as a whole is not cut, which it is if it has more than
// `window_tokens`. A part of such a text (a window, a pass) may well be shorter than a
// group, so the engine does not ask. Errors as above.
absl::Status CheckFaithfulText(const AttentionOptions& attention, int64_t text_tokens,
                               int64_t window_tokens,
                               std::string_view path = "attention");

// Priority and tenant in their limits; kInvalidArgument names the field.
absl::Status CheckScheduling(const Scheduling& scheduling);

RequestShape ShapeOf(const EngineRequest& request);

// What CheckRequest refuses that can be told from the shape.
absl::Status CheckShape(const RequestShape& shape, const EngineOptions& options,
                        absl::Time now);

// What Engine::Submit refuses by looking at the request alone; errors as written there.
absl::Status CheckRequest(const EngineRequest& request, const EngineOptions& options,
                          absl::Time now);

}  // namespace quire
