#include "core/base/cancellation.h"

#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

namespace quire {

// std::mutex, here and wherever threads meet: Debian's Abseil is built without
// ThreadSanitizer, which therefore cannot see what absl::Mutex orders.
struct Cancellation::Rep {
  std::mutex mutex;
  std::condition_variable callback_done;
  bool cancelled = false;  // guarded by mutex, as all below
  std::list<std::shared_ptr<Registration::Entry>> waiting;
  const Registration::Entry* running = nullptr;
  std::thread::id runner;  // thread of `running`
};

struct Cancellation::Registration::Entry {
  std::shared_ptr<Rep> rep;
  std::function<void()> callback;

  // After this the callback neither runs nor will run, unless this is called from within
  // it.
  void Detach() {
    std::unique_lock lock(rep->mutex);
    rep->waiting.remove_if([this](const auto& entry) { return entry.get() == this; });
    if (rep->runner == std::this_thread::get_id()) return;
    rep->callback_done.wait(lock, [this] { return rep->running != this; });
  }
};

Cancellation::Cancellation() : rep_(std::make_shared<Rep>()) {}
Cancellation::~Cancellation() = default;

void Cancellation::Cancel() {
  const std::shared_ptr<Rep> rep = rep_;  // a callback may destroy *this
  std::unique_lock lock(rep->mutex);
  if (std::exchange(rep->cancelled, true)) return;
  rep->runner = std::this_thread::get_id();
  while (!rep->waiting.empty()) {
    const std::shared_ptr<Registration::Entry> entry = std::move(rep->waiting.front());
    rep->waiting.pop_front();
    rep->running = entry.get();
    lock.unlock();
    entry->callback();
    lock.lock();
    rep->running = nullptr;
    rep->callback_done.notify_all();
  }
  rep->runner = {};
}

bool Cancellation::cancelled() const {
  std::lock_guard lock(rep_->mutex);
  return rep_->cancelled;
}

Cancellation::Registration Cancellation::OnCancel(std::function<void()> callback) {
  {
    std::lock_guard lock(rep_->mutex);
    if (!rep_->cancelled) {
      auto entry = std::make_shared<Registration::Entry>();
      entry->rep = rep_;
      entry->callback = std::move(callback);
      rep_->waiting.push_back(entry);
      return Registration(std::move(entry));
    }
  }
  callback();
  return {};
}

Cancellation::Registration::Registration(std::shared_ptr<Entry> entry)
    : entry_(std::move(entry)) {}

Cancellation::Registration::Registration(Registration&&) noexcept = default;

Cancellation::Registration& Cancellation::Registration::operator=(
    Registration&& other) noexcept {
  Registration moved(std::move(other));
  std::swap(entry_, moved.entry_);  // what was registered here ends with `moved`
  return *this;
}

Cancellation::Registration::~Registration() {
  if (entry_ != nullptr) entry_->Detach();
}

}  // namespace quire
