#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "core/schedule/trace.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/model_registry.h"
#include "server/observability/log.h"
#include "server/observability/schedule_trace.h"
#include "server/port_file.h"
#include "server/rpc/progress.h"
#include "server/rpc/span_sums.h"
#include "server/rpc/status.h"
#include "server/rpc/worker_pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_path.h"

// The small parts of the server, each by itself.
namespace quire::server {
namespace {

using testing::HasSubstr;

// ---------------------------------------------------------------------------------
// status

TEST(StatusTest, DetailsTravelInTheTrailer) {
  const absl::Status status =
      WithRetry(WithReason(absl::ResourceExhaustedError("full"), "WAITING_ROOM_FULL"),
                absl::Seconds(1.5));
  const grpc::Status wire = ToGrpcStatus(status);
  EXPECT_EQ(wire.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(wire.error_message(), "full");
  google::rpc::Status parsed;
  ASSERT_TRUE(parsed.ParseFromString(wire.error_details()));
  EXPECT_EQ(parsed.code(), 8);
  EXPECT_EQ(parsed.message(), "full");
  ASSERT_EQ(parsed.details_size(), 2);
  google::rpc::RetryInfo retry;
  google::rpc::ErrorInfo info;
  for (const auto& any : parsed.details()) {
    any.UnpackTo(&retry);
    any.UnpackTo(&info);
  }
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(info.reason(), "WAITING_ROOM_FULL");
  EXPECT_EQ(info.domain(), "quire");
}

TEST(StatusTest, WithoutDetailsTheTrailerIsEmpty) {
  EXPECT_EQ(ToGrpcStatus(absl::InternalError("x")).error_details(), "");
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(StatusTest, LongMessagesAreCutBetweenCharacters) {
  std::string text(999, 'a');
  text += "\xc3\xa9 and so on";
  EXPECT_EQ(ToGrpcStatus(absl::InternalError(text)).error_message(),
            std::string(999, 'a'));
}

TEST(StatusTest, TheFieldIsTakenFromTheCoresMessages) {
  const absl::Status status = WithFieldOfMessage(
      absl::InvalidArgumentError("sampling.top_p is 2; it must be in (0, 1]"));
  EXPECT_EQ(FieldOf(status), "sampling.top_p");
  EXPECT_EQ(FieldOf(WithFieldOfMessage(absl::InvalidArgumentError("The text is bad"))),
            "");
  EXPECT_EQ(FieldOf(WithFieldOfMessage(absl::InternalError("top_p is 2"))), "");
}

TEST(StatusTest, QuotedIsShortAndEscaped) {
  EXPECT_EQ(Quoted("a\n'"), "'a\\n\\''");
  EXPECT_EQ(Quoted(std::string(65, 'x')), "'" + std::string(64, 'x') + "...'");
}

// ---------------------------------------------------------------------------- worker
// pool

// A door that tasks wait at.
class Gate {
 public:
  void Wait() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void AwaitWaiting(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ == count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

TEST(WorkerPoolTest, RefusesOneTaskMoreThanItsBound) {
  Gate gate;
  std::atomic<int> done = 0;
  {
    WorkerPool pool(2, 1);
    const auto task = [&] {
      gate.Wait();
      ++done;
    };
    EXPECT_TRUE(pool.TryRun(task));
    EXPECT_TRUE(pool.TryRun(task));
    EXPECT_TRUE(pool.TryRun(task));
    EXPECT_FALSE(pool.TryRun(task));
    gate.AwaitWaiting(2);
    EXPECT_FALSE(pool.TryRun(task));
    gate.Open();
  }
  EXPECT_EQ(done, 3);  // the destructor ran what was queued
}

TEST(WorkerPoolTest, HasRoomAgainWhenATaskIsDone) {
  WorkerPool pool(1, 0);
  std::atomic<int> done = 0;
  for (int i = 0; i < 100; ++i) {
    while (!pool.TryRun([&] { ++done; })) {
    }
  }
  while (done < 100) {
  }
}

// -------------------------------------------------------------------------------
// progress

TEST(ProgressTest, SendsFirstAndLastAndTenASecond) {
  FakeClock clock;
  ProgressThrottle throttle(clock);
  EXPECT_TRUE(throttle.ShouldSend(v1::PHASE_QUEUED, 1, false));
  EXPECT_TRUE(throttle.ShouldSend(v1::PHASE_PREFILL, 1, false));  // a new phase
  int sent = 0;
  for (int i = 0; i < 1000; ++i) {
    clock.Advance(absl::Milliseconds(1));
    sent += throttle.ShouldSend(v1::PHASE_PREFILL, 1, false) ? 1 : 0;
  }
  EXPECT_EQ(sent, 10);
  EXPECT_TRUE(throttle.ShouldSend(v1::PHASE_PREFILL, 2, false));  // a new pass
  EXPECT_FALSE(throttle.ShouldSend(v1::PHASE_PREFILL, 2, false));
  EXPECT_TRUE(throttle.ShouldSend(v1::PHASE_PREFILL, 2, true));
}

TEST(ProgressTest, EstimatesFromTheMeasuredRate) {
  FakeClock clock;
  ProgressThrottle throttle(clock);
  ASSERT_TRUE(throttle.ShouldSend(v1::PHASE_PREFILL, 1, false));
  EXPECT_EQ(throttle.EtaSeconds(100, 1000), std::nullopt);  // no rate yet
  clock.Advance(absl::Seconds(2));
  EXPECT_EQ(throttle.EtaSeconds(300, 1000), 7.0);  // 100 tokens a second, 700 to go
  clock.Advance(absl::Seconds(7));
  EXPECT_EQ(throttle.EtaSeconds(1000, 1000), 0.0);
  ASSERT_TRUE(throttle.ShouldSend(v1::PHASE_DECODE, 1, false));
  EXPECT_EQ(throttle.EtaSeconds(1, 10), std::nullopt);  // another phase, another rate
}

// ------------------------------------------------------------------------------ span
// sums

TEST(SpanSumsTest, OverlappingEmptyAndOuterSpans) {
  SpanSums sums({{2, 5}, {0, 10}, {5, 5}, {4, 6}, {20, 30}});
  for (int64_t byte = 0; byte < 10; ++byte) sums.Add(byte, -static_cast<double>(byte));
  const auto result = sums.Finish();
  EXPECT_EQ(result[0].value, -(2 + 3 + 4));
  EXPECT_EQ(result[0].tokens, 3);
  EXPECT_EQ(result[1].value, -45);
  EXPECT_EQ(result[1].tokens, 10);
  EXPECT_EQ(result[2].tokens, 0);
  EXPECT_EQ(result[3].value, -9);
  EXPECT_EQ(result[4].tokens, 0);
}

TEST(SpanSumsTest, NoSpans) {
  SpanSums sums({});
  sums.Add(3, -1);
  EXPECT_TRUE(sums.Finish().empty());
}

// ------------------------------------------------------------------------- log, port
// file

TEST(LogLineTest, JsonAndTextEscapeWhatIsSaid) {
  std::vector<std::string> lines;
  const auto sink = [&](const std::string& line) { lines.push_back(line); };
  Log json(Log::Format::kJson, LogLevel::kInfo, sink);
  json.Write(LogLevel::kDebug, "unseen", {});
  json.Info("call", {{"id", "a\n\"b\xff"}, {"n", int64_t{3}}, {"s", 0.5}, {"ok", true}});
  Log text(Log::Format::kText, LogLevel::kError, sink);
  text.Info("unseen");
  text.Error("failed", {{"why", "a\nb"}});
  ASSERT_EQ(lines.size(), 2);
  EXPECT_THAT(lines[0],
              HasSubstr("\"level\":\"info\",\"event\":\"call\",\"id\":\"a\\n\\\"b\xef"
                        "\xbf\xbd\",\"n\":3,\"s\":0.5,\"ok\":true}"));
  EXPECT_THAT(lines[1], HasSubstr(" error failed why=\"a\\nb\""));
}

TEST(PortFileTest, HoldsTheAddresses) {
  const std::string path = TempPath("ports");
  ASSERT_TRUE(WritePortFile(path, "127.0.0.1:1", "127.0.0.1:2").ok());
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), "grpc=127.0.0.1:1\nhttp=127.0.0.1:2\n");
  ASSERT_TRUE(WritePortFile(path, "127.0.0.1:3", "").ok());
  text.str("");
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), "grpc=127.0.0.1:3\n");
  std::remove(path.c_str());
  EXPECT_THAT(std::string(WritePortFile("/nonexistent/ports", "a", "").message()),
              HasSubstr("port_file is '/nonexistent/ports'; it cannot be written"));
}

// ---------------------------------------------------------------------------------
// models

TEST(ParametersTest, CountsEveryWeightOnce) {
  ModelConfig config{.num_layers = 2,
                     .hidden_size = 8,
                     .intermediate_size = 16,
                     .num_heads = 2,
                     .num_kv_heads = 1,
                     .head_dim = 4,
                     .vocab_size = 100,
                     .tie_embeddings = true};
  const int64_t layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 2 * 8;
  EXPECT_EQ(CountParameters(config), 800 + 2 * layer + 8);
  config.tie_embeddings = false;
  config.qkv_bias = true;
  config.qk_norm = true;
  EXPECT_EQ(CountParameters(config), 1600 + 2 * (layer + 16 + 8) + 8);
}

// ------------------------------------------------------------------------- schedule
// trace

class ScheduleTraceTest : public testing::Test {
 protected:
  ScheduleTraceTest()
      : log_(Log::Format::kJson, LogLevel::kInfo,
             [this](const std::string& line) { lines_.push_back(line); }) {}
  ~ScheduleTraceTest() override { std::remove(path_.c_str()); }

