#include "client/cli/progress_bar.h"

#include <gtest/gtest.h>

#include <string>

namespace quire::cli {
namespace {

v1::Progress Half() {
  v1::Progress progress;
  progress.set_phase(v1::PHASE_PREFILL);
  progress.set_done_tokens(3000);
  progress.set_total_tokens(6000);
  progress.set_pass(1);
  progress.set_passes(3);
  progress.set_eta_seconds(185);
  return progress;
}

// Columns it takes: every character of the bar is one wide.
int Width(const std::string& line) {
  int width = 0;
  for (unsigned char c : line) width += (c & 0xC0) != 0x80;
  return width;
}

TEST(RenderProgressTest, WideTerminalShowsEverything) {
  EXPECT_EQ(
      RenderProgress(Half(), 1234.4, 120, false),
      "Reading  ###############...............   50%  3,000/6,000 tokens  1,234 tok/s  "
      "ETA 3m05s  pass 1/3");
}

TEST(RenderProgressTest, NarrowTerminalKeepsWhatMatters) {
  EXPECT_EQ(
      RenderProgress(Half(), 1234.4, 80, false),
      "Reading  #####.....   50%  3,000/6,000 tokens  1,234 tok/s  ETA 3m05s  pass 1/3");
  EXPECT_EQ(RenderProgress(Half(), 1234.4, 70, false),
            "Reading  ##########..........   50%  1,234 tok/s  ETA 3m05s  pass 1/3");
  EXPECT_EQ(RenderProgress(Half(), 1234.4, 40, false),
            "Reading  ######.......   50%  ETA 3m05s");
  EXPECT_EQ(RenderProgress(Half(), 1234.4, 20, false), "Reading   50%");
  EXPECT_EQ(RenderProgress(Half(), 1234.4, 10, false), "Reading");
  EXPECT_EQ(RenderProgress(Half(), 1234.4, 5, false), "");
}

TEST(RenderProgressTest, NeverFillsTheLastColumn) {
  v1::Progress progress = Half();
  for (int64_t total : {0L, 1L, 6000L, 1L << 50}) {
    progress.set_total_tokens(total);
    for (int columns = 0; columns < 200; ++columns) {
      for (bool unicode : {false, true}) {
        const std::string line = RenderProgress(progress, 1e9, columns, unicode);
        ASSERT_LE(Width(line), std::max(columns - 1, 0)) << line;
      }
    }
  }
}

TEST(RenderProgressTest, UnicodeBar) {
  v1::Progress progress = Half();
  EXPECT_EQ(RenderProgress(progress, std::nullopt, 32, true),
            "Reading  \u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501"
            "\u2500\u2500\u2500\u2500\u2500\u2500\u2500\u2500   50%");
}

TEST(RenderProgressTest, OutOfRangeCountsAreClamped) {
  v1::Progress progress = Half();
  progress.clear_eta_seconds();
  progress.set_passes(1);
  progress.set_done_tokens(9000);
  EXPECT_EQ(RenderProgress(progress, std::nullopt, 40, false),
            "Reading  ########################  100%");
  progress.set_done_tokens(-1);
  EXPECT_EQ(RenderProgress(progress, std::nullopt, 40, false),
            "Reading  ........................    0%");
}

TEST(RenderProgressTest, AlmostDoneIsNotDone) {
  v1::Progress progress = Half();
  progress.set_done_tokens(5999);
  EXPECT_NE(RenderProgress(progress, std::nullopt, 80, false).find(".   99%"),
            std::string::npos);
}

TEST(RenderProgressTest, UnknownTotalHasNoBar) {
  v1::Progress progress;
  progress.set_phase(v1::PHASE_DECODE);
  progress.set_done_tokens(17);
  EXPECT_EQ(RenderProgress(progress, 58.7, 80, false), "Writing  17 tokens  58.7 tok/s");
  progress.set_phase(v1::PHASE_QUEUED);
  progress.set_done_tokens(0);
  EXPECT_EQ(RenderProgress(progress, std::nullopt, 80, false), "Waiting");
}

TEST(ProgressMeterTest, DrawsTenTimesASecond) {
  ProgressMeter meter;
  int drawn = 0;
  for (int i = 0; i < 1000; ++i) {
    drawn += meter.Update(Half(), absl::UnixEpoch() + absl::Milliseconds(i));
  }
  EXPECT_EQ(drawn, 10);
}

TEST(ProgressMeterTest, RateIsOfThisPass) {
  ProgressMeter meter;
  v1::Progress progress = Half();
  const absl::Time start = absl::UnixEpoch();
  progress.set_done_tokens(1000);
  meter.Update(progress, start);
  EXPECT_EQ(meter.tokens_per_second(), std::nullopt);
  progress.set_done_tokens(1400);
  meter.Update(progress, start + absl::Milliseconds(199));
  EXPECT_EQ(meter.tokens_per_second(), std::nullopt);
  progress.set_done_tokens(2000);
  meter.Update(progress, start + absl::Milliseconds(500));
  EXPECT_EQ(meter.tokens_per_second(), 2000.0);
  progress.set_pass(2);
  progress.set_done_tokens(0);
  meter.Update(progress, start + absl::Milliseconds(600));
  EXPECT_EQ(meter.tokens_per_second(), std::nullopt);
}

}  // namespace
}  // namespace quire::cli
