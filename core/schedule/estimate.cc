#include "core/schedule/estimate.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <queue>
#include <vector>

#include "core/schedule/order.h"
#include "core/schedule/request.h"

namespace quire {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

// What reading the rest of a prompt adds to steps that are made anyway.
double WorkNs(const StepCost& cost, const ScheduledRequest& request) {
  StepFeatures features = FeaturesOf(RowsOf(request, TokensLeft(request)));
  features.steps = 0;
  return static_cast<double>(cost.Nanoseconds(features));
}

// Blocks that come free at its end; where they were not counted, as if none were shared.
int64_t GivenBack(const ScheduledRequest& running) {
  return running.freed_blocks > 0 ? running.freed_blocks : running.held_blocks;
}

int64_t ToNs(double ns) {
  return ns < 9e18 ? std::llround(ns) : std::numeric_limits<int64_t>::max();
}

// Steps in the large: rows and time flow, requests come and go at events. Between two
// events each step is like the other.
class Fluid {
 public:
  Fluid(const ScheduleOptions& options, const ScheduleState& state,
        const ScheduledRequest& target, int32_t expected_percent)
      : options_(options),
        cost_(state.cost),
        target_(target),
        percent_(expected_percent),
        free_(state.free_blocks) {
    AddRunning(state);
    AddWaiting(state);
  }

  TimeEstimate Run() {
    while (!over_) {
      Start();
      if (!Advance()) break;
      EndDecodes();
      for (Prompts* kind : {&short_, &long_}) FinishPrompts(*kind);
    }
    return {.first_token_ns = ToNs(first_token_ns_), .end_ns = ToNs(end_ns_)};
  }

 private:
  struct Prompt {
    const ScheduledRequest* request;
    double rows;
    double ns;      // that they cost
    int64_t place;  // in the order
    double blocks;  // that it takes when it starts, or gives back
  };
  struct Prompts {
    std::deque<Prompt> waiting;  // in order
    std::deque<Prompt> begun;    // the first is read
    double rows_per_step = 0;    // that the first gets now
    double Price() const { return begun.front().ns / begun.front().rows; }
  };
  struct Decode {
    double end_step;
    double columns;  // that it sees in step 0; it sees one more in each
    double blocks;   // that it would have had in step 0
    bool sparse, grows, target;
    bool operator>(const Decode& other) const { return end_step > other.end_step; }
  };

  void AddRunning(const ScheduleState& state);
  void AddWaiting(const ScheduleState& state);
  Prompts& KindOf(const ScheduledRequest& request) {
    return IsLong(options_, request) ? long_ : short_;
  }
  Prompt PromptOf(const ScheduledRequest& request) const;
  double AnswerLeft(const ScheduledRequest& request) const;

  void Start();
  Prompts* NextKind();
  bool Startable(const Prompt& prompt) const;
  bool Advance();
  double DecodeNs(double step) const;
  void SetRates(double decode_ns);
  double RowsOfStep(const Prompts& kind, double share, double decode_ns) const;
  void FinishPrompts(Prompts& kind);
  void FinishPrompt(const Prompt& prompt);
  void End(bool is_target, double blocks, double now_ns);
  void BeginDecode(const ScheduledRequest& request, double steps, double blocks);
  void EndDecodes();
  void Count(const Decode& decode, double sign);
  double RestOfStepNs() const;

  const ScheduleOptions& options_;
  const StepCost& cost_;
  const ScheduledRequest& target_;
  const int32_t percent_;

  double step_ = 0, now_ns_ = 0;
  double step_ns_ = 0;  // of one step, now
  double free_;         // blocks
  int32_t running_ = 0;
  Prompts short_, long_;
  std::priority_queue<Decode, std::vector<Decode>, std::greater<>> decodes_;
  // Sums over decodes_: see Decode.
  double dense_ = 0, dense_columns_ = 0, sparse_ = 0, sparse_columns_ = 0, growing_ = 0;

