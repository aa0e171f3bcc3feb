// What batching, chunked prefill and the prefix cache give, in process on a real model.
//   engine_bench MODEL_FOLDER batching|mixed|prefix|overhead|simulated ...
//   engine_bench sleep|poll
// mixed=PERCENT: with that decode_stretch_percent.
// Prints one JSON line a measurement. docs/benchmarks.md says what each is for.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/clock.h"
#include "core/engine/measure_step_cost.h"
#include "core/runner/runner.h"
#include "tests/benchmarks/device_option.h"
#include "tests/benchmarks/engine_bench/measure.h"
#include "tests/benchmarks/engine_bench/simulated.h"

namespace quire {
namespace {

EngineRequest Ask(std::vector<TokenId> prompt, int32_t new_tokens) {
  return {.work =
              GenerateRequest{.prompt = std::move(prompt), .max_new_tokens = new_tokens}};
}

class Bench {
 public:
  Bench(const std::string& folder, int32_t decode_stretch_percent)
      : files_(OpenModelFiles(folder).value()) {
    options_.decode_stretch_percent = decode_stretch_percent;
    LoadedRunner loaded = LoadRunner(files_, {.device = BenchmarkDevice()}).value();
    EngineOptions& options = options_;
    options.kv = loaded.kv;
    options.model = {files_.config.vocab_size, files_.config.max_positions};
    options.step_cost =
        MeasureStepCost(*loaded.runner, options.kv, options.model).value();
    const StepCost& c = options.step_cost;
    std::printf(
        "{\"step_ms\": %.3f, \"row_ms\": %.4f, \"sequence_ms\": %.4f, \"sample_ms\": "
        "%.4f, \"prefill_column_ns\": %.2f, \"decode_column_ns\": %.2f}\n",
        c.step_ps * 1e-9, c.row_ps * 1e-9, c.sequence_ps * 1e-9, c.sample_ps * 1e-9,
        c.prefill_column_ps * 1e-3, c.decode_column_ps * 1e-3);
    auto timed = std::make_unique<TimedRunner>(std::move(loaded.runner), steps_);
    timed_ = timed.get();
    engine_ = Engine::Start(options, std::move(timed), nullptr, SystemClock()).value();
  }

  // Eight answers to prompts of 1,024 tokens: one after the other, and at once.
  void Batching() {
    constexpr int kRequests = 8, kNew = 96;
    double alone_seconds = 0;
    for (int i = 0; i < kRequests; ++i) {
      Request request(*engine_, Ask(Prompt(100 + i, 1024), kNew));
      const Times& times = request.Wait();
      alone_seconds += times.tokens.back() - times.tokens.front();
    }
    const double alone = kRequests * (kNew - 1) / alone_seconds;
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < kRequests; ++i) {
      // Their pages are cached from before: they start together.
      requests.push_back(
          std::make_unique<Request>(*engine_, Ask(Prompt(100 + i, 1024), kNew)));
    }
    double begin = 0, end = 1e30;
    std::vector<Times> all;
    for (auto& request : requests) {
      all.push_back(request->Wait());
      begin = std::max(begin, all.back().tokens.front());
      end = std::min(end, all.back().tokens.back());
    }
    size_t tokens = 0;
    for (const Times& times : all) {
      for (const double at : times.tokens) tokens += at > begin && at <= end ? 1 : 0;
    }
    const double together = static_cast<double>(tokens) / (end - begin);
    std::printf(
        "{\"bench\": \"batching\", \"one_after_another_tokens_per_s\": %.1f, "
        "\"eight_at_once_tokens_per_s\": %.1f, \"ratio\": %.2f}\n",
        alone, together, together / alone);
  }

