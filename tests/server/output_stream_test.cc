#include "server/rpc/output_stream.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace quire::server {
namespace {

// A client under the test's control: a write is done when the test says so.
class FakeTransport final : public StreamTransport {
 public:
  void StartWrite(const grpc::ByteBuffer* message) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(in_flight_) << "two writes in flight";
    EXPECT_FALSE(finished_.has_value()) << "a write after the end";
    in_flight_ = true;
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(message->Dump(&slices).ok());
    written_.emplace_back(reinterpret_cast<const char*>(slices[0].begin()),
                          slices[0].size());
    changed_.notify_all();
  }
  void Finish(const grpc::Status& status, bool reader_stalled) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(finished_.has_value()) << "finished twice";
    finished_ = status;
    stalled_ = reader_stalled;
  }

  void CompleteWrite(OutputStream& stream, bool ok = true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return in_flight_; });
      in_flight_ = false;
    }
    stream.OnWriteDone(ok);
  }
  std::vector<std::string> written() const {
    std::lock_guard lock(mutex_);
    return written_;
  }
  const grpc::Status& finished() const { return *finished_; }
  bool stalled() const { return stalled_; }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool in_flight_ = false;
  std::vector<std::string> written_;
  std::optional<grpc::Status> finished_;
  bool stalled_ = false;
};

grpc::ByteBuffer Event(const std::string& text) {
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

constexpr absl::Duration kNever = absl::Minutes(5);
constexpr absl::Duration kShort = absl::Milliseconds(30);

TEST(OutputStreamTest, WritesInOrderWithOneInFlight) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 2, .write_stall = kNever});
  for (const char* text : {"a", "b", "c"}) ASSERT_TRUE(stream.Write(Event(text)).ok());
  EXPECT_EQ(transport.written(), std::vector<std::string>{"a"});
  transport.CompleteWrite(stream);
  EXPECT_EQ(transport.written(), (std::vector<std::string>{"a", "b"}));
  transport.CompleteWrite(stream);
  transport.CompleteWrite(stream);
  const absl::Status end = stream.Flush(absl::OkStatus());
  stream.Finish(end);
  EXPECT_EQ(transport.written(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_TRUE(transport.finished().ok());
  EXPECT_FALSE(transport.stalled());
}

TEST(OutputStreamTest, AFullQueueHoldsTheHandler) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 1, .write_stall = kNever});
  ASSERT_TRUE(stream.Write(Event("a")).ok());
  ASSERT_TRUE(stream.Write(Event("b")).ok());
  std::thread client([&] {
    absl::SleepFor(kShort);
    transport.CompleteWrite(stream);
  });
  ASSERT_TRUE(stream.Write(Event("c")).ok());  // until the client took one
  EXPECT_EQ(transport.written(), (std::vector<std::string>{"a", "b"}));
  client.join();
}

TEST(OutputStreamTest, FlushWaitsForTheLastEvent) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 4, .write_stall = kNever});
  ASSERT_TRUE(stream.Write(Event("a")).ok());
  ASSERT_TRUE(stream.Write(Event("b")).ok());
  std::thread client([&] {
    transport.CompleteWrite(stream);
    transport.CompleteWrite(stream);
  });
  EXPECT_EQ(stream.Flush(absl::InternalError("x")), absl::InternalError("x"));
  EXPECT_EQ(transport.written().size(), 2);
  client.join();
}

TEST(OutputStreamTest, EndCancelsAndTheFirstReasonWins) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 1, .write_stall = kNever});
  ASSERT_TRUE(stream.Write(Event("a")).ok());
  ASSERT_TRUE(stream.Write(Event("b")).ok());
  std::thread server([&] {
    absl::SleepFor(kShort);
    stream.End(absl::UnavailableError("drain"));
    stream.End(absl::CancelledError("late"));
  });
  EXPECT_EQ(stream.Write(Event("c")), absl::UnavailableError("drain"));  // was waiting
  server.join();
  EXPECT_TRUE(stream.cancellation().cancelled());
  const absl::Status end = stream.Flush(absl::OkStatus());
  EXPECT_EQ(end, absl::UnavailableError("drain"));
  stream.Finish(end);
  EXPECT_EQ(transport.finished().error_code(), grpc::UNAVAILABLE);
  EXPECT_FALSE(transport.stalled());
  // The write in flight comes back after the end: nothing more is written.
  transport.CompleteWrite(stream, false);
  EXPECT_EQ(transport.written(), std::vector<std::string>{"a"});
}

TEST(OutputStreamTest, AFailedWriteMeansThatTheClientIsGone) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 4, .write_stall = kNever});
  ASSERT_TRUE(stream.Write(Event("a")).ok());
  transport.CompleteWrite(stream, false);
  EXPECT_TRUE(stream.cancellation().cancelled());
  EXPECT_EQ(stream.Write(Event("b")).code(), absl::StatusCode::kCancelled);
}

TEST(OutputStreamTest, AReaderThatStallsIsLeft) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 1, .write_stall = kShort});
  ASSERT_TRUE(stream.Write(Event("a")).ok());
  ASSERT_TRUE(stream.Write(Event("b")).ok());
  const absl::Time start = absl::Now();
  const absl::Status stalled = stream.Write(Event("c"));
  EXPECT_EQ(stalled.code(), absl::StatusCode::kAborted);
  EXPECT_GE(absl::Now() - start, kShort / 2);
  EXPECT_TRUE(stream.cancellation().cancelled());
  EXPECT_EQ(stream.Flush(stalled), stalled);
  stream.Finish(stalled);
  EXPECT_TRUE(transport.stalled());
  EXPECT_EQ(transport.finished().error_code(), grpc::ABORTED);
}

TEST(OutputStreamTest, AStallIsNoticedAtTheNextEventThoughTheQueueHasRoom) {
  FakeTransport transport;
  OutputStream stream(transport, {.max_queued = 100, .write_stall = kShort});
  ASSERT_TRUE(stream.Write(Event("a")).ok());
  absl::SleepFor(2 * kShort);
  EXPECT_EQ(stream.Write(Event("b")).code(), absl::StatusCode::kAborted);
}

TEST(OutputStreamTest, ASlowButSteadyReaderIsKept) {
  FakeTransport transport;
  OutputStream stream(transport,
                      {.max_queued = 1, .write_stall = absl::Milliseconds(200)});
  std::thread client([&] {
    for (int i = 0; i < 10; ++i) {
      absl::SleepFor(absl::Milliseconds(30));  // 300 ms in all
      transport.CompleteWrite(stream);
    }
  });
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(stream.Write(Event("x")).ok());
  EXPECT_TRUE(stream.Flush(absl::OkStatus()).ok());
  client.join();
}

}  // namespace
}  // namespace quire::server
