#include "core/engine/tenants.h"

#include <algorithm>
#include <limits>

namespace quire {

uint32_t Tenants::Acquire(const std::string& name) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const Entry& entry : entries_) {
    if (entry.requests > 0) least = std::min(least, entry.served);
  }
  auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    const uint32_t index = NewEntry();
    entries_[index] = {.name = name, .serial = ++last_serial_};
    found = by_name_.emplace(name, index).first;
  }
  Entry& entry = entries_[found->second];
  if (entry.requests++ == 0) {
    ++active_;
    entry.served = std::max(entry.served, active_ > 1 ? least : last_served_);
  }
  return found->second;
}

void Tenants::Release(uint32_t tenant) {
  Entry& entry = entries_[tenant];
  if (--entry.requests > 0) return;
  if (--active_ == 0) last_served_ = entry.served;
  entry.idle_since = ++idle_count_;
}

// A place of its own, or that of the tenant that has been idle longest.
uint32_t Tenants::NewEntry() {
  if (entries_.size() - static_cast<size_t>(active_) < kMaxIdle) {
    entries_.emplace_back();
    return static_cast<uint32_t>(entries_.size() - 1);
  }
  size_t oldest = entries_.size();
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].requests > 0) continue;
    if (oldest == entries_.size() ||
        entries_[i].idle_since < entries_[oldest].idle_since) {
      oldest = i;
    }
  }
  by_name_.erase(entries_[oldest].name);
  return static_cast<uint32_t>(oldest);
}

std::optional<uint64_t> Tenants::Find(const std::string& name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return std::nullopt;
  return entries_[found->second].serial;
}

std::vector<int64_t> Tenants::served() const {
  std::vector<int64_t> served;
  served.reserve(entries_.size());
  for (const Entry& entry : entries_) served.push_back(entry.served);
  return served;
}

bool Tenants::HaveServed(absl::Span<const int64_t> served) const {
  return std::equal(
      entries_.begin(), entries_.end(), served.begin(), served.end(),
      [](const Entry& entry, int64_t tokens) { return entry.served == tokens; });
}

}  // namespace quire