  bool over_ = false;
  double first_token_ns_ = 0, end_ns_ = 0;
};

Fluid::Prompt Fluid::PromptOf(const ScheduledRequest& request) const {
  const int64_t start = BlocksToStart(options_.kv, request) - request.shared_blocks;
  return {.request = &request,
          .rows = static_cast<double>(std::max(int64_t{1}, TokensLeft(request))),
          .ns = WorkNs(cost_, request),
          .blocks = static_cast<double>(request.running ? GivenBack(request) : start)};
}

// The tokens that are to be chosen yet; the last one never is in the cache.
double Fluid::AnswerLeft(const ScheduledRequest& request) const {
  if (!request.samples) return 0;
  const double most = static_cast<double>(request.max_tokens + 1 - request.known_tokens);
  return std::max(1.0, std::round(most * percent_ / 100));
}

void Fluid::AddRunning(const ScheduleState& state) {
  Line line(options_, state.now_ns, state.served_tokens);
  for (const ScheduledRequest& request : state.requests) {
    if (!request.running) continue;
    ++running_;
    if (Decodes(request)) {
      BeginDecode(request, AnswerLeft(request), static_cast<double>(GivenBack(request)));
    } else {
      line.Add(request);
    }
  }
  line.Close();
  while (!line.empty()) {
    const ScheduledRequest& request = line.TakeFront();
    KindOf(request).begun.push_back(PromptOf(request));
  }
}

void Fluid::AddWaiting(const ScheduleState& state) {
  std::vector<int64_t> served = state.served_tokens;
  served.resize(std::max(served.size(), size_t{target_.tenant} + 1));  // it may be new
  Line line(options_, state.now_ns, served);
  for (const ScheduledRequest& request : state.requests) {
    if (!request.running && request.id != target_.id) line.Add(request);
  }
  line.Add(target_);
  line.Close();
  for (int64_t place = 0; !line.empty(); ++place) {
    const ScheduledRequest& request = line.TakeFront();
    served[request.tenant] += TokensLeft(request);
    Prompt prompt = PromptOf(request);
    prompt.place = place;
    KindOf(request).waiting.push_back(prompt);
  }
}

// One prompt of each kind is read at a time: what is read with it comes out the same.
void Fluid::Start() {
  for (Prompts* kind = NextKind(); kind != nullptr; kind = NextKind()) {
    const Prompt& prompt = kind->waiting.front();
    if (!Startable(prompt)) return;
    free_ -= prompt.blocks;
    ++running_;
    kind->begun.push_back(prompt);
    kind->waiting.pop_front();
  }
}

Fluid::Prompts* Fluid::NextKind() {
  Prompts* next = nullptr;
  for (Prompts* kind : {&short_, &long_}) {
    if (!kind->begun.empty() || kind->waiting.empty()) continue;
    if (next == nullptr || kind->waiting.front().place < next->waiting.front().place) {
      next = kind;
    }
  }
  return next;
}

bool Fluid::Startable(const Prompt& prompt) const {
  if (running_ == 0) return true;
  return running_ < options_.max_running &&
         prompt.blocks + options_.spare_blocks <= free_;
}

// To the next event. False: there is none.
bool Fluid::Advance() {
  SetRates(DecodeNs(step_));
  double steps = decodes_.empty() ? kInfinite : decodes_.top().end_step - step_;
  for (const Prompts* kind : {&short_, &long_}) {
    if (kind->begun.empty()) continue;
    steps = std::min(steps, kind->begun.front().rows / kind->rows_per_step);
  }
  if (steps == kInfinite) return false;
  steps = std::max(steps, 0.0);
  step_ns_ = DecodeNs(step_ + steps / 2);
  for (Prompts* kind : {&short_, &long_}) {
    if (kind->begun.empty()) continue;
    const double step_ns = kind->Price() * kind->rows_per_step;
    step_ns_ += step_ns;
    kind->begun.front().ns -= steps * step_ns;
    kind->begun.front().rows -= steps * kind->rows_per_step;
  }
  step_ += steps;
  now_ns_ += steps * step_ns_;
  free_ -= growing_ * steps / options_.kv.tokens_per_block;
  return true;
}

// A step of the decodes alone.
double Fluid::DecodeNs(double step) const {
  const double rows = dense_ + sparse_;
  const double each = static_cast<double>(cost_.row_ps) +
                      static_cast<double>(cost_.sequence_ps) +
                      static_cast<double>(cost_.sample_ps);
  return (static_cast<double>(cost_.step_ps) + rows * each +
          (dense_columns_ + dense_ * step) * static_cast<double>(cost_.decode_column_ps) +
          sparse_ * static_cast<double>(cost_.sparse_row_ps) +
          (sparse_columns_ + sparse_ * step) *
              static_cast<double>(cost_.scanned_column_ps)) /
         1000;
}

void Fluid::SetRates(double decode_ns) {
  const bool both = !short_.begun.empty() && !long_.begun.empty();
  short_.rows_per_step = RowsOfStep(short_, both ? 0.75 : 1, decode_ns);
  long_.rows_per_step = RowsOfStep(long_, both ? 0.25 : 1, decode_ns);
}

double Fluid::RowsOfStep(const Prompts& kind, double share, double decode_ns) const {
  if (kind.begun.empty()) return 0;
  const double decodes = static_cast<double>(decodes_.size());
  const double rows = std::max(1.0, options_.step_tokens - decodes);
  double limit_ns = kInfinite;
  if (decodes > 0) {
    const size_t startable = free_ > options_.spare_blocks ? short_.waiting.size() : 0;
    const auto shorts = static_cast<int64_t>(short_.begun.size() + startable);
    limit_ns = static_cast<double>(
        MixedStepNs(options_, static_cast<int64_t>(decode_ns), shorts));
  } else if (options_.step_ns > 0) {
    limit_ns = static_cast<double>(options_.step_ns);
  }
  const double price = kind.Price();
  const double rows_in_time = price > 0 ? (limit_ns - decode_ns) / price : kInfinite;
  return std::max(share * std::min(rows, rows_in_time),
                  std::min<double>(options_.min_chunk_tokens, rows));
}

void Fluid::FinishPrompts(Prompts& kind) {
  if (kind.begun.empty() || kind.begun.front().rows > 1e-6) return;
  const Prompt prompt = kind.begun.front();
  kind.begun.pop_front();
  FinishPrompt(prompt);
}

void Fluid::FinishPrompt(const Prompt& prompt) {
  const bool is_target = prompt.request == &target_;
  const double now_ns = now_ns_ + RestOfStepNs();
  if (is_target) first_token_ns_ = now_ns;
  const double steps = AnswerLeft(*prompt.request) - 1;
  if (steps > 0) return BeginDecode(*prompt.request, steps, prompt.blocks);
  End(is_target, prompt.blocks, now_ns);
}

// A token comes when its whole step is over.
double Fluid::RestOfStepNs() const {
  const bool prompts = !short_.begun.empty() || !long_.begun.empty();
  return (std::ceil(step_ - 1e-6) - step_) * (prompts ? step_ns_ : DecodeNs(step_));
}

void Fluid::End(bool is_target, double blocks, double now_ns) {
  free_ += blocks;
  --running_;
  if (!is_target) return;
  end_ns_ = std::max(first_token_ns_, now_ns);
  over_ = true;
}

void Fluid::BeginDecode(const ScheduledRequest& request, double steps, double blocks) {
  const double known = static_cast<double>(request.known_tokens);
  const Decode decode{
      .end_step = step_ + steps,
      .columns = known - step_,
      .blocks = blocks - (request.pinned ? 0 : step_ / options_.kv.tokens_per_block),
      .sparse = known + steps / 2 >= static_cast<double>(request.sparse_from),
      .grows = !request.pinned,
      .target = &request == &target_};
  Count(decode, 1);
  decodes_.push(decode);
}

void Fluid::Count(const Decode& decode, double sign) {
  (decode.sparse ? sparse_ : dense_) += sign;
  (decode.sparse ? sparse_columns_ : dense_columns_) += sign * decode.columns;
  if (decode.grows) growing_ += sign;
}

void Fluid::EndDecodes() {
  while (!decodes_.empty() && decodes_.top().end_step <= step_ + 1e-6) {
    const Decode decode = decodes_.top();
    decodes_.pop();
    Count(decode, -1);
    const double grown = decode.grows ? step_ / options_.kv.tokens_per_block : 0;
    End(decode.target, decode.blocks + grown, now_ns_);
  }
}

}  // namespace

