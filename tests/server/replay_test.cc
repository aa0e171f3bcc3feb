#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/observability/catalogue.h"
#include "tests/server/test_server.h"

// Counters against receipts: two hundred requests of all kinds, some of them broken off,
// and every number must agree to the last unit.
namespace quire::server {
namespace {

constexpr int kRequests = 200;
constexpr int kClients = 8;
constexpr char kKept[] = "kept";      // tenant of calls that are read to their end
constexpr char kBroken[] = "broken";  // and of those that are broken off

// What requests have taken, of one phase.
struct Work {
  int64_t attention_macs = 0, selection_macs = 0, statistics_macs = 0, audit_macs = 0;
  int64_t dense_macs = 0;
  int64_t bytes = 0, dense_bytes = 0;
  int64_t columns = 0, dense_columns = 0;
  friend bool operator==(const Work&, const Work&) = default;

  void Add(const AttentionWork& work) {
    attention_macs += work.attention_macs;
    selection_macs += work.selection_macs;
    statistics_macs += work.statistics_macs;
    audit_macs += work.audit_macs;
    dense_macs += work.dense_macs;
    bytes += work.executed_bytes();
    dense_bytes += work.dense_bytes;
    columns += work.columns;
    dense_columns += work.dense_columns;
  }
  void Add(const v1::AttentionWork& work) {
    attention_macs += work.attention_macs();
    selection_macs += work.selection_macs();
    statistics_macs += work.statistics_macs();
    audit_macs += work.audit_macs();
    dense_macs += work.dense_macs();
    bytes += work.attention_bytes() + work.selection_bytes() + work.statistics_bytes() +
             work.audit_bytes();
    dense_bytes += work.dense_bytes();
    columns += work.columns();
    dense_columns += work.dense_columns();
  }
  int64_t macs() const {
    return attention_macs + selection_macs + statistics_macs + audit_macs;
  }
};

struct Sums {
  Work prefill, decode;
  Usage usage;
  friend bool operator==(const Sums&, const Sums&) = default;

  void Add(const v1::Receipt& receipt, const v1::Usage& used) {
    prefill.Add(receipt.prefill());
    decode.Add(receipt.decode());
    usage += Usage{.prompt_tokens = used.prompt_tokens(),
                   .cached_tokens = used.cached_tokens(),
                   .generated_tokens = used.generated_tokens()};
  }
  void Add(const FinishReport& finished) {
    prefill.Add(finished.attention.prefill.work);
    decode.Add(finished.attention.decode.work);
    usage += finished.usage;
  }
  Sums operator+(const Sums& other) const {
    Sums sum = *this;
    for (const auto& [to, from] : {std::pair{&sum.prefill, &other.prefill},
                                   std::pair{&sum.decode, &other.decode}}) {
      to->attention_macs += from->attention_macs;
      to->selection_macs += from->selection_macs;
      to->statistics_macs += from->statistics_macs;
      to->audit_macs += from->audit_macs;
      to->dense_macs += from->dense_macs;
      to->bytes += from->bytes;
      to->dense_bytes += from->dense_bytes;
      to->columns += from->columns;
      to->dense_columns += from->dense_columns;
    }
    sum.usage += other.usage;
    return sum;
  }
};

// What the engine tells of the requests' ends: the only receipt of a call that was broken
// off.
class FinishRecorder final : public EngineObserver {
 public:
  void OnStep(const StepReport& step) override {
    const std::lock_guard lock(mutex_);
    rows_ += step.rows;
    for (const auto* phase : {&step.prefill, &step.decode}) {
      for (const AttentionStats& stats : *phase) {
        expanded_ += stats.work.expanded_columns;
      }
    }
  }
  void OnFinished(const FinishReport& finished) override {
    const std::lock_guard lock(mutex_);
    by_tenant_[std::string(finished.tenant)].Add(finished);
    wasted_ += finished.wasted_tokens;
    const int64_t tokens = finished.usage.prompt_tokens + finished.usage.generated_tokens;
    const size_t context = tokens <= 1024 ? 0 : tokens <= 4096 ? 1 : 2;
    columns_[context] +=
        finished.attention.prefill.work.columns + finished.attention.decode.work.columns;
    EXPECT_TRUE(finished.tenant == kBroken || finished.code == absl::StatusCode::kOk);
    broken_ += finished.code == absl::StatusCode::kCancelled ? 1 : 0;
    fell_back_ += finished.attention.fell_back ? 1 : 0;
  }

