#include "core/engine/request_limits.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/refuse.h"

namespace quire {
namespace {

int64_t Size(const std::vector<TokenId>& tokens) {
  return static_cast<int64_t>(tokens.size());
}

absl::Status CheckTokens(absl::string_view field, const std::vector<TokenId>& tokens,
                         int64_t least, const ModelLimits& model) {
  if (Size(tokens) < least) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, " has ", tokens.size(), " tokens; it must have at least ", least));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < model.vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(field, "[", i, "] is ", tokens[i],
                                                   "; it must be in [0, ",
                                                   model.vocab_size, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckTopLogprobs(int32_t top_logprobs) {
  if (top_logprobs >= 0 && top_logprobs <= kMaxTopLogprobs) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "top_logprobs is ", top_logprobs, "; it must be in [0, ", kMaxTopLogprobs, "]"));
}

absl::Status CheckWork(const GenerateRequest& request, const ModelLimits& model) {
  QUIRE_RETURN_IF_ERROR(CheckTokens("prompt", request.prompt, 1, model));
  if (request.max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens is ", request.max_new_tokens, "; it must be >= 1"));
  }
  if (Size(request.prompt) + request.max_new_tokens > model.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt (", request.prompt.size(), " tokens) + max_new_tokens (",
        request.max_new_tokens, ") is ", Size(request.prompt) + request.max_new_tokens,
        "; it must be <= ", model.max_positions, ", the model's max_positions"));
  }
  QUIRE_RETURN_IF_ERROR(CheckTopLogprobs(request.top_logprobs));
  QUIRE_RETURN_IF_ERROR(CheckAttention(request.attention));
  if (!request.forced.empty()) {
    QUIRE_RETURN_IF_ERROR(CheckTokens("forced", request.forced, 1, model));
    if (Size(request.forced) != request.max_new_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "forced has ", request.forced.size(),
          " tokens; it must have max_new_tokens, which is ", request.max_new_tokens));
    }
  }
  return request.sampling.Validate();
}

absl::Status CheckWork(const ScoreRequest& request, const ModelLimits& model) {
  QUIRE_RETURN_IF_ERROR(CheckTokens("tokens", request.tokens, 2, model));
  if (Size(request.tokens) > model.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokens has ", request.tokens.size(), " tokens; it must have at most ",
        model.max_positions, ", the model's max_positions"));
  }
  if (request.first < 1 || request.first >= Size(request.tokens)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "first is ", request.first, "; it must be in [1, ", request.tokens.size(), ")"));
  }
  QUIRE_RETURN_IF_ERROR(CheckAttention(request.attention));
  return CheckTopLogprobs(request.top_logprobs);
}

}  // namespace

int64_t PromptTokens(const EngineRequest& request) {
  if (const auto* generate = std::get_if<GenerateRequest>(&request.work)) {
    return Size(generate->prompt);
  }
  return Size(std::get<ScoreRequest>(request.work).tokens) - 1;
}

int64_t CacheTokens(const EngineRequest& request) {
  const auto* generate = std::get_if<GenerateRequest>(&request.work);
  return PromptTokens(request) + (generate == nullptr ? 0 : generate->max_new_tokens - 1);
}

absl::Status CheckAttention(const AttentionOptions& attention, std::string_view path) {
  QUIRE_RETURN_IF_ERROR(attention.Validate(path));
  const bool groups_stay =
      attention.mode == AttentionMode::kAuto || attention.mode == AttentionMode::kRefined;
  if (!attention.compact || groups_stay) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(path), ".compact is true; it must be false when the mode is ",
      std::string(AttentionModeName(attention.mode))));
}

absl::Status CheckFaithfulText(const AttentionOptions& attention, int64_t text_tokens,
                               int64_t window_tokens, std::string_view path) {
  if (attention.mode != AttentionMode::kFaithful) return absl::OkStatus();
  const std::string own = absl::StrCat(std::string(path), ".faithful");
  if (attention.faithful.group_tokens > text_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(own, ".group_tokens is ", attention.faithful.group_tokens,
                     "; it must be at most ", text_tokens, ", the text's tokens"));
  }
  if (!attention.faithful.whole_prompt || text_tokens <= window_tokens) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(own, ".whole_prompt is true; the text must then have at most ",
                   window_tokens, " tokens, one window, and it has ", text_tokens));
}

absl::Status CheckScheduling(const Scheduling& scheduling) {
  if (scheduling.priority < kMinPriority || scheduling.priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", scheduling.priority,
                                                   "; it must be in [", kMinPriority,
                                                   ", ", kMaxPriority, "]"));
  }
  if (scheduling.tenant.size() > kMaxTenantBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant has ", scheduling.tenant.size(),
                     " bytes; it must have at most ", kMaxTenantBytes));
  }
  return absl::OkStatus();
}

RequestShape ShapeOf(const EngineRequest& request) {
  RequestShape shape{.prompt_tokens = PromptTokens(request),
                     .deadline = request.deadline,
                     .scheduling = request.scheduling};
  if (const auto* generate = std::get_if<GenerateRequest>(&request.work)) {
    shape.new_tokens = generate->max_new_tokens;
    shape.attention = generate->attention;
  } else {
    shape.attention = std::get<ScoreRequest>(request.work).attention;
  }
  return shape;
}

absl::Status CheckShape(const RequestShape& shape, const EngineOptions& options,
                        absl::Time now) {
  QUIRE_RETURN_IF_ERROR(CheckScheduling(shape.scheduling));
  if (shape.deadline <= now) {
    return absl::DeadlineExceededError(absl::StrCat(
        "the deadline passed ", absl::FormatDuration(now - shape.deadline), " ago"));
  }
  const int64_t needed = shape.prompt_tokens + std::max<int64_t>(shape.new_tokens, 1) - 1;
  if (needed > options.kv.capacity_tokens()) {
    return Refuse(Refusal::kTooLarge,
                  absl::StrCat("the request needs ", needed,
                               " tokens of key/value cache; the cache has ",
                               options.kv.capacity_tokens()));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const EngineRequest& request, const EngineOptions& options,
                          absl::Time now) {
  QUIRE_RETURN_IF_ERROR(std::visit(
      [&](const auto& work) { return CheckWork(work, options.model); }, request.work));
  return CheckShape(ShapeOf(request), options, now);
}

}  // namespace quire
