#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/engine/engine.h"

namespace quire {

// kResourceExhausted, of which RefusalOf tells the reason.
absl::Status Refuse(Refusal refusal, absl::string_view message);

}  // namespace quire
