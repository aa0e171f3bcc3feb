#include "client/cli/calibrate_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/cli/calibrate_chart.h"
#include "client/cli/calibrate_view.h"

namespace quire::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

EpsSummary Summary(double eps, double agreement, double saved) {
  EpsSummary s;
  s.eps = eps;
  s.documents = 9;
  s.tokens = 90'000;
  s.agreement = {agreement, agreement - 0.004, agreement + 0.004};
  s.drift = {eps / 2, eps / 2 - 0.001, eps / 2 + 0.001};
  s.perplexity_ratio = 1.0005;
  s.density = eps;
  s.saved = saved;
  s.speedup = 1.25;
  s.audited_error = eps / 2;
  s.max_audited_error = eps;
  return s;
}

CalibrationResult Result() {
  CalibrationResult result;
  result.folder = "my docs";
  result.model = "quire-19m, 19,373,952 parameters";
  result.min_sparse_tokens = 4096;
  result.wanted = {.agreement = 0.98};
  for (int i = 0; i < 9; ++i) {
    const std::string key(1, static_cast<char>('a' + i));
    result.documents.push_back({{.path = key + ".txt", .key = key}, 9000 + i});
  }
  result.too_short.push_back({{.path = "note.md"}, 12});
  result.skipped.push_back({"<script>.txt", "empty"});
  result.summaries = {Summary(0.02, 0.995, 0.25), Summary(0.04, 0.985, 0.5),
                      Summary(0.08, 0.97, 0.625)};
  for (const EpsSummary& summary : result.summaries) {
    result.readings.push_back({{.document = "a",
                                .eps = summary.eps,
                                .tokens = 5000,
                                .agreed = 4900,
                                .abs_delta = 50,
                                .logprob = -15'100,
                                .dense_logprob = -15'000,
                                .columns = 10,
                                .dense_columns = 100,
                                .macs = 40,
                                .dense_macs = 100,
                                .seconds = 4,
                                .dense_seconds = 5}});
  }
  result.recommendation = Recommend(result.summaries, result.wanted);
  return result;
}

CalibrationResult DenseResult() {
  CalibrationResult result = Result();
  result.wanted = {.agreement = 0.999, .max_drift = 0.001};
  result.recommendation = Recommend(result.summaries, result.wanted);
  return result;
}

TEST(CalibrateViewTest, ALineForEachEpsAndTheRecommendedOneIsMarked) {
  EXPECT_EQ(EpsTable(Result()),
            "     eps  agreement  at least     drift  at most   perplexity  keys read    "
            "saved  "
            "faster\n"
            "    0.02     0.9950    0.9910    0.0100   0.0110      +0.05 %      2.0 %   "
            "25.0 %  "
            " 1.25x\n"
            "    0.04     0.9850    0.9810    0.0200   0.0210      +0.05 %      4.0 %   "
            "50.0 %  "
            " 1.25x  <\n"
            "    0.08     0.9700    0.9660    0.0400   0.0410      +0.05 %      8.0 %   "
            "62.5 %  "
            " 1.25x\n");
}

TEST(CalibrateViewTest, ThePlotHasEveryEpsAtItsPlace) {
  EXPECT_EQ(Plot(Result(), 40),
            "tokens that differ\n"
            "   3.4 % |           |\n"
            "         |           c\n"
            "         |\n"
            "   2.5 % |\n"
            "         |\n"
            "         |---------------|--------------\n"
            "   1.5 % |               b\n"
            "         |\n"
            "         |                      |\n"
            "  0.62 % |                      a\n"
            "         |\n"
            "   0.0 % |\n"
            "         +------------------------------\n"
            "          0 %                     100 %\n"
            "          of dense attention's work; ---: as many as may differ; |: may be "
            "up to\n"
            "          eps: a 0.02  b 0.04  c 0.08\n");
}

TEST(CalibrateViewTest, ATerminalTooNarrowForAPlotGetsNone) {
  EXPECT_EQ(Plot(Result(), 33), "");
  EXPECT_NE(Plot(Result(), 34), "");
}

TEST(CalibrateViewTest, ANearlyPerfectResultStillHasAPlot) {
  CalibrationResult result = Result();
  result.wanted = {.max_drift = 1};
  result.summaries = {Summary(0.02, 1, -0.5)};
  result.summaries[0].agreement = {1, 1, 1};
  EXPECT_THAT(Plot(result, 80), HasSubstr("a\n"));
}

TEST(CalibrateViewTest, AdviceNamesEpsMaxErrorAndHowSureThatIs) {
  EXPECT_EQ(Advice(Result()),
            "recommended: eps 0.04, max_error 0.05\n"
            "  agreement 0.9850, drift 0.0200 nats, 50.0 % of attention's work saved\n"
            "  reading was 1.25 times as fast as densely, all else included\n"
            "  with 95 % confidence, documents like these have an agreement of at least "
            "0.98\n");
}

