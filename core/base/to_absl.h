#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace quire {

// Debian 12 builds Abseil with a string_view of its own, to which std::string_view does
// not convert: StrCat and Status messages need this.
inline absl::string_view ToAbsl(std::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace quire
