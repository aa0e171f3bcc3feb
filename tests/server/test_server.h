#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "grpcpp/grpcpp.h"
#include "prometheus/registry.h"
#include "quire/v1/inference.grpc.pb.h"
#include "quire/v1/models.grpc.pb.h"
#include "server/observability/collectors.h"
#include "server/observability/log.h"
#include "server/observability/metrics.h"
#include "server/page/request_log.h"
#include "server/rpc/call_services.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/serving_state.h"
#include "tests/support/fake_runner.h"

namespace quire::server {

struct TestServerOptions {
  CallServicesOptions calls;
  int32_t max_message_bytes = 4 << 20;
  int32_t context_tokens = 256;
  int32_t chunk_tokens = 16;  // calls.max_running is cut to it
  int32_t kv_blocks = 0;      // of 64 tokens; 0: four contexts
  int64_t max_waiting_tokens = 1 << 20;
  PrefixCaching prefix_caching = PrefixCaching::kOff;
  AdmissionMode admission = AdmissionMode::kOff;
  StepCost step_cost = DefaultStepCost();
  int32_t refined_pays_from = 0;
  bool chat = true;
  bool begin_token = false;            // as if the tokenizer put token 1 before a text
  bool serve = true;                   // false: still loading
  EngineObserver* observer = nullptr;  // told all that the metrics are, after them
};

// The whole service but for the model: a real port, the real engine and the tokenizer of
// quire-19m over a FakeModel (which says the last token's id + 1).
class TestServer {
 public:
  explicit TestServer(TestServerOptions options = {});
  ~TestServer();

  FakeModel& fake() { return fake_; }
  Engine& engine() { return *state_.models()->models()[0]->text.engine; }
  const Tokenizer& tokenizer() const;
  ServingState& state() { return state_; }
  GrpcServer& grpc() { return *grpc_; }
  prometheus::Registry& registry() { return registry_; }
  const EngineCollector& engines() const { return engines_; }
  const RequestLog& requests() const { return requests_; }
  // Publishes the model, if `serve` was false.
  void Serve();

  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::ModelService::Stub& models() { return *models_; }
  std::shared_ptr<grpc::Channel> NewChannel(grpc::ChannelArguments arguments = {}) const;

  // Lines of the log so far.
  std::vector<std::string> log() const;
  // The page's value of "name{label=\"value\"}" exactly as it is written there; -1: no
  // line.
  double Metric(const std::string& series) const;
  // Waits until that series has at least that value.
  bool WaitForMetric(const std::string& series, double value) const;
  // Waits until the engine was told to cancel a request: a broken off call has got there.
  bool WaitForCancel() const;

 private:
  const TestServerOptions options_;
  FakeModel fake_;
  std::atomic<int> cancels_{0};  // that the engine was told of
  prometheus::Registry registry_;
  Metrics metrics_;
  StepMetrics step_metrics_;
  const std::unique_ptr<EngineObserver> observer_;  // the two together
  mutable std::mutex log_mutex_;
  std::vector<std::string> log_lines_;
  Log log_;
  ServingState state_;
  EngineCollector engines_;
  RequestLog requests_;
  CallServices services_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

constexpr int32_t kTestVocabulary = 8192;
constexpr int64_t kTestBlockBytes = 1000;

// Everything a stream sent, and how it ended.
template <typename Response>
struct StreamResult {
  std::vector<Response> events;
  grpc::Status status;
};

template <typename Response>
StreamResult<Response> ReadAll(std::unique_ptr<grpc::ClientReader<Response>> reader) {
  StreamResult<Response> result;
  Response event;
  while (reader->Read(&event)) result.events.push_back(event);
  result.status = reader->Finish();
  return result;
}

// A unary call of bytes that need be no message; `response` may be null.
grpc::Status CallRaw(const TestServer& server, const std::string& method,
                     const std::string& request, std::string* response = nullptr);

// "path: description" of the first BadRequest violation, or "".
std::string FieldViolation(const grpc::Status& status);
// ErrorInfo's reason if its domain is "quire", or "".
std::string Reason(const grpc::Status& status);
// RetryInfo's seconds, or -1.
double RetrySeconds(const grpc::Status& status);

}  // namespace quire::server
