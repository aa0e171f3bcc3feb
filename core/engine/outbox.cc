#include "core/engine/outbox.h"

#include <iterator>
#include <utility>

#include "core/base/check.h"

namespace quire {

Outbox::Outbox() : thread_([this] { Run(); }) {}

Outbox::~Outbox() {
  Flush();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void Outbox::Add(RequestSink& sink, Event event) {
  written_.push_back({.sink = &sink, .event = std::move(event)});
}

void Outbox::AddLast(std::unique_ptr<RequestSink> sink, Finished finished,
                     std::function<void()> after) {
  auto last = std::make_unique<Last>();
  last->sink = std::move(sink);
  last->finished = std::move(finished);
  last->after = std::move(after);
  written_.push_back({.last = std::move(last)});
}

void Outbox::Flush() {
  if (written_.empty()) return;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return pending_.size() <= kMaxPending; });
  if (pending_.empty()) {
    pending_.swap(written_);
  } else {
    pending_.insert(pending_.end(), std::make_move_iterator(written_.begin()),
                    std::make_move_iterator(written_.end()));
  }
  written_.clear();
  changed_.notify_all();
}

void Outbox::Run() {
  std::vector<Letter> letters;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !pending_.empty(); });
    if (pending_.empty()) return;
    letters.swap(pending_);
    changed_.notify_all();
    lock.unlock();
    for (Letter& letter : letters) Deliver(letter);
    letters.clear();
    lock.lock();
  }
}

void Outbox::Deliver(Letter& letter) {
  if (letter.last != nullptr) {
    letter.last->sink->OnFinished(letter.last->finished);
    letter.last->sink.reset();
    if (letter.last->after) letter.last->after();
    return;
  }
  RequestSink& sink = *letter.sink;
  if (auto* progress = std::get_if<PrefillProgress>(&letter.event)) {
    sink.OnProgress(progress->done_tokens, progress->total_tokens);
  } else if (auto* token = std::get_if<TokenScore>(&letter.event)) {
    sink.OnToken(*token);
  } else if (auto* scores = std::get_if<std::vector<TokenScore>>(&letter.event)) {
    sink.OnScores(std::move(*scores));
  } else {
    sink.OnImportance(std::move(std::get<TokenImportance>(letter.event).values));
  }
}

void OutboxSink::OnProgress(int64_t done_tokens, int64_t total_tokens) {
  outbox_.Add(sink_, PrefillProgress{done_tokens, total_tokens});
}
void OutboxSink::OnToken(const TokenScore& token) { outbox_.Add(sink_, token); }
void OutboxSink::OnScores(std::vector<TokenScore> scores) {
  outbox_.Add(sink_, std::move(scores));
}
void OutboxSink::OnImportance(std::vector<float> importance) {
  outbox_.Add(sink_, TokenImportance{std::move(importance)});
}
void OutboxSink::OnFinished(const Finished&) { QUIRE_CHECK(false); }

}  // namespace quire
