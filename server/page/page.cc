#include "server/page/page.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "server/page/assets.h"
#include "server/page/series.h"

namespace quire::server {

Page::Page(const PageOptions& options,
           std::vector<const prometheus::Collectable*> sources, const ServingState& state,
           const RequestLog& requests)
    : sources_(std::move(sources)),
      api_(options, state, history_, requests),
      sampler_([this] { Run(); }) {}

Page::~Page() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  sampler_.join();
}

std::vector<HttpRoute> Page::Routes() const {
  std::vector<HttpRoute> routes = AssetRoutes(EmbeddedAssets());
  routes.push_back(api_.Route());
  return routes;
}

void Page::Run() {
  auto next = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    history_.Add(absl::Now(), TakeSample(sources_));
    lock.lock();
    next += std::chrono::seconds(1);
    changed_.wait_until(lock, next, [this] { return stopping_; });
  }
}

}  // namespace quire::server
