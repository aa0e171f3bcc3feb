#include "client/cli/calibrate_report.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/calibrate_chart.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

constexpr char kHead[] = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Quire calibration</title>
<style>
:root { --ink: #1c2024; --dim: #5b6570; --paper: #ffffff; --card: #f5f7f9; --rule: #dde2e7;
  --blue: #1a66b8; --green: #1b7a3d; --red: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --dim: #9aa5b1; --paper: #14171a; --card: #1d2226; --rule: #333b42;
    --blue: #6fb1f5; --green: #67c587; --red: #f28b82; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, figcaption { color: var(--dim); margin: .25rem 0; }
.advice { background: var(--card); border-left: 4px solid var(--green); padding: .75rem 1rem;
  color: var(--ink); white-space: pre-line; }
.advice.none { border-color: var(--red); }
figure { margin: 0; }
svg { width: 100%; height: auto; background: var(--card); border-radius: 6px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--dim); }
svg .mark { fill: var(--ink); }
svg .grid { stroke: var(--rule); }
svg .whisker { stroke: var(--blue); }
svg .wanted { stroke: var(--red); stroke-dasharray: 6 4; }
svg .point { fill: var(--blue); fill-opacity: .8; }
svg .strong { fill: var(--green); fill-opacity: 1; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { color: var(--dim); font-weight: 600; }
td:first-child, th:first-child { text-align: left; }
tr.strong td { font-weight: 600; color: var(--green); }
pre { background: var(--card); padding: .75rem 1rem; overflow-x: auto; border-radius: 6px; }
</style>
</head>
<body>
<main>
)";

std::string AsPercent(double share) { return absl::StrFormat("%.4g %%", 100 * share); }
std::string AsNumber(double value) { return absl::StrFormat("%.4g", value); }
std::string Fixed(double value) { return absl::StrFormat("%.4f", value); }

bool IsBest(const CalibrationResult& result, const EpsSummary& summary) {
  return result.recommendation.eps && *result.recommendation.eps == summary.eps;
}

std::string Figure(const std::string& heading, const std::string& caption,
                   const ChartSpec& spec) {
  return absl::StrCat("<h2>", heading, "</h2>\n<figure>\n", ScatterChart(spec),
                      "<figcaption>", HtmlEscape(caption), "</figcaption>\n</figure>\n");
}

// Cost against one of the two measures of what it costs in quality.
ChartSpec CostChart(const CalibrationResult& result, bool drift) {
  ChartSpec spec;
  spec.title = drift ? "Cost against drift of logprobs" : "Cost against agreement";
  spec.x_label = "attention's work, of dense attention's";
  spec.y_label =
      drift ? "mean |difference of logprob|, nats" : "same most probable token";
  spec.x_text = AsPercent;
  spec.y_text = drift ? AsNumber : AsPercent;
  spec.labels_below = !drift;
  if (!drift) spec.y_max = 1;
  spec.line = drift ? result.wanted.max_drift : result.wanted.agreement;
  spec.line_label = "wanted";
  for (const EpsSummary& summary : result.summaries) {
    const Bounded& y = drift ? summary.drift : summary.agreement;
    spec.points.push_back(
        {.x = 1 - summary.saved,
         .y = y.value,
         .low = y.low,
         .high = y.high,
         .name = absl::StrCat("eps ", EpsText(summary.eps), ": ", Fixed(y.value), ", ",
                              Fixed(y.low), " to ", Fixed(y.high)),
         .label = absl::StrCat("eps ", EpsText(summary.eps)),
         .strong = IsBest(result, summary)});
  }
  return spec;
}

// Whose documents are shown one by one: the recommended eps, else the smallest.
size_t ShownEps(const CalibrationResult& result) {
  for (size_t i = 0; i < result.summaries.size(); ++i) {
    if (IsBest(result, result.summaries[i])) return i;
  }
  return 0;
}

double AgreementOf(const Measurement& m) {
  return m.tokens > 0 ? static_cast<double>(m.agreed) / static_cast<double>(m.tokens) : 1;
}

const CalibrationDocument* DocumentOf(const CalibrationResult& result,
                                      const Measurement& m) {
  for (const CalibrationDocument& document : result.documents) {
    if (document.file.key == m.document) return &document;
  }
  return nullptr;
}

ChartSpec DocumentChart(const CalibrationResult& result,
                        const std::vector<Measurement>& readings) {
  ChartSpec spec;
  spec.title = "Agreement of each document by its length";
  spec.x_label = "tokens of the document";
  spec.y_label = "same most probable token";
  spec.x_text = [](double value) { return WithCommas(std::llround(value)); };
  spec.y_text = AsPercent;
  spec.y_max = 1;
  spec.line = result.wanted.agreement;
  spec.line_label = "wanted of all together";
  for (const Measurement& m : readings) {
    const CalibrationDocument* document = DocumentOf(result, m);
    if (document == nullptr) continue;
    const double y = AgreementOf(m);
    spec.points.push_back({.x = static_cast<double>(document->tokens),
                           .y = y,
                           .low = y,
                           .high = y,
                           .name = absl::StrCat(document->file.path, ": ", Fixed(y))});
  }
  return spec;
}

