#include "server/app.h"

#include <google/protobuf/stubs/logging.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/clock.h"
#include "core/base/status_macros.h"
#include "core/engine/measure_step_cost.h"
#include "core/runner/runner.h"
#include "core/weights/model_files.h"
#include "grpc/support/log.h"
#include "prometheus/registry.h"
#include "server/observability/collectors.h"
#include "server/observability/http_endpoint.h"
#include "server/observability/log.h"
#include "server/observability/metrics.h"
#include "server/observability/schedule_trace.h"
#include "server/observability/service_routes.h"
#include "server/page/page.h"
#include "server/page/request_log.h"
#include "server/port_file.h"
#include "server/rpc/call_services.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/serving_state.h"
#include "server/rpc/status.h"
#include "server/shadow/savings.h"
#include "server/shadow/shadowing_engine.h"
#include "server/version.h"

namespace quire::server {
namespace {

// ------------------------------------------------------------------------------- models

ComputeType ParseComputeType(const std::string& name) {
  for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
    if (ComputeTypeName(type) == name) return type;
  }
  return ComputeType::kAuto;
}

// Tokens of a step. A GPU reads 512 of them hardly sooner than 2,048.
int32_t ChunkTokens(const ServerOptions& options, const Device& device) {
  if (options.chunk_tokens > 0) return options.chunk_tokens;
  return std::max(options.max_running, device.kind == DeviceKind::kCuda ? 2048 : 512);
}

EngineOptions ToEngineOptions(const ServerOptions& options, const LoadedRunner& loaded,
                              const ModelConfig& config) {
  return {.kv = loaded.kv,
          .model = {config.vocab_size, config.max_positions},
          .chunk_tokens = ChunkTokens(options, loaded.device),
          .max_running = options.max_running,
          .max_waiting = options.max_waiting,
          .max_waiting_tokens = options.max_waiting_tokens,
          .long_prompt_tokens = options.long_prompt_tokens,
          .max_long_prefills = options.max_long_prefills,
          .decode_stretch_percent = options.decode_stretch_percent,
          .max_step = absl::Seconds(options.max_step_seconds),
          .prefix_caching = options.prefix_caching(),
          .admission = options.admission_mode()};
}

ShadowOptions ToShadowOptions(const ServerOptions& options) {
  return {.share = options.shadow_share,
          .budget = absl::Seconds(options.shadow_device_seconds_per_minute),
          .price_per_device_hour = options.price_per_device_hour,
          .seed = std::random_device()()};
}

// Engine, after what it costs to compute was measured.
absl::Status StartEngine(LoadedRunner loaded, const ServerOptions& options,
                         ServedModel& model) {
  EngineOptions engine = ToEngineOptions(options, loaded, model.text.config);
  engine.block_bytes = loaded.kv_cache_bytes / loaded.kv.num_blocks;
  QUIRE_ASSIGN_OR_RETURN(engine.step_cost,
                         MeasureStepCost(*loaded.runner, loaded.kv, engine.model));
  model.limits = engine;
  QUIRE_ASSIGN_OR_RETURN(std::unique_ptr<Engine> started,
                         Engine::Start(engine, std::move(loaded.runner),
                                       model.activity.get(), SystemClock()));
  model.text.engine =
      MakeShadowingEngine(std::move(started), loaded.kv, ToShadowOptions(options),
                          *model.activity, SystemClock());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ServedModel>> LoadModel(const std::string& folder,
                                                       const ServerOptions& options,
                                                       EngineObserver& observer,
                                                       SavingsObserver& savings) {
  QUIRE_ASSIGN_OR_RETURN(const ModelFiles files, OpenModelFiles(folder));
  QUIRE_ASSIGN_OR_RETURN(TextModel text, TextModel::FromFiles(files));
  QUIRE_ASSIGN_OR_RETURN(LoadedRunner loaded,
                         LoadRunner(files, {.compute = ParseComputeType(options.compute),
                                            .kv_cache_bytes = options.kv_cache_bytes,
                                            .threads = options.threads,
                                            .device = options.device}));
  auto model = std::make_unique<ServedModel>(ServedModel{
      .activity = std::make_unique<Activity>(observer, SystemClock(), &savings),
      .text = std::move(text)});
  model->parameters = CountParameters(files.config);
  model->compute_type = std::string(ComputeTypeName(loaded.compute));
  model->device = DeviceName(loaded.device);
  model->device_note = loaded.device_note;
  model->weight_bytes = loaded.weight_bytes;
  model->kv_cache_bytes = loaded.kv_cache_bytes;
  model->kv_cache_tokens = loaded.kv.capacity_tokens();
  model->refined_pays_from = loaded.refined_pays_from;
  QUIRE_ASSIGN_OR_RETURN(model->begin_tokens, BeginTokens(model->text.tokenizer));
  ModelConfig& config = model->text.config;
  QUIRE_RETURN_IF_ERROR(options.CheckCache(loaded.kv_cache_bytes, model->kv_cache_tokens,
                                           config.max_positions));
  // What the cache cannot hold is no context: windows and refusals follow from this
  // number.
  config.max_positions = static_cast<int32_t>(
      std::min<int64_t>(config.max_positions, model->kv_cache_tokens));
  QUIRE_RETURN_IF_ERROR(StartEngine(std::move(loaded), options, *model));
  return model;
}

absl::StatusOr<std::unique_ptr<const ModelRegistry>> LoadModels(
    const ServerOptions& options, std::vector<StepMetrics>& observers,
    SavingsObserver& savings, Log& log) {
  std::vector<std::unique_ptr<ServedModel>> models;
  for (const std::string& folder : options.model) {
    const absl::Time start = absl::Now();
    absl::StatusOr<std::unique_ptr<ServedModel>> model =
        LoadModel(folder, options, observers[models.size()], savings);
    if (!model.ok()) {
      return absl::Status(
          model.status().code(),
          absl::StrCat("model '", folder, "': ", model.status().message()));
    }
    observers[models.size()].SetModel((*model)->text.config);
    log.Info("loaded", {{"model", (*model)->text.name},
                        {"device", (*model)->device},
                        {"device_note", (*model)->device_note},
                        {"compute_type", (*model)->compute_type},
                        {"context_tokens", int64_t{(*model)->text.context_tokens()}},
                        {"weight_bytes", (*model)->weight_bytes},
                        {"kv_cache_bytes", (*model)->kv_cache_bytes},
                        {"seconds", absl::ToDoubleSeconds(absl::Now() - start)}});
    models.push_back(*std::move(model));
  }
  return ModelRegistry::Make(std::move(models));
}

// ------------------------------------------------------------------------------- logging

// Where the libraries' own messages go; set while the server runs.
std::atomic<Log*> library_log{nullptr};

void OnGrpcLog(gpr_log_func_args* args) {
  Log* log = library_log.load();
  if (log == nullptr) return;
  const bool error = args->severity == GPR_LOG_SEVERITY_ERROR;
  log->Write(error ? LogLevel::kWarning : LogLevel::kDebug, "grpc",
             {{"message", std::string(args->message)}});
}

void RouteLibraryLogs(Log& log) {
  library_log = &log;
  gpr_set_log_function(OnGrpcLog);
  // Only says that a request is malformed, which the client is told.
  google::protobuf::SetLogHandler(nullptr);
}

Log MakeLog(const ServerOptions& options) {
  return Log(options.log_format == "json" ? Log::Format::kJson : Log::Format::kText,
             ParseLogLevel(options.log_level), Log::StandardError());
}

// ------------------------------------------------------------------------------- signals

// SIGTERM and SIGINT, taken by whoever waits and by nobody else.
class StopSignals {
 public:
  // REQUIRES: no other thread yet; the threads inherit the mask.
  StopSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }
  // Within `timeout`, and then false if none came.
  bool Wait(absl::Duration timeout) {
    const timespec limit = absl::ToTimespec(timeout);
    const absl::Time end = absl::Now() + timeout;
    while (absl::Now() < end) {
      if (sigtimedwait(&set_, nullptr, &limit) > 0) return true;
    }
    return false;
  }

 private:
  sigset_t set_;
};

// ----------------------------------------------------------------------------------- app

// A connection is a file, and the usual soft limit of 1,024 is for programs that
// select().
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 1 << 16);
  setrlimit(RLIMIT_NOFILE, &limit);
}

