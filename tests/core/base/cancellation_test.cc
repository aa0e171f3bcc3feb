#include "core/base/cancellation.h"

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(CancellationTest, RunsEachCallbackOnceInOrder) {
  Cancellation cancellation;
  std::vector<int> ran;
  const auto first = cancellation.OnCancel([&] { ran.push_back(1); });
  const auto second = cancellation.OnCancel([&] { ran.push_back(2); });
  EXPECT_FALSE(cancellation.cancelled());
  cancellation.Cancel();
  cancellation.Cancel();
  EXPECT_TRUE(cancellation.cancelled());
  EXPECT_EQ(ran, (std::vector<int>{1, 2}));
}

TEST(CancellationTest, RunsAtOnceWhenAlreadyCancelled) {
  Cancellation cancellation;
  cancellation.Cancel();
  int ran = 0;
  const auto registration = cancellation.OnCancel([&] { ++ran; });
  EXPECT_EQ(ran, 1);
}

TEST(CancellationTest, DroppedRegistrationNeverRuns) {
  Cancellation cancellation;
  int ran = 0;
  {
    const auto registration = cancellation.OnCancel([&] { ++ran; });
  }
  cancellation.Cancel();
  EXPECT_EQ(ran, 0);
}

TEST(CancellationTest, MovingKeepsTheRegistrationAndAssigningDropsTheOld) {
  Cancellation cancellation;
  int kept = 0, replaced = 0;
  Cancellation::Registration a = cancellation.OnCancel([&] { ++replaced; });
  Cancellation::Registration b = cancellation.OnCancel([&] { ++kept; });
  a = std::move(b);
  Cancellation::Registration c(std::move(a));
  cancellation.Cancel();
  EXPECT_EQ(kept, 1);
  EXPECT_EQ(replaced, 0);
}

TEST(CancellationTest, RegistrationMayOutliveTheCancellation) {
  auto cancellation = std::make_unique<Cancellation>();
  int ran = 0;
  const auto registration = cancellation->OnCancel([&] { ++ran; });
  cancellation.reset();
  EXPECT_EQ(ran, 0);
}

TEST(CancellationTest, CallbackMayDropItsOwnAndOtherRegistrations) {
  Cancellation cancellation;
  int later_ran = 0;
  std::optional<Cancellation::Registration> self, later;
  self = cancellation.OnCancel([&] {
    later.reset();
    self.reset();
  });
  later = cancellation.OnCancel([&] { ++later_ran; });
  cancellation.Cancel();
  EXPECT_EQ(later_ran, 0);
}

TEST(CancellationTest, CallbackMayRegisterAndDestroyTheCancellation) {
  auto cancellation = std::make_unique<Cancellation>();
  int nested = 0;
  const auto registration = cancellation->OnCancel([&] {
    const auto inner = cancellation->OnCancel([&] { ++nested; });
    cancellation.reset();
  });
  cancellation->Cancel();
  EXPECT_EQ(nested, 1);
}

TEST(CancellationTest, DestructorWaitsForARunningCallback) {
  for (int round = 0; round < 200; ++round) {
    Cancellation cancellation;
    auto used_by_callback = std::make_unique<std::atomic<int>>(0);
    std::optional<Cancellation::Registration> registration =
        cancellation.OnCancel([state = used_by_callback.get()] {
          state->store(1);
          std::this_thread::yield();
          state->store(2);
        });
    std::thread canceller([&] { cancellation.Cancel(); });
    registration.reset();
    const int seen = used_by_callback->load();
    EXPECT_TRUE(seen == 0 || seen == 2) << seen;
    used_by_callback.reset();  // the sanitizers see a callback that still runs
    canceller.join();
  }
}

}  // namespace
}  // namespace quire
