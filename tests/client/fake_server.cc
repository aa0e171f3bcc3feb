#include "tests/client/fake_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <mutex>
#include <utility>

#include "google/rpc/error_details.pb.h"

namespace quire::client::testing {
namespace {

// What a script wrote may be read once its server is gone. gRPC orders the two, but out
// of ThreadSanitizer's sight, so this lock does it again.
std::mutex& ScriptsMutex() {
  static std::mutex mutex;
  return mutex;
}

template <class Step, class... Arguments>
grpc::Status Play(const Step& step, Arguments&&... arguments) {
  if (!step) return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "not in the script");
  grpc::Status status = step(std::forward<Arguments>(arguments)...);
  const std::lock_guard lock(ScriptsMutex());
  return status;
}

grpc::Status WithDetail(grpc::StatusCode code, const std::string& message,
                        const google::protobuf::Message& detail) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  status.add_details()->PackFrom(detail);
  return grpc::Status(code, message, status.SerializeAsString());
}

}  // namespace

class FakeServer::Inference final : public v1::InferenceService::Service {
 public:
  explicit Inference(Script script) : script_(std::move(script)) {}

  grpc::Status Summarize(grpc::ServerContext* context,
                         const v1::SummarizeRequest* request,
                         grpc::ServerWriter<v1::SummarizeResponse>* writer) override {
    return Play(script_.summarize, context, *request, writer);
  }
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    return Play(script_.generate, context, *request, writer);
  }
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     grpc::ServerWriter<v1::ScoreResponse>* writer) override {
    return Play(script_.score, context, *request, writer);
  }
  grpc::Status ScoreBatch(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::ScoreBatchResponse, v1::ScoreBatchRequest>* stream)
      override {
    return Play(script_.score_batch, context, stream);
  }
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    return Play(script_.tokenize, context, *request, response);
  }
  grpc::Status Detokenize(grpc::ServerContext* context,
                          const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    return Play(script_.detokenize, context, *request, response);
  }
  grpc::Status CountTokens(grpc::ServerContext* context,
                           const v1::CountTokensRequest* request,
                           v1::CountTokensResponse* response) override {
    return Play(script_.count_tokens, context, *request, response);
  }
  grpc::Status EstimateCost(grpc::ServerContext* context,
                            const v1::EstimateCostRequest* request,
                            v1::EstimateCostResponse* response) override {
    return Play(script_.estimate_cost, context, *request, response);
  }

 private:
  const Script script_;
};

class FakeServer::Models final : public v1::ModelService::Service {
 public:
  explicit Models(Script script) : script_(std::move(script)) {}

  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::GetModelResponse* response) override {
    return Play(script_.get_model, context, *request, response);
  }
  grpc::Status ListModels(grpc::ServerContext* context,
                          const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override {
    return Play(script_.list_models, context, *request, response);
  }
  grpc::Status GetLoad(grpc::ServerContext* context, const v1::GetLoadRequest* request,
                       v1::GetLoadResponse* response) override {
    return Play(script_.get_load, context, *request, response);
  }

 private:
  const Script script_;
};

FakeServer::FakeServer(Script script)
    : inference_(std::make_unique<Inference>(script)),
      models_(std::make_unique<Models>(std::move(script))) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(inference_.get());
  builder.RegisterService(models_.get());
  server_ = builder.BuildAndStart();
}

FakeServer::~FakeServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  const std::lock_guard lock(ScriptsMutex());
}

std::string FakeServer::address() const { return "127.0.0.1:" + std::to_string(port_); }

grpc::Status ErrorWithField(grpc::StatusCode code, const std::string& message,
                            const std::string& field, const std::string& description) {
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  return WithDetail(code, message, detail);
}

grpc::Status ErrorWithRetryDelay(grpc::StatusCode code, const std::string& message,
                                 absl::Duration delay) {
  google::rpc::RetryInfo detail;
  detail.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  detail.mutable_retry_delay()->set_nanos(
      absl::ToInt64Nanoseconds(delay - absl::Seconds(absl::ToInt64Seconds(delay))));
  return WithDetail(code, message, detail);
}

}  // namespace quire::client::testing
