#pragma once

#include <array>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "core/engine/request.h"
#include "server/observability/metric_families.h"

namespace quire::server {

inline constexpr size_t kMaxLabelBytes = 64;

// Text of others as a label's value: valid UTF-8 without quotes, backslashes and control
// characters, at most kMaxLabelBytes. What cannot stand there (and '%') is written as
// %XX, a byte each, so that different texts stay different; too long ones are cut.
std::string LabelValue(absl::string_view text);

// Counts tokens by tenant: the first kMaxTenants by name, the rest as "other" (a tenant
// that calls itself so is "%6Fther"). Thread-safe; has its own lock.
class TenantTokens {
 public:
  static constexpr size_t kMaxTenants = 20;

  // The families must outlive this.
  explicit TenantTokens(const MetricFamilies& families) : families_(families) {}
  void Add(absl::string_view tenant, const Usage& usage);

 private:
  using Counters = std::array<prometheus::Counter*, 3>;  // prompt, cached, generated
  const Counters& CountersOf(absl::string_view tenant);

  const MetricFamilies& families_;
  std::mutex mutex_;  // guards by_tenant_
  absl::flat_hash_map<std::string, Counters> by_tenant_;
};

}  // namespace quire::server
