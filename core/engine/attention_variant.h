#pragma once

#include <cstdint>
#include <optional>

#include "core/dga/attention_options.h"

namespace quire {

// How the rows of a page were read, as far as the page's keys and values depend on it:
// equal for two requests only if theirs are. page_end: tokens up to the page's end, which
// is what its last row sees. A page whose rows all read densely is the same in DENSE,
// AUTO and REFINED. nullopt: such pages depend on more than the tokens before them
// (FAITHFUL) and are never shared.
std::optional<uint64_t> AttentionVariant(const AttentionOptions& options,
                                         int64_t page_end);

}  // namespace quire
