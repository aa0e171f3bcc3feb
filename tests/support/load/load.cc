#include "tests/support/load/load.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "quire/v1/inference.grpc.pb.h"
#include "tests/support/quantile.h"

namespace quire::load {
namespace {

constexpr int kVocabulary = 8000;  // ids that every bundled model has
constexpr int kQuestionTokens = 24;
constexpr double kGivenUp =
    0.5;  // cancelled requests are cut after up to so many seconds

enum class Kind { kGenerate, kScore, kSummarize };

struct Planned {
  double at_s = 0;
  Kind kind = Kind::kGenerate;
  int prompt = 0;
  int document = -1;
  int tenant = 0;
  double cancel_after_s = 0;  // 0: not
  uint64_t seed = 0;
};

std::vector<Planned> Plan(const LoadOptions& o) {
  std::mt19937_64 random(o.seed);
  const auto uniform = [&] {
    return std::uniform_real_distribution<double>(0, 1)(random);
  };
  std::vector<Planned> plan;
  for (double t = 0; t < o.seconds; t -= std::log(1 - uniform()) / o.per_second) {
    Planned p{.at_s = t, .seed = random()};
    const double kind = uniform();
    if (kind < o.score_share) p.kind = Kind::kScore;
    if (kind > 1 - o.summarize_share) p.kind = Kind::kSummarize;
    p.prompt =
        o.min_prompt + static_cast<int>(uniform() * (o.max_prompt - o.min_prompt + 1));
    p.tenant = static_cast<int>(uniform() * o.tenants);
    if (o.documents > 0) p.document = static_cast<int>(uniform() * o.documents);
    if (uniform() < o.cancel_share) p.cancel_after_s = kGivenUp * uniform();
    plan.push_back(p);
  }
  return plan;
}

void FillIds(uint64_t seed, int count, v1::TokenIds& ids) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < count; ++i) {
    ids.add_ids(static_cast<int>(300 + random() % (kVocabulary - 300)));
  }
}

void FillInput(const Planned& p, v1::Input& input) {
  v1::TokenIds& ids = *input.mutable_token_ids();
  if (p.document < 0) return FillIds(p.seed, p.prompt, ids);
  FillIds(static_cast<uint64_t>(p.document) + 1, p.prompt, ids);
  FillIds(p.seed, kQuestionTokens, ids);
}

// One client: a connection of its own, one request at a time.
class Client {
 public:
  explicit Client(const LoadOptions& options) : options_(options) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::InferenceService::NewStub(grpc::CreateCustomChannel(
        options.server, grpc::InsecureChannelCredentials(), arguments));
  }

  Result Send(const Planned& p, absl::Time due) {
    due_ = due;
    result_ = {};
    const absl::Time sent = absl::Now();
    grpc::ClientContext context;
    if (options_.deadline_s > 0) {
      context.set_deadline(absl::ToChronoTime(sent + absl::Seconds(options_.deadline_s)));
    }
    context.AddMetadata("x-quire-tenant", absl::StrCat("tenant-", p.tenant));
    std::atomic<bool> done = false;
    std::thread canceller;
    if (p.cancel_after_s > 0) {
      canceller = std::thread([&] {
        absl::SleepFor(absl::Seconds(p.cancel_after_s));
        if (!done) context.TryCancel();
      });
    }
    const grpc::Status status = Call(p, context);
    done = true;
    if (canceller.joinable()) canceller.join();
    result_.call_s = absl::ToDoubleSeconds(absl::Now() - sent);
    result_.total_s = absl::ToDoubleSeconds(absl::Now() - due);
    Describe(status);
    return result_;
  }

 private:
  grpc::Status Call(const Planned& p, grpc::ClientContext& context) {
    switch (p.kind) {
      case Kind::kScore: {
        v1::ScoreRequest request;
        FillInput(p, *request.mutable_input());
        return Read<v1::ScoreResponse>(stub_->Score(&context, request));
      }
      case Kind::kSummarize: {
        v1::SummarizeRequest request;
        FillInput(p, *request.mutable_input());
        request.set_max_new_tokens(options_.new_tokens);
        request.set_strategy(v1::SUMMARY_STRATEGY_AUTO);
        return Read<v1::SummarizeResponse>(stub_->Summarize(&context, request));
      }
      case Kind::kGenerate:
        break;
    }
    v1::GenerateRequest request;
    FillInput(p, *request.mutable_input());
    request.set_max_new_tokens(options_.new_tokens);
    request.set_ignore_eos(true);
    return Read<v1::GenerateResponse>(stub_->Generate(&context, request));
  }

  template <typename Response>
  grpc::Status Read(std::unique_ptr<grpc::ClientReader<Response>> reader) {
    Response event;
    while (reader->Read(&event)) {
      if constexpr (!std::is_same_v<Response, v1::ScoreResponse>) {
        if (event.has_text() && result_.first_token_s == 0) {
          result_.first_token_s = absl::ToDoubleSeconds(absl::Now() - due_);
        }
      }
      if (!event.has_final()) continue;
      result_.prompt_tokens = event.final().usage().prompt_tokens();
      result_.generated_tokens = event.final().usage().generated_tokens();
    }
    return reader->Finish();
  }

  void Describe(const grpc::Status& status) {
    const auto names = {"OK",
                        "CANCELLED",
                        "UNKNOWN",
                        "INVALID_ARGUMENT",
                        "DEADLINE_EXCEEDED",
                        "NOT_FOUND",
                        "ALREADY_EXISTS",
                        "PERMISSION_DENIED",
                        "RESOURCE_EXHAUSTED",
                        "FAILED_PRECONDITION",
                        "ABORTED",
                        "OUT_OF_RANGE",
                        "UNIMPLEMENTED",
                        "INTERNAL",
                        "UNAVAILABLE",
                        "DATA_LOSS",
                        "UNAUTHENTICATED"};
    result_.code = *(names.begin() + static_cast<int>(status.error_code()));
    google::rpc::Status wire;
    if (!wire.ParseFromString(status.error_details())) return;
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    for (const auto& detail : wire.details()) {
      if (detail.UnpackTo(&info)) result_.reason = info.reason();
      if (detail.UnpackTo(&retry)) result_.retry_info = true;
    }
  }

  const LoadOptions& options_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  absl::Time due_;
  Result result_;
};

