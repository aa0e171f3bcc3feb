#include "client/cli/top_view.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"
#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

constexpr int kLabelWidth = 10;
constexpr int kMaxBarWidth = 40;
constexpr int kMinBarWidth = 8;
constexpr std::string_view kGap = "   ";

enum class Style { kPlain, kName, kLabel, kTrouble };

const char* Code(Style style) {
  switch (style) {
    case Style::kName:
      return "\x1b[1m";
    case Style::kLabel:
      return "\x1b[2m";
    case Style::kTrouble:
      return "\x1b[1;31m";
    default:
      return "";
  }
}

int Columns(std::string_view text) {
  int columns = 0;
  while (!text.empty()) {
    const size_t size = std::max<size_t>(Utf8CharacterSize(text), 1);
    columns += Utf8Columns(text.substr(0, size));
    text.remove_prefix(size);
  }
  return columns;
}

// Builds one line, never wider than the terminal.
class Line {
 public:
  explicit Line(const TopLook& look) : look_(look), room_(look.columns) {}

  // As much of it as fits.
  Line& Add(std::string_view text, Style style = Style::kPlain) {
    std::string shown;
    while (!text.empty()) {
      const size_t size = std::max<size_t>(Utf8CharacterSize(text), 1);
      const int width = Utf8Columns(text.substr(0, size));
      if (width > room_) break;
      shown += text.substr(0, size);
      room_ -= width;
      text.remove_prefix(size);
    }
    const bool styled = look_.colour && style != Style::kPlain && !shown.empty();
    absl::StrAppend(&line_, styled ? Code(style) : "", shown, styled ? "\x1b[0m" : "");
    return *this;
  }
  // All of it after a gap, or nothing.
  Line& Part(const std::string& text, Style style = Style::kPlain) {
    if (text.empty()) return *this;
    const std::string_view gap = parts_++ == 0 ? "" : kGap;
    // The first part says most: of it a piece is better than nothing.
    if (parts_ > 1 && Columns(text) + Columns(gap) > room_) return *this;
    return Add(gap).Add(text, style);
  }
  Line& Label(const char* name) {
    return Add(absl::StrFormat("  %-*s", kLabelWidth, name), Style::kLabel);
  }
  int room() const { return room_; }
  std::string Take() {
    // No trailing blanks where there is no colour.
    while (!line_.empty() && line_.back() == ' ') line_.pop_back();
    return std::move(line_);
  }

 private:
  const TopLook& look_;
  int room_;
  int parts_ = 0;
  std::string line_;
};

double Share(double part, double whole) { return whole > 0 ? part / whole : 0; }

struct Memory {
  double used = 0;  // shares of all
  double cached = 0;
};

Memory MemoryOf(const v1::Load& load) {
  const int32_t used = load.kv_blocks() - load.kv_blocks_free();
  return {Share(used, load.kv_blocks()),
          Share(load.kv_blocks_cached(), load.kv_blocks())};
}

std::string Bar(const Memory& memory, int width, bool unicode) {
  const int used = static_cast<int>(std::lround(memory.used * width));
  const int cached = std::min(
      static_cast<int>(std::lround((memory.used + memory.cached) * width)), width);
  std::string bar;
  for (int i = 0; i < width; ++i) {
    if (i < used) {
      bar += unicode ? "\u2588" : "#";
    } else if (i < cached) {
      bar += unicode ? "\u2592" : "+";
    } else {
      bar += unicode ? "\u2591" : ".";
    }
  }
  return bar;
}

double RateOf(const v1::Load& load) {
  return load.prompt_tokens_per_second() + load.generated_tokens_per_second();
}

std::string StateOf(const v1::Load& load) {
  if (load.draining()) return "draining: takes no new requests";
  return load.running() + load.waiting() > 0 ? "busy" : "idle";
}

std::string ModelLine(const TopModel& model, const TopLook& look) {
  Line line(look);
  line.Part(Neutralise(model.load.model()), Style::kName)
      .Part(StateOf(model.load), model.load.draining() ? Style::kTrouble : Style::kPlain);
  if (!model.model.architecture().empty()) {
    line.Part(absl::StrCat(Neutralise(model.model.architecture()), " ",
                           Count(model.model.parameters()), ", ",
                           WithCommas(model.model.context_tokens()), " tokens"));
  }
  return line.Take();
}

