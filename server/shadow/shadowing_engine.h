#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/base/clock.h"
#include "core/engine/engine.h"
#include "server/shadow/savings.h"

namespace quire::server {

struct ShadowOptions {
  double share = 0.01;                       // of the requests that read sparsely, [0, 1]
  absl::Duration budget = absl::Seconds(6);  // device time a minute
  double price_per_device_hour = 0;          // USD; 0: not set
  uint64_t seed = 0;                         // of the choice
};

// An engine that measures what it saves: the requests of the engine behind it are as they
// would be without, but for DeviceTime's dense times, which are corrected by what was
// measured; a share of them is computed again with dense attention when nobody has
// anything to compute. Each request's savings are reported before its sink hears of its
// end, or once they are measured. Thread-safe, as every engine.
//
// Measured are requests to the engine, of which a call may make several; not those that
// end with an error or are broken off, as by a stop string. Those that are broken off
// while they answer are accounted for by the model.
//
// observer and clock must outlive it.
std::unique_ptr<Engine> MakeShadowingEngine(std::unique_ptr<Engine> engine,
                                            const KvGeometry& kv,
                                            const ShadowOptions& options,
                                            SavingsObserver& observer,
                                            const Clock& clock);

}  // namespace quire::server
