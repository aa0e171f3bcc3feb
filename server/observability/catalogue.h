#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "prometheus/metric_type.h"

namespace quire::server {

// Every metric of the server, in the order of the page. What each is stands in
// catalogue.cc and nowhere else: registration, the collectors and docs/metrics.md are
// made from it.
enum class Metric : uint8_t {
  // Calls.
  kRequestSeconds,
  kTimeToFirstToken,
  kInterTokenLatency,
  kQueueSeconds,
  kRejections,
  kWouldRefuse,
  kCancelled,
  // Tokens.
  kPromptTokens,
  kGeneratedTokens,
  kCachedTokens,
  kRecomputedTokens,
  kWastedTokens,
  kTenantTokens,
  // Load, read off the engines.
  kRequestsRunning,
  kRequestsWaiting,
  kWaitingTokens,
  kKvCacheUsage,
  kKvCacheCached,
  kPrefillBacklog,
  kTenants,
  // Engine.
  kStepSeconds,
  kBatchSequences,
  kDeviceSeconds,
  kPreemptions,
  kEstimateErrorRatio,
  // Work of attention beside what dense attention takes.
  kAttentionFlops,
  kAttentionFlopsDense,
  kAttentionMacs,
  kModelFlops,
  kKvBytes,
  kKvBytesDense,
  kSelectionSeconds,
  kExpandedKeys,
  kAttentionColumns,
  kAttentionColumnsDense,
  kAttentionDensity,
  // Savings.
  kRequestDeviceSeconds,
  kRequestDenseDeviceSeconds,
  kMeasuredSavings,
  kMeasuredLosses,
  kEstimatedSavings,
  kEstimatedLosses,
  kDeviceHourPrice,
  // Quality: audits of attention, and requests that were computed again densely.
  kAttentionError,
  kDenseFallback,
  kShadowSamples,
  kShadowSkipped,
  kShadowSpeedup,
  kShadowLogprobDelta,
  kShadowComparedTokens,
  kShadowMismatches,
  kShadowDeviceSeconds,
  // What this is.
  kBuildInfo,
  kModelInfo,
  // The process, under the names that every Prometheus client uses.
  kProcessCpuSeconds,
  kProcessStartTime,
  kProcessVirtualMemory,
  kProcessResidentMemory,
  kProcessOpenFds,
  kProcessMaxFds,
};
inline constexpr int kMetrics = static_cast<int>(Metric::kProcessMaxFds) + 1;

struct MetricLabel {
  std::string name;
  std::vector<std::string> values;  // all there can be, in the order of their enum
  std::string bound;                // if there are none: what bounds them instead
};

struct MetricDeclaration {
  Metric metric;
  std::string name;
  prometheus::MetricType type;
  std::string unit;
  std::string help;  // one sentence
  std::vector<MetricLabel> labels;
  std::vector<double> buckets;  // of histograms: upper bounds
  // False: a series is there once something of it has happened. True: from the start, if
  // its labels have fixed values, so that rates are right for the first event too.
  bool present = true;
};

// Never destroyed.
const MetricDeclaration& Declaration(Metric metric);

// gRPC codes that the server returns; any other is counted as "OTHER", the last one.
const std::vector<std::string>& CodeValues();

}  // namespace quire::server