std::string RequestsLine(const v1::Load& load, const TopLook& look) {
  Line line(look);
  line.Label("requests")
      .Part(absl::StrCat(load.running(), " of ", load.max_running(), " running"))
      .Part(absl::StrCat(load.waiting(), " of ", load.max_waiting(), " waiting"));
  if (load.waiting_tokens() > 0) {
    line.Part(absl::StrCat(WithCommas(load.waiting_tokens()), " tokens wait"));
  }
  line.Part(absl::StrCat(load.tenants(), load.tenants() == 1 ? " tenant" : " tenants"));
  if (load.preemptions() > 0) {
    line.Part(absl::StrCat(WithCommas(load.preemptions()), " preemptions"));
  }
  return line.Take();
}

std::string MemoryLine(const TopModel& model, const TopLook& look) {
  const v1::Load& load = model.load;
  const Memory memory = MemoryOf(load);
  const std::string used = absl::StrCat(Percent(memory.used), " used");
  const std::string kept = absl::StrCat(Percent(memory.cached), " kept for later");
  const std::string size = absl::StrCat(
      "of ", WithCommas(int64_t{load.kv_blocks()} * load.tokens_per_block()), " tokens");
  Line line(look);
  line.Label("kv memory");
  const int words = Columns(used) + Columns(kept) + Columns(size) + 9;
  const int room = std::min(line.room() - words, kMaxBarWidth);
  const int narrow = std::min(line.room() - Columns(used) - 3, kMaxBarWidth);
  const int width = room >= kMinBarWidth ? room : narrow;
  if (width >= kMinBarWidth) line.Part(Bar(memory, width, look.unicode));
  return line.Part(used).Part(kept).Part(size).Take();
}

std::string SpeedLine(const TopModel& model, const TopLook& look) {
  const v1::Load& load = model.load;
  Line line(look);
  line.Label("tokens/s")
      .Part(absl::StrCat(Rate(load.prompt_tokens_per_second()), " read"))
      .Part(absl::StrCat(Rate(load.generated_tokens_per_second()), " written"));
  const int room = line.room() - static_cast<int>(kGap.size());
  if (room >= kMinBarWidth && model.rates.size() > 1) {
    line.Part(Sparkline(model.rates, room, look.unicode));
  }
  return line.Take();
}

std::string Percentiles(const char* name, const v1::LatencyPercentiles& latency) {
  return absl::StrCat(name, " ", Seconds(latency.p50()), ", 95 % within ",
                      Seconds(latency.p95()));
}

std::string LatencyLine(const v1::Load& load, const TopLook& look) {
  Line line(look);
  line.Label("last min");
  if (!load.has_first_token() && !load.has_inter_token()) {
    return line.Part("no tokens written").Take();
  }
  if (load.has_first_token()) {
    line.Part(Percentiles("first token", load.first_token()));
  }
  if (load.has_inter_token()) line.Part(Percentiles("next", load.inter_token()));
  return line.Take();
}

std::string BacklogLine(const v1::Load& load, const TopLook& look) {
  return Line(look)
      .Label("backlog")
      .Part(Seconds(load.prefill_backlog_seconds()))
      .Part(absl::StrCat("a short request now: first token after ",
                         Seconds(load.first_token_seconds())))
      .Take();
}

std::string CacheLine(const v1::Load& load, const TopLook& look) {
  const auto all = static_cast<double>(load.prompt_tokens() + load.cached_tokens());
  return Line(look)
      .Label("cached")
      .Part(absl::StrCat(Percent(Share(static_cast<double>(load.cached_tokens()), all)),
                         " of prompt tokens"))
      .Part(absl::StrCat(WithCommas(load.prompt_tokens()), " read"))
      .Part(absl::StrCat(WithCommas(load.generated_tokens()), " written"))
      .Take();
}

// Of attention's work, as a share of what dense attention takes.
double Saved(const v1::Load& load) {
  return 1 - Share(load.attention_macs(), load.dense_attention_macs());
}

std::string SavedLine(const v1::Load& load, const TopLook& look) {
  Line line(look);
  line.Label("saved");
  if (load.dense_attention_macs() <= 0) return line.Part("nothing computed yet").Take();
  // A multiply-add is two operations.
  return line.Part(absl::StrCat(Percent(Saved(load)), " of attention's work"))
      .Part(absl::StrCat(Flops(2 * load.attention_macs()), " instead of ",
                         Flops(2 * load.dense_attention_macs())))
      .Take();
}

