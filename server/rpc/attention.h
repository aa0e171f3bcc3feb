#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/engine/request.h"
#include "quire/v1/attention.pb.h"

// Attention between the protocol's messages and the core's values.
namespace quire::server {

// Fields that are set replace those of `defaults`. kInvalidArgument names the field below
// `path`, its limit and its value: unknown enum values, all that CheckAttention refuses.
absl::StatusOr<AttentionOptions> MergeAttention(const AttentionOptions& defaults,
                                                const v1::AttentionOptions& attention,
                                                absl::string_view path);

// CheckFaithfulText, naming the field.
absl::Status CheckTextSuits(const AttentionOptions& attention, int64_t text_tokens,
                            int64_t window_tokens, absl::string_view path);

v1::AttentionMode ToProto(AttentionMode mode);

// `asked` is what the request began with; the price is in USD, 0: not set.
v1::Receipt ToProto(const AttentionReceipt& receipt, const AttentionOptions& asked,
                    const DeviceTime& device, double price_per_device_hour);

}  // namespace quire::server
