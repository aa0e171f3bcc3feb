#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

double Share(int32_t part, int32_t whole) {
  return whole > 0 ? static_cast<double>(part) / whole : 0;
}

std::string Of(int64_t value, int64_t limit) {
  return absl::StrCat(WithCommas(value), " of ", WithCommas(limit));
}

std::string Cache(const v1::Load& load) {
  const int32_t used = load.kv_blocks() - load.kv_blocks_free();
  return absl::StrCat(
      Percent(Share(used, load.kv_blocks())), " in use, ",
      Percent(Share(load.kv_blocks_cached(), load.kv_blocks())), " kept for later, of ",
      WithCommas(int64_t{load.kv_blocks()} * load.tokens_per_block()), " tokens");
}

std::string Table(const v1::Load& load) {
  std::string lines;
  const auto row = [&](const char* name, const std::string& value) {
    absl::StrAppend(&lines, absl::StrFormat("%-12s %s\n", name, value));
  };
  row("model", absl::StrCat(load.model(), load.draining() ? ", draining" : ""));
  row("running", Of(load.running(), load.max_running()));
  row("waiting",
      absl::StrCat(Of(load.waiting(), load.max_waiting()), ", ",
                   Of(load.waiting_tokens(), load.max_waiting_tokens()), " tokens"));
  row("kv cache", Cache(load));
  row("backlog", absl::StrCat(Seconds(load.prefill_backlog_seconds()),
                              ", first token of a short request after ",
                              Seconds(load.first_token_seconds())));
  row("speed", absl::StrCat(Rate(load.prompt_tokens_per_second()), " tokens/s read, ",
                            Rate(load.generated_tokens_per_second()), " written"));
  row("so far", absl::StrCat(WithCommas(load.prompt_tokens()), " tokens read, ",
                             WithCommas(load.cached_tokens()), " found in the cache, ",
                             WithCommas(load.generated_tokens()), " written, ",
                             WithCommas(load.preemptions()), " preemptions"));
  row("tenants", absl::StrCat(load.tenants()));
  return lines;
}

}  // namespace

absl::Status RunCommand(const Session& session, const LoadFlags& flags) {
  const std::string& name = flags.name.empty() ? session.flags().model : flags.name;
  const absl::StatusOr<v1::Load> load = session.client().GetLoad(name, session.NewCall());
  if (!load.ok()) return load.status();
  if (session.flags().json) return session.PrintJson(ToJson(*load), "");
  return session.screen().Print(Table(*load));
}

}  // namespace quire::cli
