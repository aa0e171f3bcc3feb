#include "server/rpc/attention.h"

#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/request_limits.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

// ----------------------------------------------------------------------------- coming in

// nullopt: unset, or of a newer client.
std::optional<AttentionMode> FromProto(v1::AttentionMode mode) {
  switch (mode) {
    case v1::ATTENTION_MODE_AUTO:
      return AttentionMode::kAuto;
    case v1::ATTENTION_MODE_DENSE:
      return AttentionMode::kDense;
    case v1::ATTENTION_MODE_FAITHFUL:
      return AttentionMode::kFaithful;
    case v1::ATTENTION_MODE_REFINED:
      return AttentionMode::kRefined;
    default:
      return std::nullopt;
  }
}

std::optional<TailEstimate> FromProto(v1::TailEstimate tail) {
  switch (tail) {
    case v1::TAIL_ESTIMATE_SAMPLED:
      return TailEstimate::kSampled;
    case v1::TAIL_ESTIMATE_GROUP_MEANS:
      return TailEstimate::kGroupMeans;
    default:
      return std::nullopt;
  }
}

std::optional<GroupBias> FromProto(v1::GroupBias bias) {
  switch (bias) {
    case v1::GROUP_BIAS_NONE:
      return GroupBias::kNone;
    case v1::GROUP_BIAS_LOG_SIZE:
      return GroupBias::kLogSize;
    case v1::GROUP_BIAS_ENTROPY:
      return GroupBias::kEntropy;
    default:
      return std::nullopt;
  }
}

// Zero leaves the default; a value that is not one of the names is refused.
template <typename Proto, typename Core>
absl::Status MergeEnum(Proto value, absl::string_view field, absl::string_view names,
                       Core& out) {
  if (value == Proto{}) return absl::OkStatus();
  const std::optional<Core> known = FromProto(value);
  if (!known.has_value()) {
    return InvalidField(field, absl::StrCat(field, " is ", static_cast<int>(value),
                                            "; it must be one of ", names));
  }
  out = *known;
  return absl::OkStatus();
}

absl::Status MergeFaithful(const v1::FaithfulOptions& from, absl::string_view path,
                           FaithfulOptions& to) {
  if (from.has_group_tokens()) to.group_tokens = from.group_tokens();
  if (from.has_focal_share()) to.focal_share = from.focal_share();
  if (from.has_min_focal_tokens()) to.min_focal_tokens = from.min_focal_tokens();
  if (from.has_sampled_queries()) to.sampled_queries = from.sampled_queries();
  if (from.has_scaled_pooling()) to.scaled_pooling = from.scaled_pooling();
  if (from.has_whole_prompt()) to.whole_prompt = from.whole_prompt();
  return MergeEnum(from.bias(), absl::StrCat(path, ".bias"), "NONE, LOG_SIZE and ENTROPY",
                   to.bias);
}

// ----------------------------------------------------------------------------- going out

v1::AttentionWork ToProto(const AttentionStats& stats) {
  const AttentionWork& work = stats.work;
  v1::AttentionWork proto;
  proto.set_attention_macs(work.attention_macs);
  proto.set_selection_macs(work.selection_macs);
  proto.set_statistics_macs(work.statistics_macs);
  proto.set_audit_macs(work.audit_macs);
  proto.set_dense_macs(work.dense_macs);
  proto.set_attention_bytes(work.attention_bytes);
  proto.set_selection_bytes(work.selection_bytes);
  proto.set_statistics_bytes(work.statistics_bytes);
  proto.set_audit_bytes(work.audit_bytes);
  proto.set_dense_bytes(work.dense_bytes);
  proto.set_columns(work.columns);
  proto.set_dense_columns(work.dense_columns);
  proto.set_seconds(stats.seconds);
  proto.set_selection_seconds(stats.selection_seconds);
  return proto;
}

// Why nothing was sparse although it was asked for.
std::string WhyDense(const AttentionOptions& asked) {
  constexpr absl::string_view kAll = "all tokens were read densely: ";
  if (asked.mode == AttentionMode::kFaithful) {
    return absl::StrCat(kAll, "the text is no longer than what is kept as it is");
  }
  if (asked.eps == 0) return absl::StrCat(kAll, "eps is 0");
  constexpr int32_t kAlwaysRead = kSinkTokens + kWindowTokens;
  if (asked.SparseFrom() == kAlwaysRead + 1) {
    return absl::StrCat(kAll, "there are no more than the ", kAlwaysRead,
                        " first and last ones that always are");
  }
  if (asked.SparseFrom() == kNeverPays) {
    return absl::StrCat(kAll, "AUTO is dense on this server, where REFINED takes longer");
  }
  if (asked.SparseFrom() == asked.refined_pays_from) {
    return absl::StrCat(kAll, "none sees as many as ", asked.refined_pays_from,
                        ", below which REFINED takes longer on this server");
  }
  return absl::StrCat(kAll, "none sees as many as min_sparse_tokens, ",
                      asked.SparseFrom());
}