  Sums of(const std::string& tenant) const {
    const std::lock_guard lock(mutex_);
    const auto found = by_tenant_.find(tenant);
    return found == by_tenant_.end() ? Sums() : found->second;
  }
  int64_t rows() const { return Locked(rows_); }
  int64_t expanded() const { return Locked(expanded_); }
  int64_t wasted() const { return Locked(wasted_); }
  int64_t broken() const { return Locked(broken_); }
  int64_t fell_back() const { return Locked(fell_back_); }
  int64_t columns(size_t context) const { return Locked(columns_[context]); }

 private:
  int64_t Locked(const int64_t& value) const {
    const std::lock_guard lock(mutex_);
    return value;
  }
  mutable std::mutex mutex_;  // guards all below
  std::map<std::string, Sums> by_tenant_;
  int64_t rows_ = 0, expanded_ = 0, wasted_ = 0, broken_ = 0, fell_back_ = 0;
  std::array<int64_t, 3> columns_ = {};
};

// ---------------------------------------------------------------------------- requests

// The n-th request is the same in every run; what is broken off is not quite.
class Script {
 public:
  explicit Script(int number) : random_(static_cast<unsigned>(number)) {}

  // Tokens of one of four texts, so that the prefix cache has some beginnings.
  void Fill(v1::Input& input, int max_tokens) {
    const int text = Pick(0, 3);
    const int tokens = Pick(2, max_tokens);
    for (int i = 0; i < tokens; ++i) {
      input.mutable_token_ids()->add_ids(300 + 1000 * text + i % 900);
    }
  }
  void Fill(v1::AttentionOptions& attention) {
    constexpr v1::AttentionMode kModes[] = {
        v1::ATTENTION_MODE_AUTO, v1::ATTENTION_MODE_DENSE, v1::ATTENTION_MODE_REFINED,
        v1::ATTENTION_MODE_FAITHFUL};
    attention.set_mode(kModes[Pick(0, 3)]);
    if (Pick(0, 4) == 0) attention.set_max_error(0.25f);  // most audits are above
  }
  int Pick(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_);
  }

 private:
  std::mt19937 random_;
};

struct Totals {
  std::mutex mutex;  // guards all below
  Sums kept;
  int answered = 0, broken = 0;
};

// Reads the call to its end, or only its first event or two.
template <typename Response>
void Read(grpc::ClientContext& context,
          std::unique_ptr<grpc::ClientReader<Response>> reader, int break_after,
          Totals& totals) {
  Response event;
  Sums own;
  for (int events = 0; reader->Read(&event); ++events) {
    if (event.has_final()) own.Add(event.final().receipt(), event.final().usage());
    if (events == break_after) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  const std::lock_guard lock(totals.mutex);
  if (break_after >= 0) {
    ++totals.broken;
    return;
  }
  EXPECT_TRUE(status.ok()) << status.error_message();
  totals.kept = totals.kept + own;
  ++totals.answered;
}

void Call(TestServer& server, int number, Totals& totals) {
  Script script(number);
  const int break_after = number % 5 == 4 ? script.Pick(0, 1) : -1;
  grpc::ClientContext context;
  context.AddMetadata("x-quire-tenant", break_after < 0 ? kKept : kBroken);
  switch (number % 3) {
    case 0: {
      v1::GenerateRequest request;
      script.Fill(*request.mutable_input(), 1500);
      script.Fill(*request.mutable_attention());
      request.set_priority(script.Pick(kMinPriority, kMaxPriority));
      request.set_max_new_tokens(script.Pick(1, 40));
      return Read(context, server.inference().Generate(&context, request), break_after,
                  totals);
    }
    case 1: {
      v1::ScoreRequest request;
      script.Fill(*request.mutable_input(), 2500);  // more than the context: windows
      script.Fill(*request.mutable_options()->mutable_attention());
      request.mutable_options()->set_priority(script.Pick(kMinPriority, kMaxPriority));
      return Read(context, server.inference().Score(&context, request), break_after,
                  totals);
    }
    default: {
      v1::SummarizeRequest request;
      std::string text;
      for (int i = script.Pick(1, 60); i > 0; --i) {
        absl::StrAppend(&text, "The captain of ship ", i, " counted his crew twice. ");
      }
      request.mutable_input()->set_text(text);
      request.set_strategy(script.Pick(0, 1) == 0 ? v1::SUMMARY_STRATEGY_EXTRACTIVE
                                                  : v1::SUMMARY_STRATEGY_ABSTRACTIVE);
      request.set_max_new_tokens(script.Pick(1, 12));
      script.Fill(*request.mutable_attention());
      request.set_priority(script.Pick(kMinPriority, kMaxPriority));
      return Read(context, server.inference().Summarize(&context, request), break_after,
                  totals);
    }
  }
}

void CallAll(TestServer& server, Totals& totals) {
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int number = client; number < kRequests; number += kClients) {
        Call(server, number, totals);
      }
    });
  }
  for (std::thread& client : clients) client.join();
}

