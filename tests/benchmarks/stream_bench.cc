// What streaming through gRPC costs: the same generation through the engine in process
// and through the service over loopback, by turns, in one process and on one loaded
// model.
//   stream_bench MODEL_FOLDER [PROMPT_TOKENS [NEW_TOKENS [ROUNDS]]]
// Prints one JSON line: medians of both and their ratio.
#include <grpcpp/grpcpp.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
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

namespace quire::server {
namespace {

double Seconds() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Problem {
  std::vector<TokenId> prompt;
  int32_t new_tokens = 0;
};

double InProcess(Engine& engine, const Problem& problem) {
  const double start = Seconds();
  GenerateRequest request = {.prompt = problem.prompt,
                             .max_new_tokens = problem.new_tokens};
  auto stream =
      RequestStream::Open(engine, {.work = std::move(request)}, nullptr).value();
  while (!std::holds_alternative<Finished>(stream->Next())) {
  }
  return Seconds() - start;
}

double ThroughGrpc(v1::InferenceService::Stub& stub, const Problem& problem) {
  const double start = Seconds();
  v1::GenerateRequest request;
  request.mutable_input()->mutable_token_ids()->mutable_ids()->Assign(
      problem.prompt.begin(), problem.prompt.end());
  request.set_max_new_tokens(problem.new_tokens);
  request.set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_sampling()->set_no_repeat_ngram(0);
  grpc::ClientContext context;
  auto reader = stub.Generate(&context, request);
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.error_message().c_str());
    std::exit(1);
  }
  return Seconds() - start;
}

std::unique_ptr<ServedModel> LoadModel(const std::string& folder,
                                       EngineObserver& observer) {
  const ModelFiles files = OpenModelFiles(folder).value();
  LoadedRunner loaded = LoadRunner(files, {}).value();
  auto model = std::make_unique<ServedModel>(
      ServedModel{.text = TextModel::FromFiles(files).value()});
  model->text.engine =
      Engine::Start({.kv = loaded.kv,
                     .model = {files.config.vocab_size, files.config.max_positions}},
                    std::move(loaded.runner), &observer, SystemClock())
          .value();
  return model;
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(
        stderr,
        "usage: stream_bench MODEL_FOLDER [PROMPT_TOKENS [NEW_TOKENS [ROUNDS]]]\n");
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
  CallServices services({}, state, metrics, log, SystemClock());
  auto grpc_server = GrpcServer::Start({}, services).value();
  std::vector<std::unique_ptr<ServedModel>> models;
  models.push_back(LoadModel(argv[1], step_metrics));
  Engine& engine = *models[0]->text.engine;
  const int32_t vocab = models[0]->text.config.vocab_size;
  state.Serve(ModelRegistry::Make(std::move(models)).value());

  Problem problem = {.new_tokens = argument(3, 256)};
  for (int i = 0; i < argument(2, 512); ++i)
    problem.prompt.push_back((i * 7919 + 13) % vocab);
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateChannel(grpc_server->address(), grpc::InsecureChannelCredentials()));
  InProcess(engine, problem);  // untimed
  std::vector<double> inside, outside;
  for (int round = 0; round < argument(4, 7); ++round) {
    inside.push_back(InProcess(engine, problem));
    outside.push_back(ThroughGrpc(*stub, problem));
  }
  std::printf(
      "{\"prompt_tokens\": %zu, \"new_tokens\": %d, \"rounds\": %zu, "
      "\"in_process_seconds\": %.4f, "
      "\"grpc_seconds\": %.4f, \"ratio\": %.4f}\n",
      problem.prompt.size(), problem.new_tokens, inside.size(), Median(inside),
      Median(outside), Median(outside) / Median(inside));
  grpc_server->Shutdown(absl::Seconds(5));
  return 0;
}

}  // namespace
}  // namespace quire::server

int main(int argc, char** argv) { return quire::server::Main(argc, argv); }
