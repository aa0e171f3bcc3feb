#pragma once

#include <cstdint>
#include <string>

namespace quire {

// AvailableMemoryBytes() of the machine whose /proc and /sys lie under `root`. Reads
// MemAvailable of proc/meminfo, and memory.max, memory.current and memory.stat of this
// process's cgroup (version 2) and all above it. A cgroup's unused file cache counts as
// free.
int64_t AvailableMemoryBytesUnder(const std::string& root);

}  // namespace quire
