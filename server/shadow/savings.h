#pragma once

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "core/dga/attention_options.h"
#include "core/engine/request.h"
#include "server/observability/savings_report.h"

namespace quire::server {

// Tells several observers, which must outlive it. Thread-safe, as they are.
class SavingsTee final : public SavingsObserver {
 public:
  explicit SavingsTee(std::vector<SavingsObserver*> observers)
      : observers_(std::move(observers)) {}
  void OnSavings(const SavingsReport& report) override {
    for (SavingsObserver* observer : observers_) observer->OnSavings(report);
  }
  void OnShadow(const ShadowResult& result) override {
    for (SavingsObserver* observer : observers_) observer->OnShadow(result);
  }
  void OnShadowSkipped(ShadowSkip reason) override {
    for (SavingsObserver* observer : observers_) observer->OnShadowSkipped(reason);
  }

 private:
  const std::vector<SavingsObserver*> observers_;
};

// The price of device time, and how far the model of dense attention's time is off.
// Thread-safe.
class SavingsModel {
 public:
  // USD; 0: not set.
  explicit SavingsModel(double price_per_device_hour)
      : price_per_hour_(price_per_device_hour) {}

  // The modelled times of a request's dense attention, corrected. Of a request that read
  // everything they are its own.
  void Correct(AttentionMode mode, DeviceTime& device) const;
  // What the model (uncorrected) had said, and what came of it.
  void Learn(absl::Duration modelled, absl::Duration measured);

  double UsdOf(absl::Duration device_time) const {
    return absl::ToDoubleHours(device_time) * price_per_hour_;
  }

 private:
  const double price_per_hour_;
  mutable std::mutex mutex_;   // guards all below
  double log_correction_ = 0;  // ln of the factor on modelled times
  int64_t learned_ = 0;
};

}  // namespace quire::server
