#include "core/kv/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

#include "absl/strings/numbers.h"
#include "core/kv/memory_plan.h"

namespace quire {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The number after `key` in a file of "key value ..." lines.
std::optional<int64_t> ValueOf(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t value = 0;
    if (words >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

// A file that holds one number; empty for "max" and for a missing file.
std::optional<int64_t> Number(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  if (file >> word && absl::SimpleAtoi(word, &value)) return value;
  return std::nullopt;
}

// Path of this process's cgroup below sys/fs/cgroup: "" at the top, else "/a/b".
std::optional<std::string> CgroupPath(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::")) continue;  // other lines are version 1
    std::string path = line.substr(3);
    if (path.ends_with('/')) path.pop_back();
    return path;
  }
  return std::nullopt;
}

int64_t FreeInGroup(const std::string& folder) {
  const std::optional<int64_t> limit = Number(folder + "/memory.max");
  const std::optional<int64_t> used = Number(folder + "/memory.current");
  if (!limit || !used) return kUnlimited;
  const int64_t reclaimable =
      ValueOf(folder + "/memory.stat", "inactive_file").value_or(0);
  return std::clamp<int64_t>(*limit - *used + reclaimable, 0, *limit);
}

}  // namespace

int64_t AvailableMemoryBytesUnder(const std::string& root) {
  const std::optional<int64_t> kibibytes =
      ValueOf(root + "/proc/meminfo", "MemAvailable:");
  if (!kibibytes) return 0;
  int64_t available = *kibibytes * 1024;
  std::optional<std::string> group = CgroupPath(root);
  while (group) {
    available = std::min(available, FreeInGroup(root + "/sys/fs/cgroup" + *group));
    const size_t parent = group->rfind('/');  // a limit above binds too
    if (parent == std::string::npos) break;
    group->resize(parent);
  }
  return available;
}

int64_t AvailableMemoryBytes() { return AvailableMemoryBytesUnder(""); }

}  // namespace quire
