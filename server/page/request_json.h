#pragma once

#include "nlohmann/json.hpp"
#include "server/page/request_log.h"

namespace quire::server {

// A record for the list of the last requests: what a line shows. Times are seconds, the
// arrival in Unix time; what is not known is null.
nlohmann::json SummaryJson(const RequestRecord& record);

// All of it: the summary's fields, and "receipt" by phase, "trace" and "heads".
nlohmann::json DetailJson(const RequestRecord& record);

}  // namespace quire::server
