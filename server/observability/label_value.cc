#include "server/observability/label_value.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "core/tokenizer/tokenizer.h"

namespace quire::server {
namespace {

constexpr char kOther[] = "other";

// Bytes of the character that the text begins with, by its first byte.
size_t LengthOf(unsigned char first) {
  if (first < 0x80) return 1;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
}

// The leading bytes that may stand as they are; "": the first byte may not.
absl::string_view PlainCharacter(absl::string_view text) {
  const absl::string_view character =
      text.substr(0, LengthOf(static_cast<unsigned char>(text[0])));
  if (character.size() == 1 &&
      (absl::ascii_iscntrl(character[0]) || absl::StrContains("\"\\%", character))) {
    return "";
  }
  // U+0080 to U+009F are control characters too.
  if (character[0] == '\xc2' && character.size() == 2 && character[1] < '\xa0') return "";
  if (FirstInvalidUtf8({character.data(), character.size()}) >= 0) return "";
  return character;
}

}  // namespace

std::string LabelValue(absl::string_view text) {
  std::string value;
  while (!text.empty()) {
    std::string piece(PlainCharacter(text));
    const size_t taken = piece.empty() ? 1 : piece.size();
    if (piece.empty()) {
      piece = absl::StrFormat("%%%02X", static_cast<unsigned char>(text[0]));
    }
    if (value.size() + piece.size() > kMaxLabelBytes) break;
    value += piece;
    text.remove_prefix(taken);
  }
  return value;
}

const TenantTokens::Counters& TenantTokens::CountersOf(absl::string_view tenant) {
  std::string name = LabelValue(tenant);
  if (name == kOther) name = "%6Fther";
  const auto found = by_tenant_.find(name);
  if (found != by_tenant_.end()) return found->second;
  // One place more than there are names: that of the others.
  if (by_tenant_.size() - by_tenant_.count(kOther) >= kMaxTenants) name = kOther;
  return by_tenant_
      .try_emplace(name, families_.counters<3>(Metric::kTenantTokens, {name}))
      .first->second;
}

void TenantTokens::Add(absl::string_view tenant, const Usage& usage) {
  const std::array<int64_t, 3> tokens = {usage.prompt_tokens - usage.cached_tokens,
                                         usage.cached_tokens, usage.generated_tokens};
  const std::lock_guard lock(mutex_);
  const Counters& counters = CountersOf(tenant);
  for (size_t i = 0; i < tokens.size(); ++i) {
    counters[i]->Increment(static_cast<double>(tokens[i]));
  }
}

}  // namespace quire::server