  // Four short requests decode while a long prompt is read.
  void Mixed(int32_t long_tokens) {
    Request alone(*engine_, Ask(Prompt(1, long_tokens), 1));
    const double alone_seconds = alone.Wait().first_token();
    std::vector<std::unique_ptr<Request>> shorts;
    for (int i = 0; i < 4; ++i) {
      shorts.push_back(std::make_unique<Request>(
          *engine_, Ask(Prompt(200 + i, 512), files_.config.max_positions / 2)));
    }
    for (auto& request : shorts) request->WaitForTokens(8);
    const double before = Seconds();
    std::this_thread::sleep_for(std::chrono::seconds(8));
    const double begin = Seconds();
    Request prefill(*engine_, Ask(Prompt(2, long_tokens), 1));
    const Times& times = prefill.Wait();
    const double end = times.finished, after = end + 0.1;
    std::this_thread::sleep_for(std::chrono::seconds(4));
    std::vector<double> without, with;
    for (auto& request : shorts) {
      request->Cancel();
      const Times& t = request->Wait();
      for (const double gap : t.gaps(before, begin)) without.push_back(gap);
      for (const double gap : t.gaps(after, 1e30)) without.push_back(gap);
      for (const double gap : t.gaps(begin, end)) with.push_back(gap);
    }
    std::vector<double> rows;
    for (const TimedStep& step : steps_) {
      if (step.began >= begin && step.ended <= end) {
        rows.push_back(static_cast<double>(step.prompt_rows));
      }
    }
    const double p99 = Quantile(without, .99), p99_with = Quantile(with, .99);
    std::printf(
        "{\"bench\": \"mixed\", \"decode_stretch_percent\": %d, \"long_tokens\": %d, "
        "\"itl_ms\": {\"p50\": %.2f, "
        "\"p99\": %.2f}, \"itl_with_prefill_ms\": {\"p50\": %.2f, \"p99\": %.2f}, "
        "\"p99_ratio\": %.2f, \"prefill_alone_s\": %.2f, \"prefill_mixed_s\": %.2f, "
        "\"prefill_loses\": %.3f, \"rows_per_step\": %.0f}\n",
        options_.decode_stretch_percent, long_tokens, 1e3 * Quantile(without, .5),
        1e3 * p99, 1e3 * Quantile(with, .5), 1e3 * p99_with, p99_with / p99,
        alone_seconds, times.first_token(), 1 - alone_seconds / times.first_token(),
        Quantile(rows, .5));
  }

  // Two questions about one document.
  void Prefix(int32_t document_tokens) {
    std::vector<TokenId> prompt = Prompt(7, document_tokens);
    const auto ask = [&](uint64_t question) {
      std::vector<TokenId> all = prompt;
      const std::vector<TokenId> more = Prompt(question, 20);
      all.insert(all.end(), more.begin(), more.end());
      Request request(*engine_, Ask(all, 8));
      return request.Wait();
    };
    const Times first = ask(300);
    std::vector<double> seconds;
    Times second;
    for (uint64_t i = 0; i < 5; ++i) {
      second = ask(301 + i);
      seconds.push_back(second.first_token());
    }
    std::printf(
        "{\"bench\": \"prefix\", \"document_tokens\": %d, \"first_s\": %.3f, "
        "\"second_s\": %.4f, \"ratio\": %.4f, \"cached_tokens\": %lld}\n",
        document_tokens, first.first_token(), Quantile(seconds, .5),
        Quantile(seconds, .5) / first.first_token(),
        static_cast<long long>(second.usage.cached_tokens));
  }

  // Wall time between steps against time in the runner, with and without what the engine
  // does meanwhile.
  void Overhead(int clients) {
    for (const bool meanwhile : {true, false}) {
      timed_->set_meanwhile(meanwhile);
      steps_.clear();
      std::vector<std::unique_ptr<Request>> requests;
      const int64_t before = engine_->stats().plans_ahead;
      const int first = meanwhile ? 400 : 500;  // no pages of the others
      for (int i = 0; i < clients; ++i) {
        requests.push_back(
            std::make_unique<Request>(*engine_, Ask(Prompt(first + i, 64), 64)));
      }
      for (auto& request : requests) request->Wait();
      PrintOverhead(meanwhile ? "overhead" : "overhead_if_planned_between", clients,
                    steps_, engine_->stats().plans_ahead - before);
    }
    timed_->set_meanwhile(true);
  }

  // The same arrivals on the engine and in the simulator, whose cost model has learned
  // from other arrivals.
  void Simulated() {
    CompareWithSimulation(*engine_, options_, [this](uint64_t seed, int64_t tokens) {
      return Prompt(seed, static_cast<int32_t>(tokens));
    });
  }

  void ClearSteps() { steps_.clear(); }

