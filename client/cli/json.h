#pragma once

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "quire/v1/inference.pb.h"
#include "quire/v1/models.pb.h"

namespace quire::cli {

// Keys in the order of the documentation.
using Json = nlohmann::ordered_json;

// The names of the protocol's fields; numbers that are not finite become null.
Json ToJson(const v1::Usage& usage);
Json ToJson(const v1::Timings& timings);
Json ToJson(const v1::ByteSpan& span);
// Without what is unset.
Json ToJson(const v1::Receipt& receipt);
Json ToJson(const v1::TokenLogprob& token);
Json ToJson(const v1::GeneratedToken& token);
Json ToJson(const v1::SpanScore& score);
Json ToJson(const v1::Model& model);
Json ToJson(const v1::Load& load);
Json ToJson(const v1::CostEstimate& cost);
Json ToJson(const v1::EstimateCostResponse& estimate);
// "EOS", "EXTRACTIVE": without the enum's own prefix.
std::string Name(v1::FinishReason reason);
std::string Name(v1::SummaryStrategy strategy);
std::string Name(v1::AttentionMode mode);
// {"code", "message", and what the server said beside it}.
Json ErrorToJson(const absl::Status& error);

// With the digits that tell this float from its neighbours, not those of its double.
Json Number(float value);
// One line of UTF-8, with a newline.
std::string Dump(const Json& json);

}  // namespace quire::cli