TimeEstimate EstimateTimes(const ScheduleOptions& options, const ScheduleState& state,
                           const ScheduledRequest& request, int32_t expected_percent) {
  return Fluid(options, state, request, expected_percent).Run();
}

int64_t PrefillBacklogNs(const ScheduleOptions& options, const ScheduleState& state) {
  double rows = 0, work_ns = 0;
  for (const ScheduledRequest& request : state.requests) {
    if (Decodes(request)) continue;
    rows += static_cast<double>(TokensLeft(request));
    work_ns += WorkNs(state.cost, request);
  }
  const double overhead_ns = static_cast<double>(state.cost.step_ps) / 1000;
  const double time_ns = static_cast<double>(options.step_ns) - overhead_ns;
  double steps = rows / options.step_tokens;
  if (time_ns > 0) steps = std::max(steps, work_ns / time_ns);
  return ToNs(work_ns + std::ceil(steps) * overhead_ns);
}

TimeEstimate EstimateAlone(const ScheduleOptions& options, const StepCost& cost,
                           const ScheduledRequest& request, int32_t expected_percent) {
  ScheduleState idle{.now_ns = request.accepted_ns,
                     .free_blocks = options.kv.num_blocks,
                     .served_tokens = {0},
                     .cost = cost};
  ScheduledRequest alone = request;
  alone.running = false;
  alone.tenant = 0;
  alone.shared_blocks = 0;
  return EstimateTimes(options, idle, alone, expected_percent);
}

}  // namespace quire