constexpr absl::Duration kPoll = absl::Milliseconds(20);
// How often it is asked whether a model's device is still there.
constexpr absl::Duration kDevicePoll = absl::Seconds(1);
// For cancelled calls to end, and for their last bytes to leave.
constexpr absl::Duration kCancelGrace = absl::Seconds(10);
constexpr absl::Duration kFlushGrace = absl::Seconds(2);

// An event costs some 100 microseconds of a core, client and kernel included.
constexpr int kStreamEventsPerCore = 500;

int32_t StreamEventsPerSecond(const ServerOptions& options) {
  if (options.stream_events_per_second > 0) return options.stream_events_per_second;
  return kStreamEventsPerCore * std::max(1u, std::thread::hardware_concurrency());
}

CallServicesOptions ToCallOptions(const ServerOptions& options) {
  return {.max_running = options.max_running,
          .max_waiting = options.max_waiting,
          .models = static_cast<int>(options.model.size()),
          .limits = {.max_text_bytes = options.max_text_bytes},
          .defaults = {.attention = options.attention()},
          .terms = {.stream_interval = absl::Milliseconds(options.stream_interval_ms),
                    .stream_events_per_second = StreamEventsPerSecond(options),
                    .price_per_device_hour = options.price_per_device_hour},
          .stream = {.write_stall = absl::Seconds(options.write_stall_seconds)},
          .batch_idle = absl::Seconds(options.batch_idle_seconds)};
}

