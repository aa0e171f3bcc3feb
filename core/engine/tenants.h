#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace quire {

// Who uses the engine, and how many tokens each was served. A tenant that comes back from
// a pause begins where the least served of the active ones stands, or the last one that
// was, so that nobody can save up (virtual token counter, Sheng et al., arXiv
// 2401.00588). Bounded: of tenants without requests only the last kMaxIdle are
// remembered. Not thread-safe.
class Tenants {
 public:
  static constexpr size_t kMaxIdle = 1024;

  // A request of this tenant came; returns the tenant's index, which stays its own until
  // as many Release as Acquire.
  uint32_t Acquire(const std::string& name);
  void Release(uint32_t tenant);

  // The serial of a tenant that is remembered.
  std::optional<uint64_t> Find(const std::string& name) const;

  void AddServed(uint32_t tenant, int64_t tokens) { entries_[tenant].served += tokens; }

  // By index; those of unused indices mean nothing.
  std::vector<int64_t> served() const;
  // Whether served() is this.
  bool HaveServed(absl::Span<const int64_t> served) const;
  // Who has which index; changes() grows whenever that changes.
  const absl::flat_hash_map<std::string, uint32_t>& indices() const { return by_name_; }
  uint64_t changes() const { return last_serial_; }
  // A number that no other tenant has or had, for as long as this one is remembered.
  uint64_t serial(uint32_t tenant) const { return entries_[tenant].serial; }
  int32_t active() const { return active_; }

 private:
  struct Entry {
    std::string name;
    uint64_t serial = 0;
    int64_t served = 0;
    int32_t requests = 0;
    uint64_t idle_since = 0;  // order of becoming idle
  };
  uint32_t NewEntry();

  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, uint32_t> by_name_;
  uint64_t last_serial_ = 0;
  uint64_t idle_count_ = 0;
  int32_t active_ = 0;
  int64_t last_served_ = 0;  // of the last one that was active
};

}  // namespace quire
