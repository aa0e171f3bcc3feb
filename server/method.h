#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace quire::server {

// The calls of the service: a fixed set, so that logs and labels stay bounded.
enum class Method : uint8_t {
  kSummarize,
  kGenerate,
  kScore,
  kScoreBatch,
  kTokenize,
  kDetokenize,
  kCountTokens,
  kGetModel,
  kListModels,
  kEstimateCost,
  kGetLoad,
};

constexpr absl::string_view MethodName(Method method) {
  constexpr absl::string_view kNames[] = {
      "Summarize",   "Generate", "Score",      "ScoreBatch",   "Tokenize", "Detokenize",
      "CountTokens", "GetModel", "ListModels", "EstimateCost", "GetLoad"};
  return kNames[static_cast<int>(method)];
}

}  // namespace quire::server
