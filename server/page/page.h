#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "prometheus/collectable.h"
#include "server/page/api.h"
#include "server/page/history.h"
#include "server/page/request_log.h"

namespace quire::server {

// The page at "/" of the HTTP port: savings, quality, latency and load of this server,
// and one page for each of the last requests. Takes a sample of the metrics each second,
// on a thread of its own. Thread-safe.
class Page {
 public:
  // All must outlive this.
  Page(const PageOptions& options, std::vector<const prometheus::Collectable*> sources,
       const ServingState& state, const RequestLog& requests);
  ~Page();

  // Valid as long as this.
  std::vector<HttpRoute> Routes() const;

 private:
  void Run();

  const std::vector<const prometheus::Collectable*> sources_;
  History history_;
  const Api api_;
  std::mutex mutex_;  // guards stopping_
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread sampler_;  // last: it uses all of the above
};

}  // namespace quire::server
