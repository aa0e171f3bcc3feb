#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quire::server {

// Threads that run handlers, so that gRPC's own never block. Bounded: at most
// `max_threads` tasks run (threads are started when first needed) and at most
// `max_queued` wait. Thread-safe; has its own lock.
class WorkerPool {
 public:
  WorkerPool(int max_threads, int max_queued);
  // Runs what is queued, then joins.
  ~WorkerPool();

  // False: full, the task was not taken. Never blocks.
  bool TryRun(std::function<void()> task);

  int max_tasks() const { return max_threads_ + max_queued_; }

 private:
  void Work();

  const int max_threads_;
  const int max_queued_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  int busy_ = 0;  // threads that run a task
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace quire::server
