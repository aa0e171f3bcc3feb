#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/engine/request.h"
#include "core/sampling/sampler.h"
#include "quire/v1/inference.pb.h"
#include "quire/v1/models.pb.h"
#include "server/model_registry.h"
#include "server/rpc/call_context.h"

// Between the protocol's messages and the core's values. Every refusal is
// kInvalidArgument with the field's path, its limit and the value, unless it says
// otherwise.
namespace quire::server {

// ------------------------------------------------------------------------------ coming
// in

// "" is the default model; kNotFound lists the known ones. Notes the model in the call.
absl::StatusOr<const ServedModel*> FindModel(CallContext& call, absl::string_view name);

// Not empty, at most max_text_bytes, UTF-8.
absl::Status CheckText(absl::string_view field, const std::string& text,
                       int64_t max_bytes);

// At least one, at most max_ids, each in [0, vocab_size).
absl::Status CheckTokenIds(absl::string_view field, absl::Span<const int32_t> ids,
                           int64_t max_ids, int32_t vocab_size);

// As many ids as a text of max_text_bytes would take in memory.
int64_t MaxTokenIds(const ServiceLimits& limits);

// A text's tokens, after the tokens that the tokenizer puts before a text. Special tokens
// written in the text are plain text.
absl::StatusOr<std::vector<TokenId>> EncodeText(const ServedModel& model,
                                                const std::string& text);

// The prompt an input means. kFailedPrecondition: chat, and the model has no chat
// template.
absl::StatusOr<std::vector<TokenId>> PromptTokens(const ServedModel& model,
                                                  const v1::Input& input,
                                                  const ServiceLimits& limits);

// Fields that are set replace those of `defaults`; the seed is random unless set.
absl::StatusOr<SamplingParams> MergeSampling(const SamplingParams& defaults,
                                             const v1::Sampling& sampling,
                                             CallContext& call);

// The longest answer to a prompt of so many tokens: as wanted, or the model's own limit
// cut to what is left of the context. Refuses what does not fit the context.
absl::StatusOr<int32_t> MaxNewTokens(std::optional<int32_t> wanted,
                                     const ServedModel& model, int64_t prompt_tokens);

// `value` in [min, max].
absl::Status CheckRange(absl::string_view field, int64_t value, int64_t min, int64_t max);

// ------------------------------------------------------------------------------ going
// out

v1::Usage ToProto(const Usage& usage);
// Timings up to now.
v1::Timings ToProto(const Timings& timings, const CallContext& call);
v1::ByteSpan ToProto(const ByteSpan& span);
v1::TokenLogprob ToProto(const TokenLogprob& token);
v1::Model ToProto(const ServedModel& model);
v1::Load ToProto(const EngineStats& stats, const ServedModel& model, bool draining);

}  // namespace quire::server
