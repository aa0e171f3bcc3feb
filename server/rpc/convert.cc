#include "server/rpc/convert.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

absl::StatusOr<std::vector<TokenId>> ChatTokens(const ServedModel& model,
                                                const v1::Chat& chat,
                                                const ServiceLimits& limits) {
  if (chat.messages().empty()) {
    return InvalidField(
        "input.chat.messages",
        "input.chat.messages is empty; it must hold at least one message");
  }
  if (!model.text.chat_template.has_value()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "model ", Quoted(model.text.name),
                          " has no chat template; send input.text or input.token_ids")),
                      "NO_CHAT_TEMPLATE");
  }
  std::vector<ChatMessage> messages;
  int64_t bytes_left = limits.max_text_bytes;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    const std::string field = absl::StrCat("input.chat.messages[", i, "]");
    if (message.role().empty()) {
      return InvalidField(
          field + ".role",
          field + ".role is empty; it must name who speaks, such as 'user'");
    }
    // An empty message is one; the template decides whether it makes sense.
    if (!message.content().empty()) {
      QUIRE_RETURN_IF_ERROR(CheckText(field + ".content", message.content(), bytes_left));
    }
    bytes_left -= static_cast<int64_t>(message.content().size());
    messages.push_back({message.role(), message.content()});
  }
  absl::StatusOr<std::string> text = model.text.chat_template->Render(messages, true);
  if (!text.ok()) {
    if (!absl::IsInvalidArgument(text.status())) return text.status();
    return InvalidField("input.chat",
                        absl::StrCat("input.chat does not suit the chat template: ",
                                     text.status().message()));
  }
  return model.text.tokenizer.Encode(*text, /*add_special=*/false,
                                     /*parse_special=*/true);
}

}  // namespace

absl::StatusOr<const ServedModel*> FindModel(CallContext& call, absl::string_view name) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, call.models->Find(name));
  call.model = model->text.name;
  call.activity = model->activity.get();
  return model;
}

absl::Status CheckText(absl::string_view field, const std::string& text,
                       int64_t max_bytes) {
  if (text.empty()) {
    return InvalidField(field,
                        absl::StrCat(field, " is empty; it must hold at least one byte"));
  }
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return InvalidField(field, absl::StrCat(field, " has ", text.size(),
                                            " bytes; it must have at most ", max_bytes));
  }
  if (const int64_t bad = FirstInvalidUtf8(text); bad >= 0) {
    return InvalidField(
        field, absl::StrCat(field, " is not UTF-8: byte ", bad, " is the first bad one"));
  }
  return absl::OkStatus();
}

absl::Status CheckTokenIds(absl::string_view field, absl::Span<const int32_t> ids,
                           int64_t max_ids, int32_t vocab_size) {
  if (ids.empty()) {
    return InvalidField(field,
                        absl::StrCat(field, " is empty; it must hold at least one id"));
  }
  if (static_cast<int64_t>(ids.size()) > max_ids) {
    return InvalidField(field, absl::StrCat(field, " has ", ids.size(),
                                            " ids; it must have at most ", max_ids));
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    const std::string path = absl::StrCat(field, "[", i, "]");
    return InvalidField(path, absl::StrCat(path, " is ", ids[i], "; it must be in [0, ",
                                           vocab_size - 1, "]"));
  }
  return absl::OkStatus();
}

int64_t MaxTokenIds(const ServiceLimits& limits) {
  return std::max<int64_t>(1, limits.max_text_bytes / int64_t{sizeof(TokenId)});
}

absl::StatusOr<std::vector<TokenId>> EncodeText(const ServedModel& model,
                                                const std::string& text) {
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                         model.text.tokenizer.Encode(text, false, false));
  std::vector<TokenId> tokens = model.begin_tokens;
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  return tokens;
}

