#include "client/cli/json.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "client/error_details.h"

namespace quire::cli {
namespace {

std::string WithoutPrefix(const std::string& name, size_t prefix) {
  return name.size() > prefix ? name.substr(prefix) : "UNKNOWN";
}

Json WorkToJson(const v1::AttentionWork& work) {
  return {{"attention_macs", work.attention_macs()},
          {"selection_macs", work.selection_macs()},
          {"statistics_macs", work.statistics_macs()},
          {"audit_macs", work.audit_macs()},
          {"dense_macs", work.dense_macs()},
          {"attention_bytes", work.attention_bytes()},
          {"selection_bytes", work.selection_bytes()},
          {"statistics_bytes", work.statistics_bytes()},
          {"audit_bytes", work.audit_bytes()},
          {"dense_bytes", work.dense_bytes()},
          {"columns", work.columns()},
          {"dense_columns", work.dense_columns()},
          {"seconds", work.seconds()},
          {"selection_seconds", work.selection_seconds()}};
}

Json LatencyToJson(const v1::LatencyPercentiles& latency) {
  return {{"count", latency.count()},
          {"p50", latency.p50()},
          {"p95", latency.p95()},
          {"p99", latency.p99()}};
}

Json ShadowsToJson(const v1::Shadows& shadows) {
  return {{"count", shadows.count()},
          {"own_seconds", shadows.own_seconds()},
          {"dense_seconds", shadows.dense_seconds()},
          {"compared_tokens", shadows.compared_tokens()},
          {"logprob_abs_delta", shadows.logprob_abs_delta()},
          {"top1_mismatches", shadows.top1_mismatches()}};
}

}  // namespace

Json Number(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[32] = {};
  std::to_chars(digits, digits + sizeof(digits) - 1, value);
  return std::strtod(digits, nullptr);
}

std::string Dump(const Json& json) {
  // What is not UTF-8, such as a path, is replaced rather than thrown at the user.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json ToJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"cached_tokens", usage.cached_tokens()},
          {"generated_tokens", usage.generated_tokens()}};
}

Json ToJson(const v1::Timings& timings) {
  Json json = {{"queue_seconds", timings.queue_seconds()},
               {"prefill_seconds", timings.prefill_seconds()},
               {"decode_seconds", timings.decode_seconds()},
               {"total_seconds", timings.total_seconds()}};
  if (timings.has_time_to_first_token_seconds()) {
    json["time_to_first_token_seconds"] = timings.time_to_first_token_seconds();
  }
  return json;
}

Json ToJson(const v1::Receipt& receipt) {
  Json json = {{"mode", Name(receipt.mode())},
               {"eps", Number(receipt.eps())},
               {"eps_lowered", receipt.eps_lowered()},
               {"fell_back", receipt.fell_back()},
               {"note", receipt.note()},
               {"prefill", WorkToJson(receipt.prefill())},
               {"decode", WorkToJson(receipt.decode())}};
  if (receipt.has_density()) json["density"] = receipt.density();
  if (receipt.has_saved_macs_share()) {
    json["saved_macs_share"] = receipt.saved_macs_share();
  }
  if (receipt.has_coverage()) json["coverage"] = receipt.coverage();
  if (receipt.has_tail_risk()) json["tail_risk"] = receipt.tail_risk();
  json["audited_tokens"] = receipt.audited_tokens();
  if (receipt.has_audited_error()) json["audited_error"] = receipt.audited_error();
  if (receipt.has_max_audited_error()) {
    json["max_audited_error"] = receipt.max_audited_error();
  }
  json["kv_bytes_dropped"] = receipt.kv_bytes_dropped();
  if (receipt.has_device_seconds()) {
    json["device_seconds"] = receipt.device_seconds();
    json["modelled_dense_device_seconds"] = receipt.modelled_dense_device_seconds();
  }
  if (receipt.has_modelled_savings_usd()) {
    json["modelled_savings_usd"] = receipt.modelled_savings_usd();
  }
  return json;
}

Json ToJson(const v1::ByteSpan& span) {
  return {{"begin", span.begin()}, {"end", span.end()}};
}

Json ToJson(const v1::TokenLogprob& token) {
  return {{"id", token.token_id()}, {"logprob", Number(token.logprob())}};
}

Json ToJson(const v1::GeneratedToken& token) {
  Json json = {{"id", token.token_id()}, {"logprob", Number(token.logprob())}};
  if (token.top_size() == 0) return json;
  Json& top = json["top"] = Json::array();
  for (const auto& alternative : token.top()) top.push_back(ToJson(alternative));
  return json;
}

Json ToJson(const v1::SpanScore& score) {
  return {{"begin", score.span().begin()},
          {"end", score.span().end()},
          {"logprob", score.logprob()},
          {"tokens", score.tokens()}};
}

