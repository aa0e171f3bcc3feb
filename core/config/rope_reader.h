#pragma once

#include <cstdint>

#include "core/config/json_reader.h"
#include "core/config/model_config.h"

namespace quire {

// Rotary settings of a config.json, in the old layout (rope_theta, rope_scaling) or in
// the one of transformers 5 (rope_parameters); problems go to `config`. max_positions is
// the file's max_position_embeddings; yarn with a stated original length may raise it, to
// at most `limit_positions`. Resolves original_max_positions, so it never depends on a
// later cut.
RopeConfig ReadRope(JsonReader& config, int32_t limit_positions, int32_t& max_positions);

}  // namespace quire
