#include "tests/server/test_server.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/check.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "prometheus/text_serializer.h"

namespace quire::server {
namespace {

constexpr char kTemplate[] =
    "{% for m in messages %}"
    "{% if m['role'] == 'nobody' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:";

Tokenizer LoadTokenizer() {
  auto tokenizer = Tokenizer::Load(QUIRE_MODELS_DIR "/quire-19m/tokenizer.json");
  QUIRE_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

ModelConfig SmallConfig(int32_t context_tokens) {
  return {.num_layers = 1,
          .hidden_size = 8,
          .intermediate_size = 16,
          .num_heads = 2,
          .num_kv_heads = 1,
          .head_dim = 4,
          .vocab_size = kTestVocabulary,
          .max_positions = context_tokens,
          .tie_embeddings = true};
}

// An engine that counts what it is told to cancel.
class CountingEngine final : public Engine {
 public:
  CountingEngine(std::unique_ptr<Engine> engine, std::atomic<int>& cancels)
      : engine_(std::move(engine)), cancels_(cancels) {}

  absl::StatusOr<RequestId> Submit(EngineRequest request,
                                   std::unique_ptr<RequestSink> sink) override {
    return engine_->Submit(std::move(request), std::move(sink));
  }
  void Cancel(RequestId id) override {
    engine_->Cancel(id);
    ++cancels_;
  }
  absl::Status CheckAdmission(const RequestShape& shape) const override {
    return engine_->CheckAdmission(shape);
  }
  RequestEstimate Estimate(const RequestShape& shape) const override {
    return engine_->Estimate(shape);
  }
  void Drain(absl::Time deadline) override { engine_->Drain(deadline); }
  EngineStats stats() const override { return engine_->stats(); }

 private:
  const std::unique_ptr<Engine> engine_;
  std::atomic<int>& cancels_;
};

class ObserverTee final : public EngineObserver {
 public:
  ObserverTee(EngineObserver& first, EngineObserver* second)
      : first_(first), second_(second) {}
  void OnStep(const StepReport& step) override {
    first_.OnStep(step);
    if (second_ != nullptr) second_->OnStep(step);
  }
  void OnFinished(const FinishReport& finished) override {
    first_.OnFinished(finished);
    if (second_ != nullptr) second_->OnFinished(finished);
  }
  void OnWouldRefuse() override {
    first_.OnWouldRefuse();
    if (second_ != nullptr) second_->OnWouldRefuse();
  }

 private:
  EngineObserver& first_;
  EngineObserver* const second_;
};

std::unique_ptr<ServedModel> MakeModel(const TestServerOptions& options, FakeModel& fake,
                                       EngineObserver& observer,
                                       std::atomic<int>& cancels) {
  auto model = std::make_unique<ServedModel>(
      ServedModel{.activity = std::make_unique<Activity>(observer, SystemClock()),
                  .text = TextModel{.name = "tiny",
                                    .config = SmallConfig(options.context_tokens),
                                    .tokenizer = LoadTokenizer()}});
  if (options.chat) {
    auto chat = ChatTemplate::Parse(kTemplate, "", "");
    QUIRE_CHECK(chat.ok());
    auto prompts = PromptSet::FromChatTemplate(*chat);
    QUIRE_CHECK(prompts.ok());
    model->text.chat_template = *std::move(chat);
    model->text.prompts = *std::move(prompts);
  }
  if (options.begin_token) model->begin_tokens = {1};
  model->text.defaults.max_new_tokens = 8;
  model->text.stop_tokens = {0};
  model->parameters = CountParameters(model->text.config);
  model->compute_type = "float32";
  model->refined_pays_from = options.refined_pays_from;
  const int32_t blocks =
      options.kv_blocks > 0 ? options.kv_blocks : options.context_tokens / 64 * 4;
  const KvGeometry kv{.num_blocks = blocks, .tokens_per_block = 64};
  model->kv_cache_tokens = kv.capacity_tokens();
  model->limits = {.kv = kv,
                   .model = {kTestVocabulary, options.context_tokens},
                   .chunk_tokens = options.chunk_tokens,
                   .max_running = options.calls.max_running,
                   .max_waiting = options.calls.max_waiting,
                   .max_waiting_tokens = options.max_waiting_tokens,
                   .prefix_caching = options.prefix_caching,
                   .admission = options.admission,
                   .step_cost = options.step_cost,
                   .block_bytes = kTestBlockBytes};
  auto engine = Engine::Start(model->limits, fake.MakeRunner(), model->activity.get(),
                              SystemClock());
  QUIRE_CHECK(engine.ok());
  model->text.engine = std::make_unique<CountingEngine>(*std::move(engine), cancels);
  return model;
}

TestServerOptions WithRunningCut(TestServerOptions options) {
  options.calls.max_running = std::min(options.calls.max_running, options.chunk_tokens);
  return options;
}

template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status wire;
  if (!wire.ParseFromString(status.error_details())) return std::nullopt;
  Detail detail;
  for (const auto& any : wire.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

}  // namespace

TestServer::TestServer(TestServerOptions options)
    : options_(WithRunningCut(std::move(options))),
      fake_(kTestVocabulary),
      metrics_(registry_),
      step_metrics_(metrics_),
      observer_(std::make_unique<ObserverTee>(step_metrics_, options_.observer)),
      log_(Log::Format::kJson, LogLevel::kInfo,
           [this](const std::string& line) {
             std::lock_guard lock(log_mutex_);
             log_lines_.push_back(line);
           }),
      engines_(state_),
      services_(options_.calls, state_, metrics_, log_, SystemClock(), &requests_) {
  auto server = GrpcServer::Start({"127.0.0.1:0", options_.max_message_bytes}, services_);
  QUIRE_CHECK(server.ok());
  grpc_ = *std::move(server);
  const auto channel = NewChannel();
  inference_ = v1::InferenceService::NewStub(channel);
  models_ = v1::ModelService::NewStub(channel);
  if (options_.serve) Serve();
}

TestServer::~TestServer() { fake_.Release(); }

void TestServer::Serve() {
  std::vector<std::unique_ptr<ServedModel>> models;
  models.push_back(MakeModel(options_, fake_, *observer_, cancels_));
  step_metrics_.SetModel(models.back()->text.config);
  auto registry = ModelRegistry::Make(std::move(models));
  QUIRE_CHECK(registry.ok());
  state_.Serve(*std::move(registry));
  grpc_->SetServing(true);
}

const Tokenizer& TestServer::tokenizer() const {
  return state_.models()->models()[0]->text.tokenizer;
}

std::shared_ptr<grpc::Channel> TestServer::NewChannel(
    grpc::ChannelArguments arguments) const {
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(grpc_->address(), grpc::InsecureChannelCredentials(),
                                   arguments);
}

std::vector<std::string> TestServer::log() const {
  std::lock_guard lock(log_mutex_);
  return log_lines_;
}

double TestServer::Metric(const std::string& series) const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  for (auto& family : engines_.Collect()) families.push_back(std::move(family));
  const std::string page = prometheus::TextSerializer().Serialize(families);
  for (const absl::string_view line : absl::StrSplit(page, '\n')) {
    double value = 0;
    if (absl::StartsWith(line, absl::StrCat(series, " ")) &&
        absl::SimpleAtod(line.substr(series.size() + 1), &value)) {
      return value;
    }
  }
  return -1;
}

bool TestServer::WaitForMetric(const std::string& series, double value) const {
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (Metric(series) < value) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

bool TestServer::WaitForCancel() const {
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (cancels_ == 0) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

grpc::Status CallRaw(const TestServer& server, const std::string& method,
                     const std::string& request, std::string* response) {
  grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(
      server.NewChannel());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const auto call =
      stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (response != nullptr && status.ok() && answer.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      response->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  return status;
}

std::string FieldViolation(const grpc::Status& status) {
  const auto detail = DetailOf<google::rpc::BadRequest>(status);
  if (!detail.has_value() || detail->field_violations().empty()) return "";
  const auto& violation = detail->field_violations(0);
  return absl::StrCat(violation.field(), ": ", violation.description());
}

std::string Reason(const grpc::Status& status) {
  const auto detail = DetailOf<google::rpc::ErrorInfo>(status);
  return detail.has_value() && detail->domain() == "quire" ? detail->reason() : "";
}

double RetrySeconds(const grpc::Status& status) {
  const auto detail = DetailOf<google::rpc::RetryInfo>(status);
  if (!detail.has_value()) return -1;
  return static_cast<double>(detail->retry_delay().seconds()) +
         1e-9 * detail->retry_delay().nanos();
}

}  // namespace quire::server
