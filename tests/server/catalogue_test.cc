#include "server/observability/catalogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/tokenizer/tokenizer.h"
#include "server/observability/collectors.h"
#include "server/observability/metrics.h"
#include "server/observability/metrics_document.h"
#include "tests/server/every_series.h"
#include "tests/support/temp_path.h"

namespace quire::server {
namespace {

TEST(CatalogueTest, NamesUnitsAndLabelsFollowTheRules) {
  std::set<std::string> names;
  for (int i = 0; i < kMetrics; ++i) {
    const MetricDeclaration& d = Declaration(static_cast<Metric>(i));
    EXPECT_TRUE(names.insert(d.name).second) << d.name;
    EXPECT_TRUE(absl::StartsWith(d.name, "quire_") ||
                absl::StartsWith(d.name, "process_"));
    EXPECT_EQ(absl::EndsWith(d.name, "_total"), d.type == prometheus::MetricType::Counter)
        << d.name;
    EXPECT_EQ(absl::StrContains(d.name, "_seconds"), d.unit == "seconds") << d.name;
    EXPECT_FALSE(d.unit.empty()) << d.name;
    EXPECT_TRUE(absl::EndsWith(d.help, ".")) << d.name;
    EXPECT_EQ(d.buckets.empty(), d.type != prometheus::MetricType::Histogram) << d.name;
    EXPECT_TRUE(std::is_sorted(d.buckets.begin(), d.buckets.end())) << d.name;
    for (const MetricLabel& label : d.labels) {
      EXPECT_NE(label.values.empty(), label.bound.empty()) << d.name;
    }
  }
  for (const Metric metric :
       {Metric::kRequestSeconds, Metric::kTimeToFirstToken, Metric::kQueueSeconds}) {
    EXPECT_EQ(Declaration(metric).buckets.back(), 1800);
  }
}

TEST(CatalogueTest, TheDocumentIsUpToDate) {
  std::ifstream file(QUIRE_MODELS_DIR "/../docs/metrics.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), MetricsDocument()) << "run: quire_metrics_doc > docs/metrics.md";
}

TEST(CatalogueTest, ThePageWithEverySeriesIsSmallAndComplete) {
  const std::string page = PageWithEverySeries();
  EXPECT_LE(page.size(), 200'000u);
  for (int i = 0; i < kMetrics; ++i) {
    const MetricDeclaration& d = Declaration(static_cast<Metric>(i));
    EXPECT_TRUE(absl::StrContains(page, absl::StrCat("# TYPE ", d.name, " ")) &&
                absl::StrContains(page, absl::StrCat("# HELP ", d.name, " ", d.help)))
        << d.name;
  }
}

TEST(CatalogueTest, PromtoolFindsNothingWrongWithEverySeries) {
  if (std::system("promtool --version > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool (Debian package prometheus) is not installed";
  }
  const std::string path = TempPath("every_series");
  std::ofstream(path) << PageWithEverySeries();
  EXPECT_EQ(std::system(("promtool check metrics < '" + path + "'").c_str()), 0);
  std::remove(path.c_str());
}

TEST(LabelValueTest, WhatMayStandStays) {
  EXPECT_EQ(LabelValue(""), "");
  EXPECT_EQ(LabelValue("quire-135m"), "quire-135m");
  EXPECT_EQ(LabelValue("Größe {le=1} 文"), "Größe {le=1} 文");
}

TEST(LabelValueTest, WhatMayNotIsEscapedByTheByte) {
  EXPECT_EQ(LabelValue("a\"b"), "a%22b");
  EXPECT_EQ(LabelValue("a\\b\n\r\t"), "a%5Cb%0A%0D%09");
  EXPECT_EQ(LabelValue("%41"), "%2541");
  EXPECT_EQ(LabelValue(absl::string_view("\0x\x7f", 3)), "%00x%7F");
  EXPECT_EQ(LabelValue("\xff\xc3("), "%FF%C3(");
  EXPECT_EQ(LabelValue("\xc3"), "%C3");
  EXPECT_EQ(LabelValue("\xed\xa0\x80"), "%ED%A0%80");  // half of a surrogate pair
  EXPECT_EQ(LabelValue("\xc2\x85"), "%C2%85");         // a control character
}

TEST(LabelValueTest, WhateverComesIsPlainAndBounded) {
  std::mt19937 random(1);
  std::map<std::string, std::string> seen;
  for (int i = 0; i < 100'000; ++i) {
    std::string text(random() % 12, ' ');
    for (char& c : text) {
      c = static_cast<char>(random() % 3 == 0 ? 'a' + random() % 3 : random() % 256);
    }
    const std::string value = LabelValue(text);
    ASSERT_LE(value.size(), kMaxLabelBytes);
    ASSERT_LT(FirstInvalidUtf8(value), 0) << value;
    for (const char c : value) {
      ASSERT_TRUE(c != '"' && c != '\\' && !absl::ascii_iscntrl(c)) << value;
    }
    // Different texts stay different.
    ASSERT_EQ(seen.emplace(value, text).first->second, text);
  }
}

TEST(LabelValueTest, LongOnesAreCutBetweenCharacters) {
  EXPECT_EQ(LabelValue(std::string(1000, 'x')), std::string(64, 'x'));
  EXPECT_EQ(LabelValue(std::string(63, 'x') + "ö"), std::string(63, 'x'));
  EXPECT_EQ(LabelValue(std::string(62, 'x') + "\"y"), std::string(62, 'x'));
}

}  // namespace
}  // namespace quire::server