// Everything of a running server, in the order it depends on itself. Used by the main
// thread.
class App {
 public:
  explicit App(const ServerOptions& options)
      : options_(options),
        log_(MakeLog(options)),
        metrics_(registry_),
        engines_(state_),
        services_(ToCallOptions(options), state_, metrics_, log_, SystemClock(),
                  &requests_) {
    RaiseFileLimit();
    metrics_.SetDeviceHourPrice(options.price_per_device_hour);
    RouteLibraryLogs(log_);
  }
  ~App() { library_log = nullptr; }

  int Run() {
    if (const absl::Status status = Observe(); !status.ok())
      return Fail(status, kExitOptions);
    if (const absl::Status status = Listen(); !status.ok())
      return Fail(status, kExitCannotListen);
    if (const absl::Status status = Load(); !status.ok()) return Fail(status, kExitModel);
    if (const absl::Status status = Announce(); !status.ok())
      return Fail(status, kExitUnexpected);
    absl::Status device;
    while (device.ok() && !signals_.Wait(kDevicePoll)) device = Device();
    Drain();
    return device.ok() ? kExitStopped : Fail(device, kExitDeviceLost);
  }

 private:
  int Fail(const absl::Status& status, ExitCode code) {
    log_.Error("failed", {{"error", std::string(status.message())},
                          {"code", CodeName(status.code())},
                          {"exit_code", int64_t{code}}});
    return code;
  }

  // An observer for each model; the first model's trace has the name, the others' the
  // model's number behind it.
  absl::Status Observe() {
    for (size_t i = 0; i < options_.model.size(); ++i) {
      std::unique_ptr<ScheduleTrace> trace;
      if (!options_.schedule_trace.empty()) {
        const std::string suffix = i == 0 ? "" : absl::StrCat(".", i + 1);
        QUIRE_ASSIGN_OR_RETURN(
            trace, ScheduleTrace::Open(options_.schedule_trace + suffix, log_));
      }
      observers_.emplace_back(metrics_, trace.get());
      traces_.push_back(std::move(trace));
    }
    return absl::OkStatus();
  }

