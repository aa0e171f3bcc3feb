#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "core/engine/request.h"

namespace quire {

struct PrefillProgress {
  int64_t done_tokens = 0;
  int64_t total_tokens = 0;
};
struct TokenImportance {
  std::vector<float> values;  // see RequestSink::OnImportance
};
// One call of a sink, as a value.
using RequestEvent = std::variant<PrefillProgress, TokenScore, std::vector<TokenScore>,
                                  TokenImportance, Finished>;

// Hands events to sinks on a thread of its own, so that waking the readers of a step's
// tokens does not keep the engine thread from the next step. One writer; the destructor
// delivers what is left and joins.
class Outbox {
 public:
  Outbox();
  ~Outbox();

  // The sink must live until its last event is delivered. Not delivered before Flush.
  using Event =
      std::variant<PrefillProgress, TokenScore, std::vector<TokenScore>, TokenImportance>;
  void Add(RequestSink& sink, Event event);
  // The sink's last event; then the sink is destroyed and `after` is called.
  void AddLast(std::unique_ptr<RequestSink> sink, Finished finished,
               std::function<void()> after);
  // Once a step: one lock and one wake-up for all of its events. Waits while more than
  // kMaxPending events are undelivered.
  void Flush();

  static constexpr size_t kMaxPending = 1 << 16;

 private:
  // Of a sink's last event; apart, so that the letters of tokens stay small.
  struct Last {
    std::unique_ptr<RequestSink> sink;
    Finished finished;
    std::function<void()> after;
  };
  struct Letter {
    RequestSink* sink = nullptr;
    Event event;
    std::unique_ptr<Last> last;  // if set, instead of the event
  };
  void Run();
  static void Deliver(Letter& letter);

  std::vector<Letter> written_;  // the writer's
  std::mutex mutex_;             // guards all below
  std::condition_variable changed_;
  std::vector<Letter> pending_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

// A sink that writes to an outbox in the name of another.
class OutboxSink final : public RequestSink {
 public:
  OutboxSink(Outbox& outbox, RequestSink& sink) : outbox_(outbox), sink_(sink) {}
  void OnProgress(int64_t done_tokens, int64_t total_tokens) override;
  void OnToken(const TokenScore& token) override;
  void OnScores(std::vector<TokenScore> scores) override;
  void OnImportance(std::vector<float> importance) override;
  // The end is the engine's to tell, with AddLast.
  void OnFinished(const Finished& finished) override;

 private:
  Outbox& outbox_;
  RequestSink& sink_;
};

}  // namespace quire
