#include "core/engine/request_stream.h"

#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <utility>

#include "core/base/check.h"

namespace quire {

// Shared by the engine's sink and the reader, whichever lives longer.
struct RequestStream::Channel {
  class Sink;

  std::mutex mutex;  // guards all below
  std::condition_variable changed;
  std::deque<RequestEvent> events;
  bool finished = false;  // Finished was pushed
  bool sleeping = false;  // the reader wants to hear of Finished only

  void Push(RequestEvent event) {
    std::lock_guard lock(mutex);
    finished = std::holds_alternative<Finished>(event);
    const bool merge = std::holds_alternative<PrefillProgress>(event) &&
                       !events.empty() &&
                       std::holds_alternative<PrefillProgress>(events.back());
    if (merge) events.pop_back();
    events.push_back(std::move(event));
    if (finished || !sleeping) changed.notify_all();
  }
};

class RequestStream::Channel::Sink final : public RequestSink {
 public:
  explicit Sink(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
  void OnProgress(int64_t done_tokens, int64_t total_tokens) override {
    channel_->Push(PrefillProgress{done_tokens, total_tokens});
  }
  void OnToken(const TokenScore& token) override { channel_->Push(token); }
  void OnScores(std::vector<TokenScore> scores) override {
    channel_->Push(std::move(scores));
  }
  void OnImportance(std::vector<float> importance) override {
    channel_->Push(TokenImportance{std::move(importance)});
  }
  void OnFinished(const Finished& finished) override { channel_->Push(finished); }

 private:
  const std::shared_ptr<Channel> channel_;
};

absl::StatusOr<std::unique_ptr<RequestStream>> RequestStream::Open(
    Engine& engine, EngineRequest request, Cancellation* cancellation) {
  auto channel = std::make_shared<Channel>();
  absl::StatusOr<RequestId> id =
      engine.Submit(std::move(request), std::make_unique<Channel::Sink>(channel));
  if (!id.ok()) return id.status();
  std::unique_ptr<RequestStream> stream(new RequestStream(engine, std::move(channel)));
  stream->id_ = *id;
  if (cancellation != nullptr) {
    stream->on_cancel_ =
        cancellation->OnCancel([&engine, id = *id] { engine.Cancel(id); });
  }
  return stream;
}

RequestStream::RequestStream(Engine& engine, std::shared_ptr<Channel> channel)
    : engine_(engine), channel_(std::move(channel)) {}

RequestStream::~RequestStream() {
  engine_.Cancel(id_);
  std::unique_lock lock(channel_->mutex);
  channel_->changed.wait(lock, [this] { return channel_->finished; });
}

RequestEvent RequestStream::Next() {
  std::unique_lock lock(channel_->mutex);
  QUIRE_CHECK(!channel_->finished || !channel_->events.empty());
  channel_->changed.wait(lock, [this] { return !channel_->events.empty(); });
  RequestEvent event = std::move(channel_->events.front());
  channel_->events.pop_front();
  return event;
}

std::vector<RequestEvent> RequestStream::NextAll(absl::Duration pause) {
  std::unique_lock lock(channel_->mutex);
  QUIRE_CHECK(!channel_->finished || !channel_->events.empty());
  if (pause > absl::ZeroDuration()) {
    channel_->sleeping = true;
    channel_->changed.wait_for(lock, absl::ToChronoNanoseconds(pause),
                               [this] { return channel_->finished; });
    channel_->sleeping = false;
  }
  channel_->changed.wait(lock, [this] { return !channel_->events.empty(); });
  std::vector<RequestEvent> all(std::make_move_iterator(channel_->events.begin()),
                                std::make_move_iterator(channel_->events.end()));
  channel_->events.clear();
  return all;
}

}  // namespace quire