TEST(CalibrateViewTest, ASlowerReadingAndFewDocumentsAreSaid) {
  CalibrationResult result = Result();
  result.summaries[1].speedup = 0.9;
  result.documents.resize(1);
  EXPECT_THAT(Advice(result),
              HasSubstr("0.90 times as fast as densely, all else "
                        "included: a loss; longer documents gain more\n"));
  EXPECT_THAT(Advice(result),
              HasSubstr("only 1 document was compared, which says little of others: "
                        "have at least 8\n"));
}

TEST(CalibrateViewTest, WhereNoEpsHoldsDenseIsRecommended) {
  EXPECT_EQ(Advice(DenseResult()),
            "recommended: dense\n"
            "  no eps that was measured has, with 95 % confidence, an agreement of at "
            "least 0.999 and a drift of at most 0.001 nats and saves work on these "
            "documents\n");
  EXPECT_EQ(ConfigFragment(DenseResult()), "{\n  \"attention_mode\": \"dense\"\n}\n");
}

TEST(CalibrateViewTest, TheConfigFragmentIsWhatTheServerTakes) {
  EXPECT_EQ(ConfigFragment(Result()),
            "{\n  \"attention_mode\": \"auto\",\n  \"attention_eps\": 0.04,\n"
            "  \"attention_max_error\": 0.05,\n"
            "  \"attention_min_sparse_tokens\": 4096\n}\n");
}

TEST(CalibrateViewTest, JsonHasAllOfIt) {
  const Json json = ToJson(Result());
  EXPECT_EQ(json["mode"], "AUTO");
  EXPECT_EQ(json["wanted_agreement"], 0.98);
  EXPECT_FALSE(json.contains("wanted_max_drift"));
  EXPECT_EQ(json["documents"], 9);
  EXPECT_EQ(json["too_short"], 1);
  EXPECT_EQ(json["skipped"][0]["why"], "empty");
  EXPECT_EQ(json["measured"][1]["eps"], 0.04);
  EXPECT_EQ(json["measured"][1]["agreement"]["low"], 0.981);
  EXPECT_EQ(json["config"]["attention_max_error"], 0.05);
}

TEST(CalibrationReportTest, IsOnePageThatFetchesNothing) {
  const std::string page = CalibrationReport(Result());
  for (const char* fetched : {"http:", "https:", "<script", "src=", "url(", "@import"}) {
    EXPECT_THAT(page, Not(HasSubstr(fetched)));
  }
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(page, HasSubstr("<html lang=\"en\">"));
}

TEST(CalibrationReportTest, HasPlotsTablesFilesLeftOutAndTheFragment) {
  const std::string page = CalibrationReport(Result());
  EXPECT_THAT(page, HasSubstr("aria-label=\"Cost against agreement\""));
  EXPECT_THAT(page, HasSubstr("aria-label=\"Cost against drift of logprobs\""));
  EXPECT_THAT(page, HasSubstr("<title>eps 0.04: 0.9850, 0.9810 to 0.9890</title>"));
  EXPECT_THAT(page, HasSubstr("<title>a.txt: 0.9800</title>"));
  EXPECT_THAT(page, HasSubstr("<h2>Documents at eps 0.04</h2>"));
  EXPECT_THAT(page, HasSubstr("<td>note.md</td><td>12 tokens: read densely"));
  EXPECT_THAT(page, HasSubstr("&quot;attention_eps&quot;: 0.04"));
  EXPECT_THAT(page, HasSubstr("<p class=\"advice\">recommended: eps 0.04"));
}

TEST(CalibrationReportTest, FileNamesCannotBeMarkup) {
  const std::string page = CalibrationReport(Result());
  EXPECT_THAT(page, HasSubstr("<td>&lt;script&gt;.txt</td>"));
}

TEST(CalibrationReportTest, WithoutARecommendationItSaysSo) {
  const std::string page = CalibrationReport(DenseResult());
  EXPECT_THAT(page, HasSubstr("<p class=\"advice none\">recommended: dense"));
  EXPECT_THAT(page, HasSubstr("<h2>Documents at eps 0.02</h2>"));
}

TEST(ChartTest, OnePointIsAChartOfFiniteNumbers) {
  const ChartSpec spec = {.points = {{.x = 1, .y = 1, .low = 1, .high = 1}},
                          .x_text = [](double) { return "x"; },
                          .y_text = [](double) { return "y"; }};
  const std::string svg = ScatterChart(spec);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_THAT(svg, HasSubstr("<circle"));
}

TEST(ChartTest, TicksAreRound) {
  EXPECT_THAT(Ticks(0.03, 1.01, 5), ElementsAre(0.2, 0.4, 0.6000000000000001, 0.8, 1.0));
  EXPECT_THAT(Ticks(4000, 16000, 4), ElementsAre(5000, 10000, 15000));
  EXPECT_TRUE(Ticks(1, 1, 4).empty());
  EXPECT_TRUE(Ticks(2, 1, 4).empty());
}

TEST(ChartTest, EscapesMarkupAndControlCharacters) {
  EXPECT_EQ(HtmlEscape("<a href='\"'>&\x01\xff"),
            "&lt;a href=&#39;&quot;&#39;&gt;&amp;\u2401\ufffd");
}

}  // namespace
}  // namespace quire::cli
