#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/engine/engine.h"

namespace quire {

// A prompt of so many tokens; different seeds give different ones.
using MakePrompt = std::function<std::vector<TokenId>(uint64_t seed, int64_t tokens)>;

// Two traces of the same kind on the engine, in real time: the first one teaches the cost
// model, the second one is also simulated with what was learned. Prints one JSON line
// with both and their ratios.
void CompareWithSimulation(Engine& engine, const EngineOptions& options,
                           const MakePrompt& make_prompt);

}  // namespace quire
