#pragma once

#include "absl/status/status.h"
#include "server/page/request_log.h"
#include "server/rpc/call_context.h"

namespace quire::server {

// What the page tells of a call that ended so.
RequestRecord RecordOf(const CallContext& call, const absl::Status& status);

}  // namespace quire::server
