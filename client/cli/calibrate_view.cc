#include "client/cli/calibrate_view.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

constexpr int kPlotRows = 12;
constexpr int kPlotMaxColumns = 64;
constexpr int kPlotMinColumns = 24;
constexpr int kAxisColumns = 9;  // "  12.3 % |"

std::string Confidence(const Bootstrap& bootstrap) {
  return absl::StrFormat("%.4g %%", 100 * bootstrap.confidence);
}

std::string Signed(double share) { return absl::StrFormat("%+.2f %%", 100 * share); }

const EpsSummary* SummaryOf(const CalibrationResult& result, double eps) {
  for (const EpsSummary& summary : result.summaries) {
    if (summary.eps == eps) return &summary;
  }
  return nullptr;
}

bool IsRecommended(const CalibrationResult& result, const EpsSummary& summary) {
  return result.recommendation.eps && *result.recommendation.eps == summary.eps;
}

// A place in the plot; the middle of a character.
struct Canvas {
  Canvas(int columns, double top) : columns(columns), highest(top) {
    lines.assign(kPlotRows, std::string(static_cast<size_t>(columns), ' '));
  }
  size_t Row(double value) const {
    const double share = highest > 0 ? std::clamp(value / highest, 0.0, 1.0) : 0;
    return static_cast<size_t>(std::lround((1 - share) * (kPlotRows - 1)));
  }
  size_t Column(double share) const {
    return static_cast<size_t>(std::lround(std::clamp(share, 0.0, 1.0) * (columns - 1)));
  }
  int columns;
  double highest;
  std::vector<std::string> lines;
};

void DrawWanted(const CalibrationResult& result, Canvas& canvas) {
  if (!result.wanted.agreement) return;
  std::string& line = canvas.lines[canvas.Row(1 - *result.wanted.agreement)];
  for (char& place : line) place = '-';
}

void DrawPoints(const CalibrationResult& result, Canvas& canvas) {
  char name = 'a';
  for (const EpsSummary& summary : result.summaries) {
    const size_t column = canvas.Column(1 - summary.saved);
    // From the value up to what it may be.
    const size_t from = canvas.Row(1 - summary.agreement.low);
    const size_t to = canvas.Row(1 - summary.agreement.value);
    for (size_t row = from; row <= to; ++row) canvas.lines[row][column] = '|';
    canvas.lines[to][column] = name;
    if (name < 'z') ++name;
  }
}

std::string Legend(const CalibrationResult& result) {
  std::vector<std::string> names;
  char name = 'a';
  for (const EpsSummary& summary : result.summaries) {
    names.push_back(absl::StrCat(std::string(1, name), " ", EpsText(summary.eps)));
    if (name < 'z') ++name;
  }
  return absl::StrJoin(names, "  ");
}

}  // namespace

std::string EpsText(double eps) { return absl::StrFormat("%.4g", eps); }

std::string WantedWords(const Wanted& wanted) {
  std::vector<std::string> words;
  if (wanted.agreement) {
    words.push_back(absl::StrFormat("an agreement of at least %.6g", *wanted.agreement));
  }
  if (wanted.max_drift) {
    words.push_back(absl::StrFormat("a drift of at most %.6g nats", *wanted.max_drift));
  }
  return absl::StrJoin(words, " and ");
}

std::string EpsTable(const CalibrationResult& result) {
  std::string lines = absl::StrFormat("%8s  %9s %9s  %8s %8s  %11s  %9s  %7s  %6s\n",
                                      "eps", "agreement", "at least", "drift", "at most",
                                      "perplexity", "keys read", "saved", "faster");
  for (const EpsSummary& s : result.summaries) {
    absl::StrAppend(
        &lines, absl::StrFormat(
                    "%8s  %9.4f %9.4f  %8.4f %8.4f  %11s  %9s  %7s  %5.2fx%s\n",
                    EpsText(s.eps), s.agreement.value, s.agreement.low, s.drift.value,
                    s.drift.high, Signed(s.perplexity_ratio - 1), Percent(s.density),
                    Percent(s.saved), s.speedup, IsRecommended(result, s) ? "  <" : ""));
  }
  return lines;
}