std::string Quantiles(const std::vector<double>& values) {
  return absl::StrFormat("{\"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f}",
                         Quantile(values, .5), Quantile(values, .9),
                         Quantile(values, .99));
}

}  // namespace

Report Run(const LoadOptions& options) {
  const std::vector<Planned> plan = Plan(options);
  Report report;
  report.results.resize(plan.size());
  std::atomic<size_t> next = 0;
  const absl::Time start = absl::Now() + absl::Milliseconds(100);
  std::vector<std::thread> threads;
  for (int i = 0; i < options.clients; ++i) {
    threads.emplace_back([&] {
      Client client(options);
      for (size_t at; (at = next++) < plan.size();) {
        const absl::Time due = start + absl::Seconds(plan[at].at_s);
        absl::SleepFor(due - absl::Now());
        report.results[at] = client.Send(plan[at], due);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  report.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return report;
}

std::string ToJson(const LoadOptions& options, const Report& report) {
  std::map<std::string, int64_t> codes;
  std::vector<double> first, total, refused;
  int64_t tokens = 0, unclear = 0;
  for (const Result& r : report.results) {
    ++codes[r.reason.empty() ? r.code : absl::StrCat(r.code, "/", r.reason)];
    if (r.code == "RESOURCE_EXHAUSTED") {
      refused.push_back(r.call_s);
      unclear += r.reason.empty() || !r.retry_info;
    }
    if (r.code != "OK") continue;
    tokens += r.prompt_tokens + r.generated_tokens;
    total.push_back(r.total_s);
    if (r.first_token_s > 0) first.push_back(r.first_token_s);
  }
  const auto entry = [](std::string* out, const auto& code) {
    absl::StrAppend(out, "\"", code.first, "\": ", code.second);
  };
  return absl::StrFormat(
      "{\"per_second\": %.2f, \"clients\": %d, \"sent\": %d, \"seconds\": %.1f, "
      "\"codes\": {%s}, \"goodput_requests_per_s\": %.3f, \"goodput_tokens_per_s\": "
      "%.1f, \"first_token_s\": %s, \"total_s\": %s, \"refusal_s\": %s, "
      "\"refusals_without_reason_or_retry\": %d}",
      options.per_second, options.clients, report.results.size(), report.seconds,
      absl::StrJoin(codes, ", ", entry),
      static_cast<double>(total.size()) / report.seconds,
      static_cast<double>(tokens) / report.seconds, Quantiles(first), Quantiles(total),
      Quantiles(refused), unclear);
}

}  // namespace quire::load
