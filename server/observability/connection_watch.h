#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "absl/time/time.h"

namespace quire::server {

// Ends connections whose request takes too long, which an idle timeout does not do to
// clients that send or take a byte now and then. Thread-safe; has a thread of its own.
class ConnectionWatch {
 public:
  // From the connection's begin, or the end of its last answer, until the next answer is
  // sent. Judged once in a quarter of it.
  explicit ConnectionWatch(absl::Duration limit);
  ~ConnectionWatch();

  struct Entry {
    int socket;
    absl::Time since;
  };
  // Valid until End, which must come before the socket is closed.
  Entry* Begin(int socket);
  void OnAnswered(Entry* entry);
  void End(Entry* entry);

 private:
  void Run();
  void ShutDownLateLocked(absl::Time now);

  const absl::Duration limit_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::unordered_set<Entry*> entries_;  // owned
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace quire::server