std::string NoteOf(const AttentionReceipt& receipt, const AttentionStats& all,
                   const AttentionOptions& asked) {
  if (receipt.fell_back) {
    return "went dense, because the audited error stayed above max_error";
  }
  if (receipt.eps_lowered > 0) {
    return "lowered eps, because the audited error was above max_error";
  }
  const bool sparse_asked = asked.mode != AttentionMode::kDense;
  const bool none_sparse = all.sparse_rows == 0 && all.work.dense_columns > 0;
  return sparse_asked && none_sparse ? WhyDense(asked) : "";
}

double Ratio(double part, int64_t whole) { return part / static_cast<double>(whole); }

void SetErrors(const AttentionStats& all, v1::Receipt& proto) {
  if (all.sparse_rows > 0) {
    proto.set_coverage(Ratio(all.coverage, all.sparse_rows));
    proto.set_tail_risk(Ratio(all.tail_risk, all.sparse_rows));
  }
  proto.set_audited_tokens(all.audits);
  if (all.audits > 0) {
    proto.set_audited_error(Ratio(all.audit_error, all.audits));
    proto.set_max_audited_error(all.max_audit_error);
  }
}

void SetDeviceTime(const DeviceTime& device, double price_per_hour, v1::Receipt& proto) {
  if (device.total() == absl::ZeroDuration()) return;
  proto.set_device_seconds(absl::ToDoubleSeconds(device.total()));
  proto.set_modelled_dense_device_seconds(absl::ToDoubleSeconds(device.dense_total()));
  if (price_per_hour == 0) return;
  const absl::Duration saved = device.dense_total() - device.total();
  proto.set_modelled_savings_usd(absl::ToDoubleHours(saved) * price_per_hour);
}

}  // namespace

absl::StatusOr<AttentionOptions> MergeAttention(const AttentionOptions& defaults,
                                                const v1::AttentionOptions& attention,
                                                absl::string_view path) {
  AttentionOptions merged = defaults;
  QUIRE_RETURN_IF_ERROR(MergeEnum(attention.mode(), absl::StrCat(path, ".mode"),
                                  "AUTO, DENSE, FAITHFUL and REFINED", merged.mode));
  QUIRE_RETURN_IF_ERROR(MergeEnum(attention.tail(), absl::StrCat(path, ".tail"),
                                  "SAMPLED and GROUP_MEANS", merged.tail));
  if (attention.has_eps()) merged.eps = attention.eps();
  if (attention.has_max_error()) merged.max_error = attention.max_error();
  if (attention.has_compact()) merged.compact = attention.compact();
  if (attention.has_min_sparse_tokens()) {
    merged.min_sparse_tokens = attention.min_sparse_tokens();
    if (merged.min_sparse_tokens < 0) {
      const std::string field = absl::StrCat(path, ".min_sparse_tokens");
      return InvalidField(field, absl::StrCat(field, " is ", merged.min_sparse_tokens,
                                              "; it must be >= 0"));
    }
  }
  QUIRE_RETURN_IF_ERROR(MergeFaithful(attention.faithful(),
                                      absl::StrCat(path, ".faithful"), merged.faithful));
  const std::string_view own_path(path.data(), path.size());
  QUIRE_RETURN_IF_ERROR(WithFieldOfMessage(CheckAttention(merged, own_path)));
  return merged;
}

absl::Status CheckTextSuits(const AttentionOptions& attention, int64_t text_tokens,
                            int64_t window_tokens, absl::string_view path) {
  return WithFieldOfMessage(CheckFaithfulText(attention, text_tokens, window_tokens,
                                              {path.data(), path.size()}));
}

v1::AttentionMode ToProto(AttentionMode mode) {
  switch (mode) {
    case AttentionMode::kAuto:
      return v1::ATTENTION_MODE_AUTO;
    case AttentionMode::kDense:
      return v1::ATTENTION_MODE_DENSE;
    case AttentionMode::kFaithful:
      return v1::ATTENTION_MODE_FAITHFUL;
    case AttentionMode::kRefined:
      return v1::ATTENTION_MODE_REFINED;
  }
  return v1::ATTENTION_MODE_UNSPECIFIED;
}

v1::Receipt ToProto(const AttentionReceipt& receipt, const AttentionOptions& asked,
                    const DeviceTime& device, double price_per_device_hour) {
  AttentionStats all = receipt.prefill;
  all += receipt.decode;
  v1::Receipt proto;
  proto.set_mode(ToProto(receipt.mode));
  proto.set_eps(receipt.eps);
  proto.set_eps_lowered(receipt.eps_lowered);
  proto.set_fell_back(receipt.fell_back);
  proto.set_note(NoteOf(receipt, all, asked));
  *proto.mutable_prefill() = ToProto(receipt.prefill);
  *proto.mutable_decode() = ToProto(receipt.decode);
  if (all.work.dense_columns > 0) {
    proto.set_density(
        Ratio(static_cast<double>(all.work.columns), all.work.dense_columns));
  }
  if (all.work.dense_macs > 0) {
    proto.set_saved_macs_share(
        1 - Ratio(static_cast<double>(all.work.executed_macs()), all.work.dense_macs));
  }
  SetErrors(all, proto);
  proto.set_kv_bytes_dropped(receipt.kv_bytes_dropped);
  SetDeviceTime(device, price_per_device_hour, proto);
  return proto;
}

}  // namespace quire::server
