#include "client/client.h"

#include <grpcpp/channel.h>

#include <utility>

#include "absl/strings/str_format.h"
#include "client/connection.h"
#include "client/score_pieces.h"

namespace quire::client {

struct Client::Rep {
  ClientOptions options;
  ClientHooks hooks;
  std::unique_ptr<v1::InferenceService::StubInterface> inference;
  std::unique_ptr<v1::ModelService::StubInterface> models;

  CallState NewCall(CallOptions call) const {
    return CallState(options, hooks, std::move(call));
  }

  // gRPC itself would say RESOURCE_EXHAUSTED, as if another time could help.
  absl::Status CheckSize(const google::protobuf::Message& request) const {
    const size_t bytes = request.ByteSizeLong();
    const size_t limit = options.max_send_message_bytes;
    if (bytes <= limit) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrFormat(
        "the request has %d bytes; max_send_message_bytes allows %d", bytes, limit));
  }

  absl::Status Check(const CallOptions& call,
                     const google::protobuf::Message& request) const {
    absl::Status status = call.Validate();
    status.Update(CheckSize(request));
    return status;
  }

  template <class Response, class Request, class Method>
  absl::StatusOr<Response> Unary(const Request& request, CallOptions call,
                                 Method&& method) const {
    if (absl::Status status = Check(call, request); !status.ok()) return status;
    CallState state = NewCall(std::move(call));
    while (true) {
      Response response;
      const auto context = state.NewContext();
      const AttachedContext attached(state.cancel(), *context);
      const absl::Status status =
          state.Finish(method(context.get(), request, &response), *context);
      if (status.ok()) return response;
      if (state.WaitToRetry(status)) continue;
      return state.cancel().cancelled() ? absl::CancelledError("cancelled") : status;
    }
  }
};

Client::Client(std::shared_ptr<const Rep> rep) : rep_(std::move(rep)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::StatusOr<Client> Client::Create(ClientOptions options, ClientHooks hooks) {
  if (absl::Status status = options.Validate(); !status.ok()) return status;
  auto channel = MakeChannel(options);
  auto rep = std::make_shared<Rep>();
  rep->options = std::move(options);
  rep->hooks = std::move(hooks);
  rep->inference = v1::InferenceService::NewStub(channel);
  rep->models = v1::ModelService::NewStub(channel);
  return Client(std::move(rep));
}

EventStream<v1::SummarizeResponse> Client::Summarize(v1::SummarizeRequest request,
                                                     CallOptions call) const {
  absl::Status status = rep_->Check(call, request);
  CallState state = rep_->NewCall(std::move(call));
  if (!status.ok()) return {std::move(state), std::move(status)};
  auto start = [rep = rep_, request = std::move(request)](grpc::ClientContext* context) {
    return rep->inference->Summarize(context, request);
  };
  return {std::move(state), std::move(start)};
}

EventStream<v1::GenerateResponse> Client::Generate(v1::GenerateRequest request,
                                                   CallOptions call) const {
  absl::Status status = rep_->Check(call, request);
  CallState state = rep_->NewCall(std::move(call));
  if (!status.ok()) return {std::move(state), std::move(status)};
  auto start = [rep = rep_, request = std::move(request)](grpc::ClientContext* context) {
    return rep->inference->Generate(context, request);
  };
  return {std::move(state), std::move(start)};
}

EventStream<v1::ScoreResponse> Client::Score(v1::ScoreRequest request,
                                             CallOptions call) const {
  const bool pieces = NeedsPieces(request);
  absl::Status status = call.Validate();
  if (!pieces) status.Update(rep_->CheckSize(request));
  CallState state = rep_->NewCall(std::move(call));
  if (!status.ok()) return {std::move(state), std::move(status)};
  using Reader = std::unique_ptr<grpc::ClientReaderInterface<v1::ScoreResponse>>;
  auto start = [rep = rep_, request = std::move(request),
                pieces](grpc::ClientContext* context) -> Reader {
    if (!pieces) return rep->inference->Score(context, request);
    return std::make_unique<PiecedScoreReader>(context, *rep->inference, request);
  };
  return {std::move(state), std::move(start)};
}

ScoreBatchStream Client::ScoreBatch(CallOptions call) const {
  absl::Status status = call.Validate();
  CallState state = rep_->NewCall(std::move(call));
  if (!status.ok()) return {std::move(state), std::move(status)};
  return {std::move(state), *rep_->inference};
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request,
                                                      CallOptions call) const {
  return rep_->Unary<v1::TokenizeResponse>(
      request, std::move(call), [this](auto* context, auto& request, auto* response) {
        return rep_->inference->Tokenize(context, request, response);
      });
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(
    const v1::DetokenizeRequest& request, CallOptions call) const {
  return rep_->Unary<v1::DetokenizeResponse>(
      request, std::move(call), [this](auto* context, auto& request, auto* response) {
        return rep_->inference->Detokenize(context, request, response);
      });
}

absl::StatusOr<v1::CountTokensResponse> Client::CountTokens(
    const v1::CountTokensRequest& request, CallOptions call) const {
  return rep_->Unary<v1::CountTokensResponse>(
      request, std::move(call), [this](auto* context, auto& request, auto* response) {
        return rep_->inference->CountTokens(context, request, response);
      });
}

absl::StatusOr<v1::EstimateCostResponse> Client::EstimateCost(
    const v1::EstimateCostRequest& request, CallOptions call) const {
  return rep_->Unary<v1::EstimateCostResponse>(
      request, std::move(call), [this](auto* context, auto& request, auto* response) {
        return rep_->inference->EstimateCost(context, request, response);
      });
}

absl::StatusOr<v1::Load> Client::GetLoad(const std::string& name,
                                         CallOptions call) const {
  v1::GetLoadRequest request;
  request.set_model(name);
  auto response = rep_->Unary<v1::GetLoadResponse>(
      request, std::move(call), [this](auto* context, auto& request, auto* response) {
        return rep_->models->GetLoad(context, request, response);
      });
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_load());
}

absl::StatusOr<v1::Model> Client::GetModel(const std::string& name,
                                           CallOptions call) const {
  v1::GetModelRequest request;
  request.set_name(name);
  auto response = rep_->Unary<v1::GetModelResponse>(
      request, std::move(call), [this](auto* context, auto& request, auto* response) {
        return rep_->models->GetModel(context, request, response);
      });
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_model());
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels(CallOptions call) const {
  return rep_->Unary<v1::ListModelsResponse>(
      v1::ListModelsRequest(), std::move(call),
      [this](auto* context, auto& request, auto* response) {
        return rep_->models->ListModels(context, request, response);
      });
}

}  // namespace quire::client
