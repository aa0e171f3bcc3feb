#include "server/rpc/services.h"

#include <memory>
#include <utility>

#include "core/base/status_macros.h"
#include "server/rpc/batch_call.h"
#include "server/rpc/event_writer.h"
#include "server/rpc/handlers.h"
#include "server/rpc/parse_request.h"
#include "server/rpc/status.h"
#include "server/rpc/streaming_call.h"

namespace quire::server {
namespace {

using Bytes = grpc::ByteBuffer;
using Context = grpc::CallbackServerContext;
using WriteReactor = grpc::ServerWriteReactor<Bytes>;

// gRPC keeps `bytes` until the call's OnDone.
template <typename Request, typename Response>
WriteReactor* StartStream(CallServices& services, Method method, Context* context,
                          const Bytes* bytes,
                          absl::Status (*handle)(const Request&, EventWriter<Response>&,
                                                 CallContext&)) {
  auto call = std::make_shared<StreamingCall<WriteReactor>>(services, method, context);
  call->Start(
      [bytes, handle](OutputStream& stream, CallContext& context) -> absl::Status {
        Request request;
        QUIRE_RETURN_IF_ERROR(ParseRequest(*bytes, request));
        EventWriter<Response> events(stream);
        return handle(request, events, context);
      });
  return call.get();
}

template <typename Request, typename Response>
using UnaryHandler = absl::Status (*)(const Request&, Response&, CallContext&);

// A call with one answer, from its arrival to its end.
template <typename Request, typename Response>
struct UnaryCall {
  CallServices& services;
  CallContext call;
  ServingState::Ticket ticket;
  const Bytes* bytes;
  Bytes* answer;
  UnaryHandler<Request, Response> handle;
  grpc::ServerUnaryReactor* reactor;

  absl::Status Answer() {
    if (services.PassedDeadline(call)) {
      return absl::DeadlineExceededError("the deadline passed while the call waited");
    }
    Request request;
    QUIRE_RETURN_IF_ERROR(ParseRequest(*bytes, request));
    Response response;
    QUIRE_RETURN_IF_ERROR(handle(request, response, call));
    *answer = ToByteBuffer(response);
    return absl::OkStatus();
  }

  void Run() { End(Answer()); }

  void End(const absl::Status& status) {
    services.Report(call, status);
    reactor->Finish(ToGrpcStatus(status));
  }
};

template <typename Request, typename Response>
grpc::ServerUnaryReactor* StartUnary(CallServices& services, Method method,
                                     Context* context, const Bytes* bytes, Bytes* answer,
                                     UnaryHandler<Request, Response> handle) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  CallContext call = services.MakeContext(method, *context);
  auto ticket = services.Admit(call, nullptr);
  if (!ticket.ok()) {
    services.Report(call, ticket.status());
    reactor->Finish(ToGrpcStatus(ticket.status()));
    return reactor;
  }
  auto work = std::make_shared<UnaryCall<Request, Response>>(UnaryCall<Request, Response>{
      services, std::move(call), *std::move(ticket), bytes, answer, handle, reactor});
  if (!services.short_calls().TryRun([work] { work->Run(); })) {
    work->End(services.Full(work->call));
  }
  return reactor;
}

}  // namespace

WriteReactor* InferenceService::Summarize(Context* context, const Bytes* request) {
  return StartStream(services_, Method::kSummarize, context, request, HandleSummarize);
}

WriteReactor* InferenceService::Generate(Context* context, const Bytes* request) {
  return StartStream(services_, Method::kGenerate, context, request, HandleGenerate);
}

WriteReactor* InferenceService::Score(Context* context, const Bytes* request) {
  return StartStream(services_, Method::kScore, context, request, HandleScore);
}

grpc::ServerBidiReactor<Bytes, Bytes>* InferenceService::ScoreBatch(Context* context) {
  auto call = std::make_shared<BatchCall>(services_, context);
  call->StartBatch();
  return call.get();
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(Context* context,
                                                     const Bytes* request,
                                                     Bytes* response) {
  return StartUnary(services_, Method::kTokenize, context, request, response,
                    HandleTokenize);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(Context* context,
                                                       const Bytes* request,
                                                       Bytes* response) {
  return StartUnary(services_, Method::kDetokenize, context, request, response,
                    HandleDetokenize);
}

grpc::ServerUnaryReactor* InferenceService::CountTokens(Context* context,
                                                        const Bytes* request,
                                                        Bytes* response) {
  return StartUnary(services_, Method::kCountTokens, context, request, response,
                    HandleCountTokens);
}

grpc::ServerUnaryReactor* InferenceService::EstimateCost(Context* context,
                                                         const Bytes* request,
                                                         Bytes* response) {
  return StartUnary(services_, Method::kEstimateCost, context, request, response,
                    HandleEstimateCost);
}

grpc::ServerUnaryReactor* ModelService::GetModel(Context* context, const Bytes* request,
                                                 Bytes* response) {
  return StartUnary(services_, Method::kGetModel, context, request, response,
                    HandleGetModel);
}

grpc::ServerUnaryReactor* ModelService::ListModels(Context* context, const Bytes* request,
                                                   Bytes* response) {
  return StartUnary(services_, Method::kListModels, context, request, response,
                    HandleListModels);
}

grpc::ServerUnaryReactor* ModelService::GetLoad(Context* context, const Bytes* request,
                                                Bytes* response) {
  return StartUnary(services_, Method::kGetLoad, context, request, response,
                    HandleGetLoad);
}

}  // namespace quire::server