std::string Plot(const CalibrationResult& result, int columns) {
  const int width = std::min(columns - kAxisColumns - 1, kPlotMaxColumns);
  if (width < kPlotMinColumns || result.summaries.empty()) return "";
  double highest = result.wanted.agreement ? 1.2 * (1 - *result.wanted.agreement) : 0;
  for (const EpsSummary& summary : result.summaries) {
    highest = std::max(highest, 1 - summary.agreement.low);
  }
  Canvas canvas(width, highest);
  DrawWanted(result, canvas);
  DrawPoints(result, canvas);
  std::string text = "tokens that differ\n";
  for (size_t row = 0; row < canvas.lines.size(); ++row) {
    const double value = highest * (1 - static_cast<double>(row) / (kPlotRows - 1));
    const std::string label =
        row % 3 == 0 || row + 1 == canvas.lines.size() ? Percent(value) : "";
    std::string& line = canvas.lines[row];
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, absl::StrFormat("%*s |%s\n", kAxisColumns - 1, label, line));
  }
  const std::string pad(kAxisColumns, ' ');
  absl::StrAppend(&text, pad, "+", std::string(static_cast<size_t>(width), '-'), "\n");
  absl::StrAppend(&text, pad, " 0 %", std::string(static_cast<size_t>(width - 9), ' '),
                  "100 %\n", pad, " of dense attention's work; ",
                  result.wanted.agreement ? "---: as many as may differ; " : "",
                  "|: may be up to\n", pad, " eps: ", Legend(result), "\n");
  return text;
}

std::string Advice(const CalibrationResult& result) {
  const auto& eps = result.recommendation.eps;
  const std::string confidence = Confidence(result.bootstrap);
  std::string lines;
  if (!eps) {
    lines = absl::StrCat("recommended: dense\n  no eps that was measured has, with ",
                         confidence, " confidence, ", WantedWords(result.wanted),
                         " and saves work on these documents\n");
  } else if (const EpsSummary* s = SummaryOf(result, *eps)) {
    lines = absl::StrFormat(
        "recommended: eps %s, max_error %.2g\n"
        "  agreement %.4f, drift %.4f nats, %s of attention's work saved\n"
        "  reading was %.2f times as fast as densely, all else included%s\n"
        "  with %s confidence, documents like these have %s\n",
        EpsText(*eps), result.recommendation.max_error, s->agreement.value,
        s->drift.value, Percent(s->saved), s->speedup,
        s->speedup < 1 ? ": a loss; longer documents gain more" : "", confidence,
        WantedWords(result.wanted));
  }
  const auto count = static_cast<int>(result.documents.size());
  if (count > 0 && count < kFewDocuments) {
    absl::StrAppend(
        &lines, "  only ", count, count == 1 ? " document was" : " documents were",
        " compared, which says little of others: have at least ", kFewDocuments, "\n");
  }
  return lines;
}

std::string ConfigFragment(const CalibrationResult& result) {
  Json json;
  if (!result.recommendation.eps) {
    json["attention_mode"] = "dense";
  } else {
    json["attention_mode"] = absl::AsciiStrToLower(Name(result.mode));
    json["attention_eps"] = *result.recommendation.eps;
    json["attention_max_error"] = result.recommendation.max_error;
    json["attention_min_sparse_tokens"] = result.min_sparse_tokens;
  }
  return json.dump(2) + "\n";
}

namespace {

Json BoundedToJson(const Bounded& bounded) {
  return {{"value", bounded.value}, {"low", bounded.low}, {"high", bounded.high}};
}

Json SummaryToJson(const EpsSummary& s) {
  return {{"eps", s.eps},
          {"documents", s.documents},
          {"tokens", s.tokens},
          {"agreement", BoundedToJson(s.agreement)},
          {"drift", BoundedToJson(s.drift)},
          {"perplexity_ratio", s.perplexity_ratio},
          {"density", s.density},
          {"saved_macs_share", s.saved},
          {"speedup", s.speedup},
          {"audited_error", s.audited_error},
          {"max_audited_error", s.max_audited_error}};
}

}  // namespace

Json ToJson(const CalibrationResult& result) {
  Json json = {{"model", result.model},
               {"mode", Name(result.mode)},
               {"min_sparse_tokens", result.min_sparse_tokens},
               {"confidence", result.bootstrap.confidence}};
  if (result.wanted.agreement) json["wanted_agreement"] = *result.wanted.agreement;
  if (result.wanted.max_drift) json["wanted_max_drift"] = *result.wanted.max_drift;
  json["documents"] = result.documents.size();
  json["too_short"] = result.too_short.size();
  Json& skipped = json["skipped"] = Json::array();
  for (const SkippedFile& file : result.skipped) {
    skipped.push_back({{"path", file.path}, {"why", file.why}});
  }
  Json& measured = json["measured"] = Json::array();
  for (const EpsSummary& summary : result.summaries) {
    measured.push_back(SummaryToJson(summary));
  }
  json["config"] = Json::parse(ConfigFragment(result));
  return json;
}

}  // namespace quire::cli
