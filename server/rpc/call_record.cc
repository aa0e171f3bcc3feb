#include "server/rpc/call_record.h"

#include "server/rpc/status.h"

namespace quire::server {

RequestRecord RecordOf(const CallContext& call, const absl::Status& status) {
  RequestRecord record{.id = call.request_id,
                       .method = call.method,
                       .model = call.model,
                       .code = status.code(),
                       .reason = ReasonOf(status),
                       .arrival = call.arrival,
                       .elapsed = call.Elapsed(),
                       .time_to_first_token = call.time_to_first_token,
                       .usage = call.usage,
                       .timings = call.timings,
                       .attention = call.attention,
                       .device = call.device,
                       .trace = call.trace,
                       .head_columns = call.head_columns,
                       .saved = {},
                       .shadow = std::nullopt};
  if (call.models == nullptr || call.model.empty()) return record;
  if (const auto model = call.models->Find(call.model); model.ok()) {
    record.layers = (*model)->text.config.num_layers;
  }
  return record;
}

}  // namespace quire::server
