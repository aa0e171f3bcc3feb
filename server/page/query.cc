#include "server/page/query.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace quire::server {
namespace {

constexpr size_t kMaxShown = 40;  // bytes of what somebody sent

std::string Shown(absl::string_view text) {
  return absl::CEscape(text.substr(0, kMaxShown));
}

bool IsName(absl::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(),
                                      [](char c) { return c >= 'a' && c <= 'z'; });
}

}  // namespace

absl::StatusOr<std::map<std::string, double>> ParseQuery(
    absl::string_view query, const std::vector<absl::string_view>& known) {
  std::map<std::string, double> numbers;
  for (const absl::string_view part : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const auto [name, text] = pair;
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          IsName(name) ? Shown(name) : "query", " is no parameter of this; there ",
          known.empty() ? "are none" : absl::StrCat("are ", absl::StrJoin(known, ", "))));
    }
    double value = 0;
    if (!absl::SimpleAtod(text, &value) || !std::isfinite(value) || value < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " is '", Shown(text), "'; it must be a number of at least 0"));
    }
    if (!numbers.emplace(std::string(name), value).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, " must be there only once"));
    }
  }
  return numbers;
}

}  // namespace quire::server