  std::vector<std::string> Written() const {
    std::ifstream file(path_);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }

  const std::string path_ = TempPath("schedule_trace");
  std::vector<std::string> lines_;
  Log log_;
  const ScheduleOptions options_{.kv = {.num_blocks = 8, .tokens_per_block = 64}};
};

TEST_F(ScheduleTraceTest, HoldsTheOptionsAndEveryDecision) {
  ScheduleState state{.now_ns = 7, .free_blocks = 8, .served_tokens = {0}};
  const StepPlan plan{.items = {{.id = RequestId{3}, .rows = 5, .blocks = 1}}};
  {
    const auto trace = ScheduleTrace::Open(path_, log_).value();
    trace->Add(options_, state, plan);
    state.now_ns = 9;
    trace->Add(options_, state, {});
  }
  const std::vector<std::string> written = Written();
  ASSERT_EQ(written.size(), 3u);
  EXPECT_EQ(written[0], FormatTraceOptions(options_));
  const TraceEntry first = ParseTraceEntry(written[1]).value();
  EXPECT_EQ(first.state.now_ns, 7);
  EXPECT_EQ(first.plan, plan);
  EXPECT_EQ(ParseTraceEntry(written[2])->state, state);
  EXPECT_TRUE(lines_.empty());
}

TEST_F(ScheduleTraceTest, EndsWithAWholeLineAndSaysSoOnce) {
  const ScheduleState state{.free_blocks = 8};
  const int64_t line = static_cast<int64_t>(FormatTraceEntry({state, {}}).size()) + 1;
  const int64_t head = static_cast<int64_t>(FormatTraceOptions(options_).size()) + 1;
  {
    const auto trace = ScheduleTrace::Open(path_, log_, head + 2 * line + 1).value();
    for (int i = 0; i < 5; ++i) trace->Add(options_, state, {});
  }
  EXPECT_EQ(Written().size(), 3u);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_THAT(lines_[0], HasSubstr("schedule_trace ended"));
  EXPECT_THAT(lines_[0], HasSubstr("\"reason\":\"max_bytes\""));
}

TEST_F(ScheduleTraceTest, AFileThatCannotBeWrittenIsRefused) {
  EXPECT_EQ(ScheduleTrace::Open("/nonexistent/trace", log_).status(),
            absl::InvalidArgumentError(
                "schedule_trace is '/nonexistent/trace'; it cannot be written"));
}

TEST(RegistryTest, RefusesNoModel) {
  EXPECT_EQ(ModelRegistry::Make({}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire::server
