#pragma once

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "quire/v1/inference.grpc.pb.h"
#include "quire/v1/models.grpc.pb.h"
#include "server/rpc/call_services.h"

// The protocol's services over the handlers. Methods take raw bytes: requests are parsed
// and answers serialised on the server's own threads, and a request that protobuf cannot
// parse gets a clear answer. Thread-safe; gRPC calls the methods.
namespace quire::server {

using InferenceBase = v1::InferenceService::WithRawCallbackMethod_Summarize<
    v1::InferenceService::WithRawCallbackMethod_Generate<
        v1::InferenceService::WithRawCallbackMethod_Score<
            v1::InferenceService::WithRawCallbackMethod_ScoreBatch<
                v1::InferenceService::WithRawCallbackMethod_Tokenize<
                    v1::InferenceService::WithRawCallbackMethod_Detokenize<
                        v1::InferenceService::WithRawCallbackMethod_CountTokens<
                            v1::InferenceService::WithRawCallbackMethod_EstimateCost<
                                v1::InferenceService::Service>>>>>>>>;

class InferenceService final : public InferenceBase {
 public:
  using Bytes = grpc::ByteBuffer;
  using Context = grpc::CallbackServerContext;

  // Must outlive the service.
  explicit InferenceService(CallServices& services) : services_(services) {}

  grpc::ServerWriteReactor<Bytes>* Summarize(Context* context,
                                             const Bytes* request) override;
  grpc::ServerWriteReactor<Bytes>* Generate(Context* context,
                                            const Bytes* request) override;
  grpc::ServerWriteReactor<Bytes>* Score(Context* context, const Bytes* request) override;
  grpc::ServerBidiReactor<Bytes, Bytes>* ScoreBatch(Context* context) override;
  grpc::ServerUnaryReactor* Tokenize(Context* context, const Bytes* request,
                                     Bytes* response) override;
  grpc::ServerUnaryReactor* Detokenize(Context* context, const Bytes* request,
                                       Bytes* response) override;
  grpc::ServerUnaryReactor* CountTokens(Context* context, const Bytes* request,
                                        Bytes* response) override;
  grpc::ServerUnaryReactor* EstimateCost(Context* context, const Bytes* request,
                                         Bytes* response) override;

 private:
  CallServices& services_;
};

using ModelBase = v1::ModelService::WithRawCallbackMethod_GetModel<
    v1::ModelService::WithRawCallbackMethod_ListModels<
        v1::ModelService::WithRawCallbackMethod_GetLoad<v1::ModelService::Service>>>;

class ModelService final : public ModelBase {
 public:
  using Bytes = grpc::ByteBuffer;
  using Context = grpc::CallbackServerContext;

  explicit ModelService(CallServices& services) : services_(services) {}

  grpc::ServerUnaryReactor* GetModel(Context* context, const Bytes* request,
                                     Bytes* response) override;
  grpc::ServerUnaryReactor* ListModels(Context* context, const Bytes* request,
                                       Bytes* response) override;
  grpc::ServerUnaryReactor* GetLoad(Context* context, const Bytes* request,
                                    Bytes* response) override;

 private:
  CallServices& services_;
};

}  // namespace quire::server
