#include "server/rpc/worker_pool.h"

#include <utility>

namespace quire::server {

WorkerPool::WorkerPool(int max_threads, int max_queued)
    : max_threads_(max_threads), max_queued_(max_queued) {}

WorkerPool::~WorkerPool() {
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
    changed_.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
}

bool WorkerPool::TryRun(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  const int in_work = busy_ + static_cast<int>(queue_.size());
  if (stopping_ || in_work >= max_threads_ + max_queued_) return false;
  queue_.push_back(std::move(task));
  const int started = static_cast<int>(threads_.size());
  if (in_work >= started && started < max_threads_) {
    threads_.emplace_back([this] { Work(); });
  }
  changed_.notify_one();
  return true;
}

void WorkerPool::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::function<void()> task = std::move(queue_.front());
    queue_.pop_front();
    ++busy_;
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes before the thread counts as free
    lock.lock();
    --busy_;
  }
}

}  // namespace quire::server