Json ToJson(const v1::Model& model) {
  Json json = {{"name", model.name()},
               {"architecture", model.architecture()},
               {"parameters", model.parameters()},
               {"context_tokens", model.context_tokens()},
               {"vocab_size", model.vocab_size()},
               {"compute_type", model.compute_type()},
               {"weight_bytes", model.weight_bytes()},
               {"kv_cache_bytes", model.kv_cache_bytes()},
               {"kv_cache_tokens", model.kv_cache_tokens()},
               {"instruction_tuned", model.instruction_tuned()}};
  json["auto_sparse_from"] =
      model.has_auto_sparse_from() ? Json(model.auto_sparse_from()) : Json();
  return json;
}

Json ToJson(const v1::Load& load) {
  Json json = {{"model", load.model()},
               {"running", load.running()},
               {"waiting", load.waiting()},
               {"max_running", load.max_running()},
               {"max_waiting", load.max_waiting()},
               {"waiting_tokens", load.waiting_tokens()},
               {"max_waiting_tokens", load.max_waiting_tokens()},
               {"kv_blocks", load.kv_blocks()},
               {"kv_blocks_free", load.kv_blocks_free()},
               {"kv_blocks_cached", load.kv_blocks_cached()},
               {"tokens_per_block", load.tokens_per_block()},
               {"prefill_backlog_seconds", load.prefill_backlog_seconds()},
               {"first_token_seconds", load.first_token_seconds()},
               {"prompt_tokens_per_second", load.prompt_tokens_per_second()},
               {"generated_tokens_per_second", load.generated_tokens_per_second()},
               {"prompt_tokens", load.prompt_tokens()},
               {"cached_tokens", load.cached_tokens()},
               {"generated_tokens", load.generated_tokens()},
               {"preemptions", load.preemptions()},
               {"tenants", load.tenants()},
               {"draining", load.draining()},
               {"attention_macs", load.attention_macs()},
               {"dense_attention_macs", load.dense_attention_macs()}};
  if (load.has_first_token()) json["first_token"] = LatencyToJson(load.first_token());
  if (load.has_inter_token()) json["inter_token"] = LatencyToJson(load.inter_token());
  if (load.has_shadows()) json["shadows"] = ShadowsToJson(load.shadows());
  return json;
}

Json ToJson(const v1::CostEstimate& cost) {
  Json json = {{"mode", Name(cost.mode())},
               {"flops", cost.flops()},
               {"attention_flops", cost.attention_flops()},
               {"selection_flops", cost.selection_flops()},
               {"first_token_seconds", cost.first_token_seconds()},
               {"end_seconds", cost.end_seconds()}};
  if (cost.has_money()) json["money"] = cost.money();
  return json;
}

Json ToJson(const v1::EstimateCostResponse& estimate) {
  Json json = {{"model", estimate.model()},
               {"prompt_tokens", estimate.prompt_tokens()},
               {"max_new_tokens", estimate.max_new_tokens()},
               {"passes", estimate.passes()},
               {"dense", ToJson(estimate.dense())},
               {"requested", ToJson(estimate.requested())},
               {"first_token_seconds_now", estimate.first_token_seconds_now()},
               {"end_seconds_now", estimate.end_seconds_now()},
               {"price_per_device_hour", estimate.price_per_device_hour()},
               {"admissible", estimate.admissible()}};
  if (!estimate.refusal().empty()) json["refusal"] = estimate.refusal();
  return json;
}

std::string Name(v1::FinishReason reason) {
  return WithoutPrefix(v1::FinishReason_Name(reason), sizeof("FINISH_REASON_") - 1);
}

std::string Name(v1::SummaryStrategy strategy) {
  return WithoutPrefix(v1::SummaryStrategy_Name(strategy),
                       sizeof("SUMMARY_STRATEGY_") - 1);
}

std::string Name(v1::AttentionMode mode) {
  return WithoutPrefix(v1::AttentionMode_Name(mode), sizeof("ATTENTION_MODE_") - 1);
}

Json ErrorToJson(const absl::Status& error) {
  const client::ErrorDetails details = client::GetErrorDetails(error);
  Json json = {{"code", absl::StatusCodeToString(error.code())},
               {"message", std::string(error.message())}};
  if (!details.reason.empty()) json["reason"] = details.reason;
  for (const auto& violation : details.field_violations) {
    json["field_violations"].push_back(
        {{"field", violation.field}, {"description", violation.description}});
  }
  if (details.retry_delay) {
    json["retry_delay_seconds"] = absl::ToDoubleSeconds(*details.retry_delay);
  }
  if (!details.request_id.empty()) json["request_id"] = details.request_id;
  return json;
}

}  // namespace quire::cli
