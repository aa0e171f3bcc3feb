#pragma once

#include <functional>
#include <memory>

namespace quire {

// One request's "stop now", shared by the thread that decides (a client went away, a
// deadline passed, the server drains) and those that work. Thread-safe.
class Cancellation {
 public:
  Cancellation();
  ~Cancellation();
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  // Idempotent. Runs the registered callbacks on this thread, each once.
  void Cancel();
  bool cancelled() const;

  // Keeps a callback registered while it lives; its destructor waits for a running
  // callback (unless called from that callback), so what the callback uses may be
  // destroyed after it.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&&) noexcept;
    Registration& operator=(Registration&&) noexcept;
    ~Registration();

   private:
    friend class Cancellation;
    struct Entry;
    explicit Registration(std::shared_ptr<Entry> entry);
    std::shared_ptr<Entry> entry_;
  };
  // Runs the callback at once, on this thread, when already cancelled.
  Registration OnCancel(std::function<void()> callback);

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace quire