std::string Row(const std::vector<std::string>& cells, const char* tag = "td",
                bool strong = false) {
  std::string row = strong ? "<tr class=\"strong\">" : "<tr>";
  for (const std::string& cell : cells) {
    absl::StrAppend(&row, "<", tag, ">", HtmlEscape(cell), "</", tag, ">");
  }
  return absl::StrCat(row, "</tr>\n");
}

std::string EpsRows(const CalibrationResult& result) {
  std::string rows;
  for (const EpsSummary& s : result.summaries) {
    absl::StrAppend(
        &rows,
        Row({EpsText(s.eps), Fixed(s.agreement.value), Fixed(s.agreement.low),
             Fixed(s.drift.value), Fixed(s.drift.high),
             absl::StrFormat("%+.2f %%", 100 * (s.perplexity_ratio - 1)),
             Percent(s.density), Percent(s.saved), absl::StrFormat("%.2f", s.speedup),
             Percent(s.audited_error), Percent(s.max_audited_error)},
            "td", IsBest(result, s)));
  }
  return rows;
}

std::string DocumentRows(const CalibrationResult& result,
                         const std::vector<Measurement>& readings) {
  std::string rows;
  for (const Measurement& m : readings) {
    const CalibrationDocument* document = DocumentOf(result, m);
    if (document == nullptr) continue;
    const auto tokens = static_cast<double>(std::max<int64_t>(m.tokens, 1));
    absl::StrAppend(
        &rows,
        Row({document->file.path, WithCommas(document->tokens), WithCommas(m.tokens),
             Fixed(AgreementOf(m)), Fixed(m.abs_delta / tokens),
             absl::StrFormat("%.2f", std::exp(-m.dense_logprob / tokens)),
             absl::StrFormat("%.2f", std::exp(-m.logprob / tokens)),
             Percent(m.dense_columns > 0 ? m.columns / m.dense_columns : 1),
             Percent(m.dense_macs > 0 ? 1 - m.macs / m.dense_macs : 0),
             Seconds(m.dense_seconds), Seconds(m.seconds)}));
  }
  return rows;
}

std::string Table(const std::vector<std::string>& head, const std::string& rows) {
  return absl::StrCat("<div class=\"table\" tabindex=\"0\">\n<table>\n<thead>",
                      Row(head, "th"), "</thead>\n<tbody>\n", rows,
                      "</tbody>\n</table>\n</div>\n");
}

std::string LeftOut(const CalibrationResult& result) {
  std::string rows;
  for (const CalibrationDocument& document : result.too_short) {
    absl::StrAppend(&rows, Row({document.file.path,
                                absl::StrCat(WithCommas(document.tokens),
                                             " tokens: read densely, whatever eps is")}));
  }
  for (const SkippedFile& file : result.skipped) {
    absl::StrAppend(&rows, Row({file.path, file.why}));
  }
  if (rows.empty()) return "";
  return absl::StrCat("<h2>Files left out</h2>\n", Table({"file", "why"}, rows));
}

std::string Opening(const CalibrationResult& result) {
  return absl::StrCat(
      "<h1>Quire calibration</h1>\n<p>", HtmlEscape(result.model), "</p>\n<p>",
      HtmlEscape(absl::StrCat(result.documents.size(), " documents of ", result.folder,
                              ", read with ", Name(result.mode), ", sparsely from ",
                              WithCommas(result.min_sparse_tokens),
                              " tokens on; wanted: ", WantedWords(result.wanted), ".")),
      "</p>\n<p class=\"advice", result.recommendation.eps ? "" : " none", "\">",
      HtmlEscape(Advice(result)), "</p>\n");
}

}  // namespace

std::string CalibrationReport(const CalibrationResult& result) {
  const size_t shown = ShownEps(result);
  const std::vector<Measurement>& readings = result.readings[shown];
  const std::string eps = EpsText(result.summaries[shown].eps);
  std::string page = absl::StrCat(kHead, Opening(result));
  absl::StrAppend(
      &page,
      Figure("Cost and agreement",
             absl::StrFormat("Each point is an eps; the bars hold what all documents "
                             "like these have, each end with %.4g %% confidence.",
                             100 * result.bootstrap.confidence),
             CostChart(result, /*drift=*/false)),
      Figure("Cost and drift",
             "How far the logprob of a token is from the one that dense attention gives.",
             CostChart(result, /*drift=*/true)),
      Figure(absl::StrCat("Documents at eps ", eps),
             "Each point is a document; point at it for its name.",
             DocumentChart(result, readings)));
  absl::StrAppend(
      &page, "<h2>All eps</h2>\n",
      Table({"eps", "agreement", "at least", "drift", "at most", "perplexity",
             "keys read", "work saved", "times faster", "audited error", "largest"},
            EpsRows(result)),
      "<h2>Documents at eps ", eps, "</h2>\n",
      Table({"document", "tokens", "compared", "agreement", "drift", "perplexity, dense",
             "sparse", "keys read", "work saved", "reading, dense", "sparse"},
            DocumentRows(result, readings)),
      LeftOut(result), "<h2>For the server</h2>\n<pre>",
      HtmlEscape(ConfigFragment(result)), "</pre>\n</main>\n</body>\n</html>\n");
  return page;
}

}  // namespace quire::cli