  // Between: from the results of a step of all clients to the next call of the runner.
  static void PrintOverhead(const char* bench, int clients,
                            const std::vector<TimedStep>& steps, int64_t plans_ahead) {
    std::vector<double> between, meanwhile;
    double inside = 0, gaps = 0;
    for (size_t i = 1; i < steps.size(); ++i) {
      inside += steps[i].ended - steps[i].began;
      gaps += steps[i].began - steps[i - 1].ended;
      if (steps[i].items == static_cast<size_t>(clients)) {
        between.push_back(steps[i].began - steps[i - 1].ended);
        meanwhile.push_back(steps[i].meanwhile);
      }
    }
    std::printf(
        "{\"bench\": \"%s\", \"clients\": %d, \"steps\": %zu, \"plans_ahead\": %lld, "
        "\"runner_s\": %.3f, \"between_steps_us\": {\"p50\": %.1f, \"p99\": %.1f}, "
        "\"share\": %.4f, \"meanwhile_us\": {\"p50\": %.1f, \"p99\": %.1f}}\n",
        bench, clients, steps.size(), static_cast<long long>(plans_ahead), inside,
        1e6 * Quantile(between, .5), 1e6 * Quantile(between, .99), gaps / inside,
        1e6 * Quantile(meanwhile, .5), 1e6 * Quantile(meanwhile, .99));
  }

 private:
  std::vector<TokenId> Prompt(uint64_t seed, int32_t tokens) const {
    std::vector<TokenId> prompt;
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (int32_t i = 0; i < tokens; ++i) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      prompt.push_back(static_cast<TokenId>((x >> 33) % files_.config.vocab_size));
    }
    return prompt;
  }

  const ModelFiles files_;
  EngineOptions options_;
  std::vector<TimedStep> steps_;
  TimedRunner* timed_ = nullptr;  // the engine's
  std::unique_ptr<Engine> engine_;
};

// The engine's own time, beside a runner that only waits.
void Wait(const char* bench, WaitingRunner::Wait wait, double step_seconds) {
  for (const int clients : {1, 64, 256}) {
    std::vector<TimedStep> steps;
    EngineOptions options{.kv = {.num_blocks = 4096},
                          .model = {.vocab_size = 100, .max_positions = 4096}};
    auto engine =
        Engine::Start(options,
                      std::make_unique<TimedRunner>(
                          std::make_unique<WaitingRunner>(step_seconds, wait), steps),
                      nullptr, SystemClock())
            .value();
    std::vector<std::unique_ptr<Request>> requests;
    for (int i = 0; i < clients; ++i) {
      requests.push_back(std::make_unique<Request>(
          *engine, Ask(std::vector<TokenId>(16, static_cast<TokenId>(i % 100)), 300)));
    }
    for (auto& request : requests) request->Wait();
    requests.clear();
    const int64_t plans_ahead = engine->stats().plans_ahead;
    engine.reset();
    Bench::PrintOverhead(bench, clients, steps, plans_ahead);
  }
}

int Main(int argc, char** argv) {
  const std::string first = argc == 2 ? argv[1] : "";
  if (first == "sleep") return Wait("sleep", WaitingRunner::Wait::kSleep, .01), 0;
  if (first == "poll") return Wait("poll", WaitingRunner::Wait::kPoll, .001), 0;
  if (argc < 3) {
    std::fprintf(
        stderr,
        "usage: engine_bench MODEL batching|mixed|prefix|overhead|simulated ...\n"
        "       engine_bench sleep|poll\n");
    return 2;
  }
  int32_t stretch = EngineOptions().decode_stretch_percent;
  for (int i = 2; i < argc; ++i) {
    if (std::string(argv[i]).rfind("mixed=", 0) == 0) stretch = std::atoi(argv[i] + 6);
  }
  Bench bench(argv[1], stretch);
  for (int i = 2; i < argc; ++i) {
    const std::string name = argv[i];
    bench.ClearSteps();
    if (name == "batching") bench.Batching();
    if (name.rfind("mixed", 0) == 0) bench.Mixed(16000);
    if (name == "prefix") bench.Prefix(6000);
    if (name == "simulated") bench.Simulated();
    if (name == "overhead") {
      for (const int clients : {1, 8, 64}) bench.Overhead(clients);
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
