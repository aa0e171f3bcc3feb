// What engine and gRPC cost: the same generations by so many clients at a time, through
// the engine in process and through the service over loopback, by turns, in one process
// and on one loaded model; beside them the time that the model's runner itself took.
//   stream_bench MODEL_FOLDER [PROMPT_TOKENS [NEW_TOKENS [ROUNDS [CLIENTS
//                [INTERVAL_MS]]]]]
// INTERVAL_MS: the server's stream_interval_ms. Prints one JSON line: medians, ratios to
// the runner's time, and the processor time of the clients' own threads: they share the
// cores with the server.
#include <grpcpp/grpcpp.h>
#include <prometheus/registry.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/base/clock.h"
#include "core/engine/request_stream.h"
#include "core/runner/runner.h"
#include "quire/v1/inference.grpc.pb.h"
#include "server/observability/collectors.h"
#include "server/observability/log.h"
#include "server/observability/metrics.h"
#include "server/rpc/call_services.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/serving_state.h"
#include "tests/benchmarks/device_option.h"
#include "tests/benchmarks/engine_bench/measure.h"

namespace quire::server {
namespace {

struct Problem {
  std::vector<TokenId> prompt;
  int32_t new_tokens = 0;
  int clients = 1;

  // Each client's own: no page is shared.
  std::vector<TokenId> PromptOf(int client) const {
    std::vector<TokenId> own = prompt;
    own.front() = static_cast<TokenId>(300 + client);
    return own;
  }
};

double InProcess(Engine& engine, const Problem& problem) {
  const double start = Seconds();
  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < problem.clients; ++i) {
    requests.push_back(std::make_unique<Request>(
        engine,
        EngineRequest{.work = GenerateRequest{.prompt = problem.PromptOf(i),
                                              .max_new_tokens = problem.new_tokens}}));
  }
  for (auto& request : requests) request->Wait();
  return Seconds() - start;
}

void OneThroughGrpc(const std::string& address, const Problem& problem, int client) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  v1::GenerateRequest request;
  const std::vector<TokenId> prompt = problem.PromptOf(client);
  request.mutable_input()->mutable_token_ids()->mutable_ids()->Assign(prompt.begin(),
                                                                      prompt.end());
  request.set_max_new_tokens(problem.new_tokens);
  request.set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_sampling()->set_no_repeat_ngram(0);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);  // many connect at once
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.error_message().c_str());
    std::exit(1);
  }
}

double ThreadCpuSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Adds the clients' processor time to `client_cpu`.
double ThroughGrpc(const std::string& address, const Problem& problem,
                   std::vector<double>& client_cpu) {
  const double start = Seconds();
  std::vector<double> cpu(problem.clients);
  std::vector<std::thread> clients;
  for (int i = 0; i < problem.clients; ++i) {
    clients.emplace_back([&, i] {
      OneThroughGrpc(address, problem, i);
      cpu[i] = ThreadCpuSeconds();
    });
  }
  for (std::thread& client : clients) client.join();
  client_cpu.push_back(std::accumulate(cpu.begin(), cpu.end(), 0.0));
  return Seconds() - start;
}

double RunnerSeconds(std::vector<TimedStep>& steps) {
  double seconds = 0;
  for (const TimedStep& step : steps) seconds += step.ended - step.began;
  steps.clear();
  return seconds;
}

std::unique_ptr<ServedModel> LoadModel(const std::string& folder,
                                       EngineObserver& observer,
                                       std::vector<TimedStep>& steps) {
  const ModelFiles files = OpenModelFiles(folder).value();
  LoadedRunner loaded = LoadRunner(files, {.device = BenchmarkDevice()}).value();
  auto model = std::make_unique<ServedModel>(
      ServedModel{.text = TextModel::FromFiles(files).value()});
  model->text.engine =
      Engine::Start({.kv = loaded.kv,
                     .model = {files.config.vocab_size, files.config.max_positions},
                     .prefix_caching = PrefixCaching::kOff},
                    std::make_unique<TimedRunner>(std::move(loaded.runner), steps),
                    &observer, SystemClock())
          .value();
  return model;
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: stream_bench MODEL_FOLDER [PROMPT_TOKENS [NEW_TOKENS [ROUNDS "
                 "[CLIENTS [INTERVAL_MS]]]]]\n");
    return 2;
  }
  const auto argument = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  prometheus::Registry registry;
  Metrics metrics(registry);
  StepMetrics step_metrics(metrics);
  Log log(Log::Format::kJson, LogLevel::kError, Log::StandardError());
  ServingState state;
  const CallServicesOptions options = {
      .terms = {.stream_interval = absl::Milliseconds(argument(6, 10))}};
  CallServices services(options, state, metrics, log, SystemClock());
  auto grpc_server = GrpcServer::Start({}, services).value();
  std::vector<std::unique_ptr<ServedModel>> models;
  std::vector<TimedStep> steps;
  models.push_back(LoadModel(argv[1], step_metrics, steps));
  Engine& engine = *models[0]->text.engine;
  const int32_t vocab = models[0]->text.config.vocab_size;
  state.Serve(ModelRegistry::Make(std::move(models)).value());

  Problem problem = {.new_tokens = argument(3, 256), .clients = argument(5, 1)};
  for (int i = 0; i < argument(2, 512); ++i)
    problem.prompt.push_back((i * 7919 + 13) % vocab);
  InProcess(engine, problem);  // untimed
  steps.clear();
  std::vector<double> inside, outside, runner, client_cpu;
  for (int round = 0; round < argument(4, 7); ++round) {
    inside.push_back(InProcess(engine, problem));
    runner.push_back(RunnerSeconds(steps));
    outside.push_back(ThroughGrpc(grpc_server->address(), problem, client_cpu));
    steps.clear();
  }
  const double own = Quantile(runner, .5);
  std::printf(
      "{\"clients\": %d, \"prompt_tokens\": %zu, \"new_tokens\": %d, \"rounds\": %zu, "
      "\"runner_seconds\": %.4f, \"in_process_seconds\": %.4f, \"grpc_seconds\": %.4f, "
      "\"in_process_ratio\": %.4f, \"grpc_ratio\": %.4f, \"client_cpu_seconds\": %.4f}\n",
      problem.clients, problem.prompt.size(), problem.new_tokens, inside.size(), own,
      Quantile(inside, .5), Quantile(outside, .5), Quantile(inside, .5) / own,
      Quantile(outside, .5) / own, Quantile(client_cpu, .5));
  grpc_server->Shutdown(absl::Seconds(5));
  return 0;
}

}  // namespace
}  // namespace quire::server

int main(int argc, char** argv) { return quire::server::Main(argc, argv); }