  absl::Status Listen() {
    QUIRE_ASSIGN_OR_RETURN(
        grpc_, GrpcServer::Start(
                   {options_.listen, static_cast<int32_t>(options_.max_message_bytes)},
                   services_));
    if (options_.http_listen.empty()) return absl::OkStatus();
    page_ = std::make_unique<Page>(
        PageOptions{.grpc_address = grpc_->address(),
                    .price_per_device_hour = options_.price_per_device_hour,
                    .shadow_share = options_.shadow_share},
        sources_, state_, requests_);
    QUIRE_ASSIGN_OR_RETURN(http_,
                           HttpEndpoint::Start(options_.http_listen, HttpRoutes()));
    return absl::OkStatus();
  }

  std::vector<HttpRoute> HttpRoutes() const {
    std::vector<HttpRoute> routes = page_->Routes();
    routes.push_back(MetricsRoute(sources_));
    routes.push_back(HealthRoute(state_));
    return routes;
  }

  // On a thread of its own, so that a signal need not wait for it.
  absl::Status Load() {
    absl::StatusOr<std::unique_ptr<const ModelRegistry>> models;
    std::atomic<bool> done = false;
    std::thread loader([&] {
      models = LoadModels(options_, observers_, savings_, log_);
      done = true;
    });
    while (!done) {
      if (signals_.Wait(kPoll)) {
        log_.Info("stopped", {{"while", "loading"}});
        // Nothing is in work, and loading cannot be interrupted.
        std::_Exit(kExitStopped);
      }
    }
    loader.join();
    QUIRE_RETURN_IF_ERROR(models.status());
    for (const auto& model : (*models)->models()) {
      metrics_.OnModel(model->text.name,
                       ArchitectureName(model->text.config.architecture),
                       model->compute_type);
    }
    state_.Serve(*std::move(models));
    grpc_->SetServing(true);
    return absl::OkStatus();
  }

  absl::Status Announce() {
    const std::string http = http_ == nullptr ? "" : http_->address();
    if (!options_.port_file.empty()) {
      QUIRE_RETURN_IF_ERROR(WritePortFile(options_.port_file, grpc_->address(), http));
    }
    log_.Info("ready", {{"grpc", grpc_->address()},
                        {"http", http},
                        {"version", std::string(kVersion)},
                        {"seconds", absl::ToDoubleSeconds(absl::Now() - start_)}});
    return absl::OkStatus();
  }

  // Not OK: a model's device is lost.
  absl::Status Device() const {
    absl::Status device;
    for (const auto& model : state_.models()->models()) {
      device.Update(model->text.engine->stats().device);
    }
    return device;
  }

  void Drain() {
    log_.Info("draining", {{"drain_seconds", options_.drain_seconds}});
    state_.Drain();
    grpc_->SetServing(false);
    const absl::Time end = absl::Now() + absl::Seconds(options_.drain_seconds);
    bool idle = state_.WaitUntilIdle(absl::ZeroDuration());
    while (!idle && absl::Now() < end && !signals_.Wait(kPoll)) {
      idle = state_.WaitUntilIdle(absl::ZeroDuration());
    }
    if (!idle) {
      log_.Info("cancelling");
      state_.CancelAll(ServingState::ShuttingDown());
      idle = state_.WaitUntilIdle(kCancelGrace);
    }
    grpc_->Shutdown(kFlushGrace);
    log_.Info("stopped", {{"idle", idle}});
  }

  const absl::Time start_ = absl::Now();
  StopSignals signals_;
  const ServerOptions options_;
  Log log_;
  prometheus::Registry registry_;
  Metrics metrics_;
  std::vector<std::unique_ptr<ScheduleTrace>> traces_;
  std::vector<StepMetrics> observers_;  // of the models' engines, in their order
  RequestLog requests_;
  SavingsTee savings_{{&metrics_, &requests_}};
  ServingState state_;
  EngineCollector engines_;
  ProcessCollector process_;
  const std::vector<const prometheus::Collectable*> sources_ = {&registry_, &engines_,
                                                                &process_};
  CallServices services_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<Page> page_;
  std::unique_ptr<HttpEndpoint> http_;
};

}  // namespace

int RunServer(const ServerOptions& options) { return App(options).Run(); }

}  // namespace quire::server
