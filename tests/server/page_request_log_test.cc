#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/page/request_log.h"

namespace quire::server {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

RequestRecord Answered(std::string id, int32_t passes = 1) {
  RequestRecord record{.id = std::move(id), .usage = {.prompt_tokens = 10}};
  record.trace.Add({0.5, TracePhase::kPrefill, passes, 10, 10});
  return record;
}
RequestRecord Refused(std::string id) {
  return {.id = std::move(id), .code = absl::StatusCode::kResourceExhausted};
}
SavingsReport Saving(std::string id, SavingsBasis basis, double own, double dense) {
  return {.call_id = std::move(id),
          .basis = basis,
          .own = absl::Seconds(own),
          .dense = absl::Seconds(dense),
          .saved_usd = (dense - own) / 100};
}
ShadowResult Shadow(std::string id, int64_t tokens, double delta, int64_t mismatches) {
  return {.call_id = std::move(id),
          .own = absl::Seconds(1),
          .dense = absl::Seconds(3),
          .compared_tokens = tokens,
          .logprob_abs_delta = delta,
          .top1_mismatches = mismatches};
}
const SavedTime& Of(const RequestRecord& record, SavingsBasis basis) {
  return record.saved[static_cast<size_t>(basis)];
}
std::vector<std::string> Ids(const std::vector<RequestRecord>& records) {
  std::vector<std::string> ids;
  for (const RequestRecord& record : records) ids.push_back(record.id);
  return ids;
}

TEST(RequestLogTest, TellsTheNewestFirst) {
  RequestLog log;
  EXPECT_EQ(log.version(), 0);
  for (const char* id : {"a", "b", "c"}) log.Add(Answered(id));
  EXPECT_THAT(Ids(log.Changed(0, 10)), ElementsAre("c", "b", "a"));
  EXPECT_THAT(Ids(log.Changed(0, 2)), ElementsAre("c", "b"));
  EXPECT_EQ(log.Find("b")->number, 2);
  EXPECT_EQ(log.FindNumber(3)->id, "c");
  EXPECT_FALSE(log.Find("d").has_value());
  EXPECT_FALSE(log.FindNumber(4).has_value());
}

TEST(RequestLogTest, ForgetsTheOldest) {
  RequestLog log;
  for (size_t i = 0; i < RequestLog::kMaxAnswered + 1; ++i) {
    log.Add(Answered(absl::StrCat(i)));
  }
  EXPECT_FALSE(log.Find("0").has_value());
  EXPECT_TRUE(log.Find("1").has_value());
  EXPECT_EQ(log.Changed(0, 1000).size(), RequestLog::kMaxAnswered);
}

TEST(RequestLogTest, RefusalsDoNotDriveAnswersOut) {
  RequestLog log;
  log.Add(Answered("answer"));
  for (int i = 0; i < 1000; ++i) log.Add(Refused(absl::StrCat("refused", i)));
  EXPECT_TRUE(log.Find("answer").has_value());
  EXPECT_EQ(log.Changed(0, 1000).size(), RequestLog::kMaxRefused + 1);
  EXPECT_TRUE(log.Find("refused999").has_value());
  EXPECT_FALSE(log.Find("refused0").has_value());
}

TEST(RequestLogTest, ACallThatGotSomewhereIsNoRefusal) {
  RequestLog log;
  RequestRecord cancelled = Answered("cancelled");
  cancelled.code = absl::StatusCode::kCancelled;
  cancelled.usage = {};
  log.Add(cancelled);
  for (int i = 0; i < 1000; ++i) log.Add(Refused(absl::StrCat(i)));
  EXPECT_TRUE(log.Find("cancelled").has_value());
}

TEST(RequestLogTest, OfAnIdTheNewestIsFound) {
  RequestLog log;
  log.Add(Answered("same"));
  log.Add(Answered("same"));
  EXPECT_EQ(log.Find("same")->number, 2);
  log.Add(Refused("same"));
  EXPECT_EQ(log.Find("same")->number, 3);
}

TEST(RequestLogTest, TellsWhatChangedSince) {
  RequestLog log;
  log.Add(Answered("a"));
  log.Add(Answered("b"));
  const int64_t seen = log.version();
  EXPECT_THAT(log.Changed(seen, 10), IsEmpty());
  log.OnShadow(Shadow("a", 10, 0.5, 1));
  EXPECT_GT(log.version(), seen);
  EXPECT_THAT(Ids(log.Changed(seen, 10)), ElementsAre("a"));
}

TEST(RequestLogTest, SavingsMayComeBeforeTheCallEnds) {
  RequestLog log;
  log.OnSavings(Saving("a", SavingsBasis::kModelled, 1, 3));
  EXPECT_EQ(log.version(), 0);
  log.Add(Answered("a"));
  const RequestRecord record = *log.Find("a");
  EXPECT_EQ(Of(record, SavingsBasis::kModelled).requests, 1);
  EXPECT_EQ(Of(record, SavingsBasis::kModelled).own, absl::Seconds(1));
  EXPECT_EQ(Of(record, SavingsBasis::kModelled).dense, absl::Seconds(3));
  EXPECT_DOUBLE_EQ(Of(record, SavingsBasis::kModelled).usd, 0.02);
  EXPECT_EQ(Of(record, SavingsBasis::kMeasured).requests, 0);
}

TEST(RequestLogTest, AndAfterIt) {
  RequestLog log;
  log.Add(Answered("a"));
  log.OnSavings(Saving("a", SavingsBasis::kMeasured, 2, 5));
  log.OnShadow(Shadow("a", 8, 0.25, 2));
  const RequestRecord record = *log.Find("a");
  EXPECT_EQ(Of(record, SavingsBasis::kMeasured).dense, absl::Seconds(5));
  ASSERT_TRUE(record.shadow.has_value());
  EXPECT_EQ(record.shadow->compared_tokens, 8);
  EXPECT_EQ(record.shadow->top1_mismatches, 2);
  EXPECT_DOUBLE_EQ(record.shadow->logprob_abs_delta, 0.25);
}

TEST(RequestLogTest, PassesOfACallAreAdded) {
  RequestLog log;
  log.OnSavings(Saving("a", SavingsBasis::kModelled, 1, 2));
  log.Add(Answered("a", 3));
  log.OnSavings(Saving("a", SavingsBasis::kMeasured, 1, 4));
  log.OnSavings(Saving("a", SavingsBasis::kMeasured, 2, 6));
  log.OnShadow(Shadow("a", 10, 0.1, 1));
  log.OnShadow(Shadow("a", 30, 0.5, 2));
  const RequestRecord record = *log.Find("a");
  EXPECT_EQ(Of(record, SavingsBasis::kModelled).requests, 1);
  EXPECT_EQ(Of(record, SavingsBasis::kMeasured).requests, 2);
  EXPECT_EQ(Of(record, SavingsBasis::kMeasured).own, absl::Seconds(3));
  EXPECT_EQ(record.shadow->requests, 2);
  EXPECT_EQ(record.shadow->dense, absl::Seconds(6));
  EXPECT_EQ(record.shadow->compared_tokens, 40);
  EXPECT_EQ(record.shadow->top1_mismatches, 3);
  EXPECT_DOUBLE_EQ(record.shadow->logprob_abs_delta, 0.4);
}

// A client may give all its calls one id: what a call has already cannot come again.
TEST(RequestLogTest, AnIdThatIsUsedAgainDoesNotMixCalls) {
  RequestLog log;
  log.OnSavings(Saving("same", SavingsBasis::kModelled, 1, 2));
  log.Add(Answered("same"));
  log.OnSavings(Saving("same", SavingsBasis::kModelled, 5, 9));
  log.Add(Answered("same"));
  EXPECT_EQ(Of(*log.FindNumber(1), SavingsBasis::kModelled).own, absl::Seconds(1));
  EXPECT_EQ(Of(*log.FindNumber(2), SavingsBasis::kModelled).own, absl::Seconds(5));
}

TEST(RequestLogTest, WhatBelongsToNoCallIsForgotten) {
  RequestLog log;
  log.OnSavings(Saving("", SavingsBasis::kModelled, 1, 2));
  for (int i = 0; i < 2000; ++i) {
    log.OnSavings(Saving(absl::StrCat(i), SavingsBasis::kModelled, 1, 2));
  }
  log.Add(Answered("0"));
  log.Add(Answered("1999"));
  log.Add(Answered(""));
  EXPECT_EQ(Of(*log.Find("0"), SavingsBasis::kModelled).requests, 0);
  EXPECT_EQ(Of(*log.Find("1999"), SavingsBasis::kModelled).requests, 1);
  EXPECT_EQ(Of(*log.Find(""), SavingsBasis::kModelled).requests, 0);
}

TEST(RequestLogTest, TooManyHeadsAreNotKept) {
  RequestLog log;
  RequestRecord wide = Answered("wide");
  wide.head_columns.resize(RequestLog::kMaxHeads + 1);
  RequestRecord widest = Answered("widest");
  widest.head_columns.resize(RequestLog::kMaxHeads);
  log.Add(wide);
  log.Add(widest);
  EXPECT_THAT(log.Find("wide")->head_columns, IsEmpty());
  EXPECT_EQ(log.Find("widest")->head_columns.size(), RequestLog::kMaxHeads);
}

TEST(RequestLogTest, IsThreadSafe) {
  RequestLog log;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string id = absl::StrCat(t, "-", i);
        log.OnSavings(Saving(id, SavingsBasis::kModelled, 1, 2));
        log.Add(Answered(id));
        log.OnShadow(Shadow(id, 1, 0, 0));
        log.Changed(log.version() - 3, 10);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // A thread that waits between a record and its shadow may find the record gone.
  EXPECT_GE(log.version(), 4 * 200);
  EXPECT_LE(log.version(), 4 * 200 * 2);
  for (const RequestRecord& record : log.Changed(0, 1000)) {
    EXPECT_EQ(Of(record, SavingsBasis::kModelled).requests, 1) << record.id;
    EXPECT_EQ(record.shadow->requests, 1) << record.id;
  }
}

}  // namespace
}  // namespace quire::server