// ----------------------------------------------------------------------------- metrics

// The sum of a counter's series whose labels contain these.
class Counters {
 public:
  explicit Counters(prometheus::Registry& registry) : families_(registry.Collect()) {}

  int64_t Sum(Metric metric,
              const std::map<std::string, std::string>& labels = {}) const {
    double sum = 0;
    for (const prometheus::MetricFamily& family : families_) {
      if (family.name != Declaration(metric).name) continue;
      for (const prometheus::ClientMetric& series : family.metric) {
        if (Matches(series, labels)) sum += series.counter.value;
      }
    }
    return static_cast<int64_t>(sum);
  }

 private:
  static bool Matches(const prometheus::ClientMetric& series,
                      const std::map<std::string, std::string>& labels) {
    return std::all_of(labels.begin(), labels.end(), [&](const auto& wanted) {
      return std::any_of(series.label.begin(), series.label.end(), [&](const auto& own) {
        return own.name == wanted.first && own.value == wanted.second;
      });
    });
  }
  std::vector<prometheus::MetricFamily> families_;
};

void ExpectPhase(const Counters& counters, const std::string& phase, const Work& work) {
  SCOPED_TRACE(phase);
  const auto macs = [&](const char* part) {
    return counters.Sum(Metric::kAttentionMacs, {{"phase", phase}, {"part", part}});
  };
  EXPECT_EQ(counters.Sum(Metric::kAttentionFlops, {{"phase", phase}}), 2 * work.macs());
  EXPECT_EQ(counters.Sum(Metric::kAttentionFlopsDense, {{"phase", phase}}),
            2 * work.dense_macs);
  EXPECT_EQ(macs("attention"), work.attention_macs);
  EXPECT_EQ(macs("selection"), work.selection_macs);
  EXPECT_EQ(macs("statistics"), work.statistics_macs);
  EXPECT_EQ(macs("audit"), work.audit_macs);
  EXPECT_EQ(counters.Sum(Metric::kKvBytes, {{"phase", phase}}), work.bytes);
  EXPECT_EQ(counters.Sum(Metric::kKvBytesDense, {{"phase", phase}}), work.dense_bytes);
}

void ExpectTenant(const Counters& counters, const std::string& tenant,
                  const Usage& usage) {
  SCOPED_TRACE(tenant);
  const auto tokens = [&](const char* kind) {
    return counters.Sum(Metric::kTenantTokens, {{"tenant", tenant}, {"kind", kind}});
  };
  EXPECT_EQ(tokens("prompt"), usage.prompt_tokens - usage.cached_tokens);
  EXPECT_EQ(tokens("cached"), usage.cached_tokens);
  EXPECT_EQ(tokens("generated"), usage.generated_tokens);
}

