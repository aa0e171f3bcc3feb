#include "client/cli/format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "client/cli/spans_file.h"

namespace quire::cli {
namespace {

TEST(FormatTest, WithCommas) {
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1000), "1,000");
  EXPECT_EQ(WithCommas(1234567), "1,234,567");
  EXPECT_EQ(WithCommas(-123), "-123");
  EXPECT_EQ(WithCommas(-1234), "-1,234");
  EXPECT_EQ(WithCommas(std::numeric_limits<int64_t>::min()),
            "-9,223,372,036,854,775,808");
}

TEST(FormatTest, Rate) {
  EXPECT_EQ(Rate(0.834), "0.83");
  EXPECT_EQ(Rate(58.66), "58.7");
  EXPECT_EQ(Rate(99.96), "100");
  EXPECT_EQ(Rate(1252.4), "1,252");
  EXPECT_EQ(Rate(std::nan("")), "-");
  EXPECT_EQ(Rate(1e300), "1,000,000,000,000,000");
}

TEST(FormatTest, SecondsAndCountdown) {
  EXPECT_EQ(Seconds(0), "0 ms");
  EXPECT_EQ(Seconds(0.0424), "42 ms");
  EXPECT_EQ(Seconds(0.424), "0.42 s");
  EXPECT_EQ(Seconds(12.34), "12.3 s");
  EXPECT_EQ(Seconds(59.99), "1 min 00 s");
  EXPECT_EQ(Seconds(185), "3 min 05 s");
  EXPECT_EQ(Seconds(3725), "1 h 02 min");
  EXPECT_EQ(Countdown(2.4), "2s");
  EXPECT_EQ(Countdown(-5), "0s");
  EXPECT_EQ(Countdown(185), "3m05s");
  EXPECT_EQ(Countdown(3725), "1h02m");
  EXPECT_EQ(Countdown(std::numeric_limits<double>::infinity()), "-");
}

TEST(FormatTest, PercentKeepsDigitsThatMatter) {
  EXPECT_EQ(Percent(0), "0.0 %");
  EXPECT_EQ(Percent(0.0613), "6.1 %");
  EXPECT_EQ(Percent(1), "100.0 %");
  EXPECT_EQ(Percent(0.0072), "0.72 %");
  EXPECT_EQ(Percent(0.00002), "0.002 %");
}

TEST(FormatTest, BytesAndCount) {
  EXPECT_EQ(Bytes(1200), "1.2 kB");
  EXPECT_EQ(Bytes(269'030'016), "269 MB");
  EXPECT_EQ(Bytes(1'400'000'000), "1.4 GB");
  EXPECT_EQ(Count(134'515'008), "135M");
  EXPECT_EQ(Count(19'400'000), "19.4M");
  EXPECT_EQ(Count(1'500'000'000), "1.5B");
}

TEST(ParseTimeTest, TakesDurationsAndSeconds) {
  EXPECT_EQ(*ParseTime("--timeout", "90s"), absl::Seconds(90));
  EXPECT_EQ(*ParseTime("--timeout", "1.5m"), absl::Seconds(90));
  EXPECT_EQ(*ParseTime("--timeout", "1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseTime("--timeout", "30"), absl::Seconds(30));
  EXPECT_EQ(*ParseTime("--timeout", "0.25"), absl::Milliseconds(250));
}

TEST(ParseTimeTest, RefusesTheRest) {
  for (const char* text : {"", "soon", "5 minutes", "0", "-3s", "nan", "1ns"}) {
    const auto timeout = ParseTime("--timeout", text);
    EXPECT_EQ(timeout.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(std::string(ParseTime("--timeout", "soon").status().message()),
            "--timeout is \"soon\"; write for example 90s, 5m or 1h30m");
  EXPECT_EQ(std::string(ParseTime("--timeout", "-3s").status().message()),
            "--timeout is \"-3s\"; it must be at least 1ms");
}

TEST(ParseSpansTest, ReadsLines) {
  const auto spans = ParseSpans("0 12\n# comment\n\n  12\t40 \r\n");
  ASSERT_TRUE(spans.ok()) << spans.status();
  ASSERT_EQ(spans->size(), 2u);
  EXPECT_EQ((*spans)[0].begin(), 0);
  EXPECT_EQ((*spans)[0].end(), 12);
  EXPECT_EQ((*spans)[1].begin(), 12);
  EXPECT_EQ((*spans)[1].end(), 40);
}

TEST(ParseSpansTest, NamesTheBadLine) {
  for (const char* text :
       {"0 1\n2", "0 1\n1 2 3", "0 1\na b", "0 1\n1 99999999999999999999"}) {
    const auto spans = ParseSpans(text);
    EXPECT_EQ(spans.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(
        std::string(spans.status().message()).starts_with("line 2 of the spans is "))
        << spans.status();
  }
}

}  // namespace
}  // namespace quire::cli