absl::StatusOr<std::vector<TokenId>> PromptTokens(const ServedModel& model,
                                                  const v1::Input& input,
                                                  const ServiceLimits& limits) {
  switch (input.source_case()) {
    case v1::Input::kText:
      QUIRE_RETURN_IF_ERROR(CheckText("input.text", input.text(), limits.max_text_bytes));
      return EncodeText(model, input.text());
    case v1::Input::kTokenIds: {
      const auto& ids = input.token_ids().ids();
      QUIRE_RETURN_IF_ERROR(CheckTokenIds("input.token_ids.ids", ids, MaxTokenIds(limits),
                                          model.text.config.vocab_size));
      return std::vector<TokenId>(ids.begin(), ids.end());
    }
    case v1::Input::kChat:
      return ChatTokens(model, input.chat(), limits);
    case v1::Input::SOURCE_NOT_SET:
      break;
  }
  return InvalidField("input",
                      "input is not set; it must hold one of text, token_ids and chat");
}

absl::StatusOr<SamplingParams> MergeSampling(const SamplingParams& defaults,
                                             const v1::Sampling& sampling,
                                             CallContext& call) {
  SamplingParams merged = defaults;
  if (sampling.has_temperature()) merged.temperature = sampling.temperature();
  if (sampling.has_top_k()) merged.top_k = sampling.top_k();
  if (sampling.has_top_p()) merged.top_p = sampling.top_p();
  if (sampling.has_min_p()) merged.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty()) {
    merged.repetition_penalty = sampling.repetition_penalty();
  }
  if (sampling.has_presence_penalty())
    merged.presence_penalty = sampling.presence_penalty();
  if (sampling.has_frequency_penalty())
    merged.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_no_repeat_ngram()) merged.no_repeat_ngram = sampling.no_repeat_ngram();
  if (sampling.has_penalize_prompt()) merged.penalize_prompt = sampling.penalize_prompt();
  merged.seed = sampling.has_seed() ? sampling.seed() : call.random_seed();
  QUIRE_RETURN_IF_ERROR(WithFieldOfMessage(merged.Validate()));
  return merged;
}

absl::StatusOr<int32_t> MaxNewTokens(std::optional<int32_t> wanted,
                                     const ServedModel& model, int64_t prompt_tokens) {
  const int64_t context = model.text.context_tokens();
  const int64_t left = context - prompt_tokens;
  if (left < 1) {
    return InvalidField(
        "input",
        absl::StrCat("input has ", prompt_tokens, " tokens; it must have at most ",
                     context - 1, ", one less than the model's context"));
  }
  if (!wanted.has_value()) {
    return static_cast<int32_t>(
        std::min<int64_t>(left, model.text.defaults.max_new_tokens));
  }
  if (*wanted >= 1 && *wanted <= left) return *wanted;
  return InvalidField("max_new_tokens",
                      absl::StrCat("max_new_tokens is ", *wanted, "; it must be in [1, ",
                                   left, "]: the input has ", prompt_tokens,
                                   " tokens and the model's context ", context));
}

absl::Status CheckRange(absl::string_view field, int64_t value, int64_t min,
                        int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(field, " is ", value, "; it must be in [", min,
                                          ", ", max, "]"));
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage proto;
  proto.set_prompt_tokens(usage.prompt_tokens);
  proto.set_cached_tokens(usage.cached_tokens);
  proto.set_generated_tokens(usage.generated_tokens);
  return proto;
}

v1::Timings ToProto(const Timings& timings, const CallContext& call) {
  v1::Timings proto;
  proto.set_queue_seconds(absl::ToDoubleSeconds(timings.queue));
  proto.set_prefill_seconds(absl::ToDoubleSeconds(timings.prefill));
  proto.set_decode_seconds(absl::ToDoubleSeconds(timings.decode));
  proto.set_total_seconds(absl::ToDoubleSeconds(call.Elapsed()));
  if (call.time_to_first_token.has_value()) {
    proto.set_time_to_first_token_seconds(
        absl::ToDoubleSeconds(*call.time_to_first_token));
  }
  return proto;
}

v1::ByteSpan ToProto(const ByteSpan& span) {
  v1::ByteSpan proto;
  proto.set_begin(span.begin);
  proto.set_end(span.end);
  return proto;
}

v1::TokenLogprob ToProto(const TokenLogprob& token) {
  v1::TokenLogprob proto;
  proto.set_token_id(token.token);
  proto.set_logprob(token.logprob);
  return proto;
}

