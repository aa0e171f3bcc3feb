#include "server/page/request_log.h"

#include <algorithm>
#include <utility>

namespace quire::server {
namespace {

// Nothing was computed for it, and nobody waited for it.
bool WasRefused(const RequestRecord& record) {
  return record.code != absl::StatusCode::kOk && record.usage == Usage{} &&
         record.trace.points().empty();
}

// How many requests to the engine it made.
int64_t PassesOf(const RequestRecord& record) {
  const auto points = record.trace.points();
  return points.empty() ? 1 : points.back().pass;
}

int64_t SavingsOf(const RequestRecord& record) {
  return record.saved[0].requests + record.saved[1].requests;
}
int64_t ShadowsOf(const RequestRecord& record) {
  return record.shadow.has_value() ? record.shadow->requests : 0;
}

void AddTo(SavedTime& saved, const SavingsReport& report) {
  ++saved.requests;
  saved.own += report.own;
  saved.dense += report.dense;
  saved.usd += report.saved_usd;
}

void AddTo(std::optional<ShadowSum>& shadow, const ShadowResult& result) {
  if (!shadow.has_value()) shadow.emplace();
  const int64_t tokens = shadow->compared_tokens + result.compared_tokens;
  if (tokens > 0) {
    const double sum =
        shadow->logprob_abs_delta * static_cast<double>(shadow->compared_tokens) +
        result.logprob_abs_delta * static_cast<double>(result.compared_tokens);
    shadow->logprob_abs_delta = sum / static_cast<double>(tokens);
  }
  ++shadow->requests;
  shadow->own += result.own;
  shadow->dense += result.dense;
  shadow->compared_tokens = tokens;
  shadow->top1_mismatches += result.top1_mismatches;
}

template <typename Record, typename Matches>
Record* LastOf(std::deque<Record>& records, const Matches& matches) {
  const auto found = std::find_if(records.rbegin(), records.rend(), matches);
  return found == records.rend() ? nullptr : &*found;
}
template <typename Record, typename Matches>
const Record* LastOf(const std::deque<Record>& records, const Matches& matches) {
  const auto found = std::find_if(records.rbegin(), records.rend(), matches);
  return found == records.rend() ? nullptr : &*found;
}

std::optional<RequestRecord> Later(const RequestRecord* a, const RequestRecord* b) {
  if (a == nullptr) std::swap(a, b);
  if (a == nullptr) return std::nullopt;
  return b != nullptr && b->number > a->number ? *b : *a;
}

}  // namespace

void RequestLog::Add(RequestRecord record) {
  if (record.head_columns.size() > kMaxHeads) record.head_columns.clear();
  const std::lock_guard lock(mutex_);
  record.number = ++last_number_;
  record.version = ++version_;
  TakeEarly(record);
  const bool refused = WasRefused(record);
  std::deque<RequestRecord>& records = refused ? refused_ : answered_;
  records.push_back(std::move(record));
  if (records.size() > (refused ? kMaxRefused : kMaxAnswered)) records.pop_front();
}

void RequestLog::TakeEarly(RequestRecord& record) {
  const auto found = std::find_if(early_.begin(), early_.end(),
                                  [&](const Early& e) { return e.id == record.id; });
  if (found == early_.end()) return;
  record.saved = found->saved;
  record.shadow = found->shadow;
  early_.erase(found);
}

RequestRecord* RequestLog::Newest(absl::string_view id) {
  return LastOf(answered_, [&](const RequestRecord& record) { return record.id == id; });
}

RequestLog::Early& RequestLog::EarlyOf(const std::string& id) {
  Early* early = LastOf(early_, [&](const Early& e) { return e.id == id; });
  if (early != nullptr) return *early;
  if (early_.size() == kMaxEarly) early_.pop_front();
  early_.push_back({.id = id, .saved = {}, .shadow = std::nullopt});
  return early_.back();
}

// A modelled saving comes before its call's end, a measured one after it. Clients may use
// an id again: what a record cannot have is of a call that is still in work.
void RequestLog::OnSavings(const SavingsReport& report) {
  if (report.call_id.empty()) return;
  const auto basis = static_cast<size_t>(report.basis);
  const std::lock_guard lock(mutex_);
  RequestRecord* record = Newest(report.call_id);
  if (record == nullptr || SavingsOf(*record) >= PassesOf(*record)) {
    return AddTo(EarlyOf(report.call_id).saved[basis], report);
  }
  AddTo(record->saved[basis], report);
  record->version = ++version_;
}

void RequestLog::OnShadow(const ShadowResult& result) {
  if (result.call_id.empty()) return;
  const std::lock_guard lock(mutex_);
  RequestRecord* record = Newest(result.call_id);
  if (record == nullptr || ShadowsOf(*record) >= PassesOf(*record)) {
    return AddTo(EarlyOf(result.call_id).shadow, result);
  }
  AddTo(record->shadow, result);
  record->version = ++version_;
}

int64_t RequestLog::version() const {
  const std::lock_guard lock(mutex_);
  return version_;
}

std::vector<RequestRecord> RequestLog::Changed(int64_t version, size_t limit) const {
  std::vector<RequestRecord> changed;
  {
    const std::lock_guard lock(mutex_);
    for (const auto* records : {&answered_, &refused_}) {
      std::copy_if(records->begin(), records->end(), std::back_inserter(changed),
                   [&](const RequestRecord& record) { return record.version > version; });
    }
  }
  std::sort(changed.begin(), changed.end(),
            [](const auto& a, const auto& b) { return a.number > b.number; });
  if (changed.size() > limit) changed.resize(limit);
  return changed;
}

std::optional<RequestRecord> RequestLog::Find(absl::string_view id) const {
  const auto matches = [&](const RequestRecord& record) { return record.id == id; };
  const std::lock_guard lock(mutex_);
  return Later(LastOf(answered_, matches), LastOf(refused_, matches));
}

std::optional<RequestRecord> RequestLog::FindNumber(int64_t number) const {
  const auto matches = [&](const RequestRecord& record) {
    return record.number == number;
  };
  const std::lock_guard lock(mutex_);
  return Later(LastOf(answered_, matches), LastOf(refused_, matches));
}

}  // namespace quire::server