// What was computed twice says it without a model.
std::string ShadowLine(const v1::Load& load, const TopLook& look) {
  const v1::Shadows& shadows = load.shadows();
  Line line(look);
  line.Label("measured");
  if (shadows.count() == 0 || shadows.own_seconds() <= 0) {
    return line.Part("no request was repeated densely yet").Take();
  }
  const double differing = Share(static_cast<double>(shadows.top1_mismatches()),
                                 static_cast<double>(shadows.compared_tokens()));
  return line
      .Part(absl::StrCat(Rate(shadows.dense_seconds() / shadows.own_seconds()),
                         "x as fast as dense"))
      .Part(absl::StrCat(WithCommas(shadows.count()), " repeated"))
      .Part(absl::StrCat(Percent(1 - differing), " same token"))
      .Part(absl::StrFormat("drift %.4f", shadows.logprob_abs_delta()))
      .Take();
}

std::vector<std::string> Whole(const TopModel& model, const TopLook& look) {
  return {ModelLine(model, look),        RequestsLine(model.load, look),
          MemoryLine(model, look),       SpeedLine(model, look),
          LatencyLine(model.load, look), BacklogLine(model.load, look),
          CacheLine(model.load, look),   SavedLine(model.load, look),
          ShadowLine(model.load, look)};
}

std::string TableRow(const TopModel& model, const TopLook& look) {
  const v1::Load& load = model.load;
  const bool computed = load.dense_attention_macs() > 0;
  Line line(look);
  line.Add(Neutralise(load.model()), Style::kName);
  line.Part("").Add("  ");
  line.Add(absl::StrCat(load.running(), " running, ", load.waiting(), " waiting, ",
                        Percent(MemoryOf(load).used), " memory, ", Rate(RateOf(load)),
                        " tok/s"));
  if (computed) line.Add(absl::StrCat(", ", Percent(Saved(load)), " saved"));
  if (load.draining()) line.Add(", draining", Style::kTrouble);
  return line.Take();
}

std::string HeadLine(const TopState& state, const TopLook& look) {
  const size_t count = state.models.size();
  return Line(look)
      .Part("quire top", Style::kName)
      .Part(Neutralise(state.server))
      .Part(count > 1 ? absl::StrCat(count, " models") : "")
      .Take();
}

std::vector<std::string> TroubleLines(const TopState& state, const TopLook& look) {
  if (state.trouble.empty()) return {};
  std::vector<std::string> lines = {
      Line(look)
          .Part("no answer, still trying", Style::kTrouble)
          .Part(state.models.empty() ? ""
                                     : absl::StrCat("what follows is ",
                                                    Seconds(state.stale_seconds), " old"))
          .Take()};
  lines.push_back(Line(look).Add("  ").Add(Neutralise(state.trouble)).Take());
  return lines;
}

}  // namespace

std::string Sparkline(const std::deque<double>& rates, int width, bool unicode) {
  constexpr std::string_view kPlain = "_.:-=+*#";
  const size_t count = std::min(rates.size(), static_cast<size_t>(std::max(width, 0)));
  const auto first = rates.end() - static_cast<std::ptrdiff_t>(count);
  const double highest = count > 0 ? *std::max_element(first, rates.end()) : 0;
  std::string line;
  for (auto rate = first; rate != rates.end(); ++rate) {
    const double height = highest > 0 ? std::max(*rate, 0.0) / highest : 0;
    const int level = std::clamp(static_cast<int>(std::lround(height * 7)), 0, 7);
    if (unicode) {
      // U+2581, one eighth, to U+2588, the full block.
      line += "\xE2\x96";
      line += static_cast<char>(0x81 + level);
    } else {
      line += kPlain[static_cast<size_t>(level)];
    }
  }
  return line;
}

std::vector<std::string> RenderTop(const TopState& state, const TopLook& look) {
  std::vector<std::string> lines = {HeadLine(state, look)};
  for (std::string& line : TroubleLines(state, look)) lines.push_back(std::move(line));
  constexpr size_t kWhole = 10;  // lines of a model and the empty one before
  const auto rows = static_cast<size_t>(std::max(look.rows, 0));
  const bool whole = rows == 0 || state.models.size() <= 1 ||
                     lines.size() + state.models.size() * kWhole <= rows;
  if (!whole) lines.emplace_back();
  for (const TopModel& model : state.models) {
    if (!whole) {
      lines.push_back(TableRow(model, look));
      continue;
    }
    lines.emplace_back();
    for (std::string& line : Whole(model, look)) lines.push_back(std::move(line));
  }
  if (rows == 0 || lines.size() <= rows) return lines;
  const size_t hidden = lines.size() - rows + 1;
  lines.resize(rows);
  lines.back() = Line(look).Add(absl::StrCat("... ", hidden, " more lines")).Take();
  return lines;
}

}  // namespace quire::cli