v1::Model ToProto(const ServedModel& model) {
  v1::Model proto;
  proto.set_name(model.text.name);
  proto.set_architecture(std::string(ArchitectureName(model.text.config.architecture)));
  proto.set_parameters(model.parameters);
  proto.set_context_tokens(model.text.context_tokens());
  proto.set_vocab_size(model.text.config.vocab_size);
  proto.set_compute_type(model.compute_type);
  proto.set_weight_bytes(model.weight_bytes);
  proto.set_kv_cache_bytes(model.kv_cache_bytes);
  proto.set_kv_cache_tokens(model.kv_cache_tokens);
  proto.set_instruction_tuned(model.text.instruction_tuned());
  const AttentionOptions automatic{.refined_pays_from = model.refined_pays_from};
  if (automatic.SparseFrom() != kNeverPays) {
    proto.set_auto_sparse_from(automatic.SparseFrom());
  }
  return proto;
}

v1::LatencyPercentiles ToProto(const LatencyPercentiles& latency) {
  v1::LatencyPercentiles proto;
  proto.set_count(latency.count);
  proto.set_p50(absl::ToDoubleSeconds(latency.p50));
  proto.set_p95(absl::ToDoubleSeconds(latency.p95));
  proto.set_p99(absl::ToDoubleSeconds(latency.p99));
  return proto;
}

v1::Shadows ToProto(const ShadowTotals& shadows) {
  v1::Shadows proto;
  proto.set_count(shadows.count);
  proto.set_own_seconds(absl::ToDoubleSeconds(shadows.own));
  proto.set_dense_seconds(absl::ToDoubleSeconds(shadows.dense));
  proto.set_compared_tokens(shadows.compared_tokens);
  proto.set_logprob_abs_delta(
      shadows.logprob_abs_delta /
      static_cast<double>(std::max<int64_t>(shadows.compared_tokens, 1)));
  proto.set_top1_mismatches(shadows.top1_mismatches);
  return proto;
}

void SetActivity(const ActivitySnapshot& activity, v1::Load& proto) {
  proto.set_attention_macs(activity.attention_macs);
  proto.set_dense_attention_macs(activity.dense_attention_macs);
  if (activity.first_token.count > 0) {
    *proto.mutable_first_token() = ToProto(activity.first_token);
  }
  if (activity.inter_token.count > 0) {
    *proto.mutable_inter_token() = ToProto(activity.inter_token);
  }
  if (activity.shadows.count > 0) *proto.mutable_shadows() = ToProto(activity.shadows);
}

v1::Load ToProto(const EngineStats& stats, const ServedModel& model, bool draining) {
  v1::Load proto;
  proto.set_model(model.text.name);
  proto.set_running(stats.running);
  proto.set_waiting(stats.waiting);
  proto.set_max_running(model.limits.max_running);
  proto.set_max_waiting(model.limits.max_waiting);
  proto.set_waiting_tokens(stats.waiting_tokens);
  proto.set_max_waiting_tokens(model.limits.max_waiting_tokens);
  proto.set_kv_blocks(stats.num_blocks);
  proto.set_kv_blocks_free(stats.free_blocks);
  proto.set_kv_blocks_cached(stats.cached_blocks);
  proto.set_tokens_per_block(model.limits.kv.tokens_per_block);
  proto.set_prefill_backlog_seconds(absl::ToDoubleSeconds(stats.prefill_backlog));
  proto.set_first_token_seconds(absl::ToDoubleSeconds(stats.first_token_delay));
  proto.set_prompt_tokens_per_second(stats.prompt_tokens_per_second);
  proto.set_generated_tokens_per_second(stats.generated_tokens_per_second);
  proto.set_prompt_tokens(stats.prompt_tokens);
  proto.set_cached_tokens(stats.cached_tokens);
  proto.set_generated_tokens(stats.generated_tokens);
  proto.set_preemptions(stats.preemptions);
  proto.set_tenants(stats.tenants);
  proto.set_draining(draining);
  if (model.activity != nullptr) SetActivity(model.activity->snapshot(), proto);
  return proto;
}

}  // namespace quire::server
