#include "server/observability/connection_watch.h"

#include <sys/socket.h>

#include "absl/time/clock.h"

namespace quire::server {

ConnectionWatch::ConnectionWatch(absl::Duration limit)
    : limit_(limit), thread_([this] { Run(); }) {}

ConnectionWatch::~ConnectionWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  for (Entry* entry : entries_) delete entry;
}

ConnectionWatch::Entry* ConnectionWatch::Begin(int socket) {
  auto* entry = new Entry{.socket = socket, .since = absl::Now()};
  const std::lock_guard lock(mutex_);
  entries_.insert(entry);
  return entry;
}

void ConnectionWatch::OnAnswered(Entry* entry) {
  const std::lock_guard lock(mutex_);
  entry->since = absl::Now();
}

void ConnectionWatch::End(Entry* entry) {
  const std::lock_guard lock(mutex_);
  entries_.erase(entry);
  delete entry;
}

// Only shuts down: who owns the socket sees its end and closes it.
void ConnectionWatch::ShutDownLateLocked(absl::Time now) {
  for (Entry* entry : entries_) {
    if (now - entry->since > limit_) shutdown(entry->socket, SHUT_RDWR);
  }
}

void ConnectionWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, absl::ToChronoNanoseconds(limit_ / 4));
    ShutDownLateLocked(absl::Now());
  }
}

}  // namespace quire::server