void ExpectModelWork(const Counters& counters, const Sums& all,
                     const FinishRecorder& finishes, const ModelConfig& config) {
  const auto flops = [&](const char* part) {
    return counters.Sum(Metric::kModelFlops, {{"part", part}});
  };
  const int64_t attention = all.prefill.attention_macs + all.decode.attention_macs;
  EXPECT_EQ(flops("attention"), 2 * attention);
  EXPECT_EQ(flops("selection"), 2 * (all.prefill.macs() + all.decode.macs() - attention));
  const RowMacs row = MacsOfRow(config);
  EXPECT_EQ(flops("mlp"), 2 * row.mlp * finishes.rows());
  EXPECT_EQ(flops("other"), 2 * row.other * finishes.rows());
  EXPECT_EQ(counters.Sum(Metric::kExpandedKeys), finishes.expanded());
}

TEST(ReplayTest, CountersAreTheSumsOfReceiptsExactly) {
  FinishRecorder finishes;
  TestServer server({.calls = {.max_running = 8},
                     .context_tokens = 2048,
                     .chunk_tokens = 64,
                     .kv_blocks = 40,  // of a long request and a bit: the others wait
                     .prefix_caching = PrefixCaching::kPerTenant,
                     .observer = &finishes});
  server.fake().set_audit_error([](const AttentionOptions&) { return 0.5; });
  server.fake().set_on_step(
      [](const StepInput&) { absl::SleepFor(absl::Microseconds(200)); });
  Totals totals;
  CallAll(server, totals);
  ASSERT_TRUE(server.state().WaitUntilIdle(absl::Seconds(30)));
  const auto busy = [&] {
    const EngineStats stats = server.engine().stats();
    return stats.running + stats.waiting > 0;
  };
  for (int i = 0; i < 1000 && busy(); ++i) absl::SleepFor(absl::Milliseconds(10));
  ASSERT_FALSE(busy());

  // The set is what it is meant to be.
  EXPECT_EQ(totals.answered, 160);
  EXPECT_EQ(totals.broken, 40);
  EXPECT_GT(finishes.broken(), 0);
  EXPECT_GT(finishes.fell_back(), 0);
  const Sums kept = finishes.of(kKept), all = kept + finishes.of(kBroken);
  EXPECT_GT(kept.usage.cached_tokens, 0);
  EXPECT_GT(kept.prefill.selection_macs, 0);
  EXPECT_GT(kept.decode.selection_macs, 0);
  EXPECT_GT(kept.prefill.audit_macs, 0);

  // What clients were told is what the engine says of their requests...
  EXPECT_EQ(totals.kept, kept);
  // ... and with the broken ones it is what was counted.
  const Counters counters(server.registry());
  ExpectPhase(counters, "prefill", all.prefill);
  ExpectPhase(counters, "decode", all.decode);
  ExpectTenant(counters, kKept, totals.kept.usage);
  ExpectTenant(counters, kBroken, finishes.of(kBroken).usage);
  EXPECT_EQ(counters.Sum(Metric::kPromptTokens),
            all.usage.prompt_tokens - all.usage.cached_tokens);
  EXPECT_EQ(counters.Sum(Metric::kCachedTokens), all.usage.cached_tokens);
  EXPECT_EQ(counters.Sum(Metric::kGeneratedTokens), all.usage.generated_tokens);
  EXPECT_EQ(counters.Sum(Metric::kWastedTokens), finishes.wasted());
  EXPECT_EQ(counters.Sum(Metric::kAttentionColumns),
            all.prefill.columns + all.decode.columns);
  EXPECT_EQ(counters.Sum(Metric::kAttentionColumnsDense),
            all.prefill.dense_columns + all.decode.dense_columns);
  for (size_t i = 0; i < 3; ++i) {
    constexpr const char* kContexts[] = {"le_1024", "le_4096", "le_16384"};
    EXPECT_EQ(counters.Sum(Metric::kAttentionColumns, {{"context", kContexts[i]}}),
              finishes.columns(i));
  }
  ExpectModelWork(counters, all, finishes,
                  server.state().models()->models()[0]->text.config);
}

}  // namespace
}  // namespace quire::server
