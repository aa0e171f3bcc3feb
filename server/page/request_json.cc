#include "server/page/request_json.h"

#include <string>
#include <string_view>

#include "server/rpc/status.h"

namespace quire::server {
namespace {

using nlohmann::json;

json Ratio(double part, double whole) { return whole > 0 ? json(part / whole) : json(); }
json Ratio(int64_t part, int64_t whole) {
  return Ratio(static_cast<double>(part), static_cast<double>(whole));
}
double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

AttentionStats Total(const AttentionReceipt& receipt) {
  AttentionStats all = receipt.prefill;
  all += receipt.decode;
  return all;
}

bool Computed(const RequestRecord& record) {
  return Total(record.attention).work.dense_columns > 0;
}

json WorkJson(const AttentionWork& work) {
  return {{"attention_macs", work.attention_macs},
          {"selection_macs", work.selection_macs},
          {"statistics_macs", work.statistics_macs},
          {"audit_macs", work.audit_macs},
          {"executed_macs", work.executed_macs()},
          {"dense_macs", work.dense_macs},
          {"executed_bytes", work.executed_bytes()},
          {"dense_bytes", work.dense_bytes},
          {"columns", work.columns},
          {"dense_columns", work.dense_columns}};
}

json StatsJson(const AttentionStats& stats) {
  json out = WorkJson(stats.work);
  out["seconds"] = stats.seconds;
  out["selection_seconds"] = stats.selection_seconds;
  out["density"] = Ratio(stats.work.columns, stats.work.dense_columns);
  out["sparse_rows"] = stats.sparse_rows;
  const auto rows = static_cast<double>(stats.sparse_rows);
  out["coverage"] = Ratio(stats.coverage, rows);
  out["tail_risk"] = Ratio(stats.tail_risk, rows);
  out["audits"] = stats.audits;
  out["audit_error"] = Ratio(stats.audit_error, static_cast<double>(stats.audits));
  out["max_audit_error"] = stats.max_audit_error;
  return out;
}

json SavedJson(const SavedTime& saved) {
  if (saved.requests == 0) return nullptr;
  return {{"requests", saved.requests},
          {"device_seconds", Seconds(saved.own)},
          {"dense_device_seconds", Seconds(saved.dense)},
          {"usd", saved.usd}};
}

json ShadowJson(const std::optional<ShadowSum>& shadow) {
  if (!shadow.has_value()) return nullptr;
  return {{"requests", shadow->requests},
          {"device_seconds", Seconds(shadow->own)},
          {"dense_device_seconds", Seconds(shadow->dense)},
          {"speedup", Ratio(Seconds(shadow->dense), Seconds(shadow->own))},
          {"compared_tokens", shadow->compared_tokens},
          {"logprob_abs_delta", shadow->logprob_abs_delta},
          {"top1_mismatches", shadow->top1_mismatches}};
}

json TraceJson(const ProgressTrace& trace) {
  json points = json::array();
  for (const TracePoint& point : trace.points()) {
    const bool prefill = point.phase == TracePhase::kPrefill;
    points.push_back({{"seconds", point.seconds},
                      {"phase", prefill ? "prefill" : "decode"},
                      {"pass", point.pass},
                      {"done", point.done_tokens},
                      {"total", point.total_tokens}});
  }
  return points;
}

// Null if it was not recorded.
json HeadsJson(const RequestRecord& record) {
  const size_t layers = static_cast<size_t>(record.layers);
  const size_t cells = record.head_columns.size();
  if (layers == 0 || cells == 0 || cells % layers != 0) return nullptr;
  const auto dense = static_cast<double>(Total(record.attention).work.dense_columns);
  return {{"layers", layers},
          {"heads", cells / layers},
          {"columns", record.head_columns},
          {"dense_columns", dense / static_cast<double>(cells)}};
}

json DeviceJson(const DeviceTime& device) {
  return {{"prefill_seconds", Seconds(device.prefill)},
          {"decode_seconds", Seconds(device.decode)},
          {"dense_prefill_seconds", Seconds(device.dense_prefill)},
          {"dense_decode_seconds", Seconds(device.dense_decode)},
          {"alone", device.alone}};
}

std::string Lower(std::string_view name) {
  std::string lower(name);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

}  // namespace

json SummaryJson(const RequestRecord& record) {
  const AttentionStats all = Total(record.attention);
  const bool computed = Computed(record);
  json out = {
      {"number", record.number},
      {"id", record.id},
      {"method", std::string(MethodName(record.method))},
      {"model", record.model},
      {"code", CodeName(record.code)},
      {"reason", record.reason},
      {"arrival", static_cast<double>(absl::ToUnixMillis(record.arrival)) / 1e3},
      {"seconds", Seconds(record.elapsed)},
      {"prompt_tokens", record.usage.prompt_tokens},
      {"cached_tokens", record.usage.cached_tokens},
      {"generated_tokens", record.usage.generated_tokens},
      {"queue_seconds", Seconds(record.timings.queue)},
      {"prefill_seconds", Seconds(record.timings.prefill)},
      {"decode_seconds", Seconds(record.timings.decode)},
      {"density", Ratio(all.work.columns, all.work.dense_columns)},
      {"executed_macs", all.work.executed_macs()},
      {"dense_macs", all.work.dense_macs},
      {"audit_error", Ratio(all.audit_error, static_cast<double>(all.audits))},
      {"shadow", ShadowJson(record.shadow)},
      {"measured", SavedJson(record.saved[static_cast<size_t>(SavingsBasis::kMeasured)])},
      {"modelled",
       SavedJson(record.saved[static_cast<size_t>(SavingsBasis::kModelled)])}};
  out["mode"] = computed ? json(Lower(AttentionModeName(record.attention.mode))) : json();
  out["time_to_first_token_seconds"] = record.time_to_first_token.has_value()
                                           ? json(Seconds(*record.time_to_first_token))
                                           : json();
  return out;
}

json DetailJson(const RequestRecord& record) {
  json out = SummaryJson(record);
  const AttentionReceipt& receipt = record.attention;
  out["receipt"] = nullptr;
  if (Computed(record)) {
    out["receipt"] = {{"eps", receipt.eps},
                      {"eps_lowered", receipt.eps_lowered},
                      {"fell_back", receipt.fell_back},
                      {"kv_bytes_dropped", receipt.kv_bytes_dropped},
                      {"prefill", StatsJson(receipt.prefill)},
                      {"decode", StatsJson(receipt.decode)},
                      {"total", StatsJson(Total(receipt))}};
  }
  out["device"] = DeviceJson(record.device);
  out["trace"] = TraceJson(record.trace);
  out["heads"] = HeadsJson(record);
  return out;
}

}  // namespace quire::server
