#include "core/schedule/trace.h"

#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "tests/core/schedule/dice.h"
#include "tests/core/schedule/requests.h"

namespace quire {
namespace {

TraceEntry Entry() {
  ScheduledRequest waiting = Waiting(18446744073709551615u, 30, 7);
  waiting.tenant = 1;
  waiting.priority = 4;
  waiting.whole = true;
  waiting.shared_blocks = 1;
  ScheduledRequest decoding = Decoding(2, 20, 25, -3);
  decoding.pinned = true;
  decoding.samples = false;
  decoding.sparse_from = 64;
  return {.state = {.now_ns = 10,
                    .free_blocks = 9,
                    .served_tokens = {4, 5},
                    .requests = {waiting, decoding},
                    .cost = {1, 2, 3, 4, 5, 6, 7, 8}},
          .plan = {.preempt = {RequestId{2}},
                   .items = {{.id = waiting.id, .rows = 30, .starts = true, .blocks = 2},
                             {.id = decoding.id, .rows = 1, .blocks = 3}}}};
}

constexpr std::string_view kEntryLine =
    "step 10 9 1 2 3 4 5 6 7 8 2 4 5 2"
    " 18446744073709551615 1 4 7000000 10 30 0 30 130 -1 0 0 1"
    " 2 0 2 -3000000 5 25 24 20 125 64 2 2 0"
    " 1 2 2 18446744073709551615 30 1 2 2 1 0 3";

ScheduleOptions Options() {
  ScheduleOptions options;
  options.kv = {.num_blocks = 100, .tokens_per_block = 32};
  return options;
}

constexpr std::string_view kOptionsLine =
    "quire-schedule 1 256 512 4096 2 250000000 180 8 10000000000 60000000000 4 100 32";

TEST(TraceTest, IsALineOfNumbers) {
  EXPECT_EQ(FormatTraceOptions(Options()), kOptionsLine);
  EXPECT_EQ(FormatTraceEntry(Entry()), kEntryLine);
}

TEST(TraceTest, IsReadBackExactly) {
  const auto entry = ParseTraceEntry(kEntryLine);
  ASSERT_EQ(entry.status(), absl::OkStatus());
  EXPECT_EQ(*entry, Entry());
  const auto options = ParseTraceOptions(kOptionsLine);
  ASSERT_EQ(options.status(), absl::OkStatus());
  EXPECT_EQ(FormatTraceOptions(*options), kOptionsLine);
  EXPECT_EQ(options->kv, (KvGeometry{.num_blocks = 100, .tokens_per_block = 32}));
}

TEST(TraceTest, AnEmptyStateIsAnEntryToo) {
  const std::string line = FormatTraceEntry({});
  EXPECT_EQ(line, "step 0 0 0 0 0 0 0 0 0 0 0 0 0 0");
  EXPECT_EQ(ParseTraceEntry(line).value(), TraceEntry{});
}

TEST(TraceTest, TheReplayedPlanIsTheSame) {
  ScheduleState state{.free_blocks = 50, .served_tokens = {0}};
  state.requests = {Waiting(1, 30), Decoding(2, 20, 25), Begun(3, 5000, 70)};
  const StepPlan plan = PlanStep(Options(), state);
  const auto options = ParseTraceOptions(FormatTraceOptions(Options()));
  const auto entry = ParseTraceEntry(FormatTraceEntry({state, plan}));
  EXPECT_EQ(PlanStep(*options, entry->state), entry->plan);
}

std::string Replaced(std::string_view line, std::string_view old, std::string_view by) {
  std::string changed(line);
  changed.replace(changed.find(old), old.size(), by);
  return changed;
}

absl::Status Refused(std::string_view old, std::string_view by) {
  return ParseTraceEntry(Replaced(kEntryLine, old, by)).status();
}

TEST(TraceTest, SaysWhatIsWrong) {
  const auto error = [](const std::string& message) {
    return absl::InvalidArgumentError(message);
  };
  EXPECT_EQ(ParseTraceEntry("").status(), error("the line does not begin with \"step\""));
  EXPECT_EQ(ParseTraceEntry("step").status(), error("now_ns is missing"));
  EXPECT_EQ(ParseTraceEntry("steps 1").status(), error("now_ns is not an integer"));
  EXPECT_EQ(Refused("step 10 9", "step 10 -1"),
            error("free_blocks is -1; it must be in [0, 2147483647]"));
  EXPECT_EQ(Refused("step 10 9", "step 010 9"), error("now_ns is not an integer"));
  EXPECT_EQ(Refused("step 10 9", "step +10 9"), error("now_ns is not an integer"));
  EXPECT_EQ(Refused("step 10 9", "step -0 9"), error("now_ns is not an integer"));
  EXPECT_EQ(Refused("step 10 9", "step 10  9"), error("free_blocks is not an integer"));
  EXPECT_EQ(Refused("step 10 9", "step 10\t9"), error("now_ns is not an integer"));
  EXPECT_EQ(Refused("step 10 9", "step 10 99999999999999999999"),
            error("free_blocks is not an integer"));
  EXPECT_EQ(Refused(" 7000000", " 9223372036854775807"),
            error("accepted_ns is 9223372036854775807; it must be in "
                  "[-4611686018427387903, 4611686018427387903]"));
  EXPECT_EQ(Refused(" 1 4 7000000", " 1 5 7000000"),
            error("priority is 5; it must be in [0, 4]"));
  EXPECT_EQ(Refused(" 1 4 7000000", " 2 4 7000000"), error("tenant is unknown"));
  EXPECT_EQ(Refused(" 25 24 20 ", " 25 26 20 "),
            error("computed_tokens and prompt_tokens must be at most known_tokens"));
  EXPECT_EQ(Refused(" 25 24 20 ", " 25 24 26 "),
            error("computed_tokens and prompt_tokens must be at most known_tokens"));
  EXPECT_EQ(Refused(" 2 0 2 -3", " 18446744073709551615 0 2 -3"),
            error("two requests have the same id"));
  EXPECT_EQ(ParseTraceEntry(std::string(kEntryLine) + " ").status(),
            error("1 characters too many"));
  EXPECT_EQ(ParseTraceEntry(kEntryLine.substr(0, kEntryLine.size() - 2)).status(),
            error("blocks is missing"));
}

TEST(TraceTest, ACountIsNoLargerThanTheLine) {
  const absl::Status status =
      ParseTraceEntry("step 0 0 0 0 0 0 0 0 0 0 1000000000 1 2 3").status();
  EXPECT_EQ(status,
            absl::InvalidArgumentError("tenants is 1000000000; it must be in [0, 8]"));
}

TEST(TraceTest, OptionsMustBeValid) {
  const auto parse = [](std::string_view old, std::string_view by) {
    return ParseTraceOptions(Replaced(kOptionsLine, old, by)).status();
  };
  EXPECT_EQ(
      parse("quire-schedule 1", "quire-schedule 2"),
      absl::InvalidArgumentError("the line does not begin with \"quire-schedule 1\""));
  EXPECT_EQ(parse(" 512", " 12"),
            absl::InvalidArgumentError("step_tokens is 12; it must be at least 256"));
  EXPECT_EQ(parse(" 180", " 100"),
            absl::InvalidArgumentError(
                "decode_stretch_percent is 100; it must be at least 101"));
  EXPECT_EQ(parse(" 32", " 0"),
            absl::InvalidArgumentError("kv.tokens_per_block is 0; it must be in "
                                       "[1, 2147483647]"));
}

// What is accepted is written as it was read, and can be planned.
TEST(TraceTest, MutatedLinesAreRefusedOrRoundTrip) {
  Dice dice(1);
  const std::string_view alphabet = "0123456789 -+.e\t\n\0x";
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string line(kEntryLine);
    for (int64_t edits = dice.In(1, 3); edits > 0; --edits) {
      const auto at = static_cast<size_t>(dice.Below(static_cast<int64_t>(line.size())));
      const char letter = alphabet[static_cast<size_t>(dice.Below(alphabet.size()))];
      switch (dice.Below(4)) {
        case 0:
          line[at] = letter;
          break;
        case 1:
          line.insert(at, 1, letter);
          break;
        case 2:
          line.erase(at, 1);
          break;
        default:
          line.insert(at, line.substr(at, 9));
          break;
      }
    }
    const auto entry = ParseTraceEntry(line);
    if (!entry.ok()) {
      ASSERT_EQ(entry.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ++accepted;
    ASSERT_EQ(FormatTraceEntry(*entry), line);
    PlanStep(Options(), entry->state);
  }
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace quire
