#include "tests/e2e/rpc.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/generic/generic_stub.h"

namespace quire::e2e {
namespace {

template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status wire;
  if (!wire.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& any : wire.details()) {
    if (Detail detail; any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

std::string Flatten(const grpc::ByteBuffer& bytes) {
  grpc::Slice slice;
  if (!bytes.DumpToSingleSlice(&slice).ok()) return "";
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

}  // namespace

RawClient::RawClient(const std::string& address, grpc::ChannelArguments arguments) {
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxSendMessageSize(-1);
  channel_ =
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  inference_ = v1::InferenceService::NewStub(channel_);
}

// Debian packages no generated code of this service: the request's only field is 1, a
// string of less than 128 bytes; the answer's only field is 1, a small number.
int RawClient::Health(const std::string& service) {
  const std::string bytes =
      absl::StrCat("\x0A", std::string(1, static_cast<char>(service.size())), service);
  const grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1), response;
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return -static_cast<int>(status.error_code());
  const std::string answer = Flatten(response);
  return answer.size() == 2 ? answer[1] : 0;
}

StreamResult<v1::GenerateResponse> Generate(RawClient& client,
                                            const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  StreamResult<v1::GenerateResponse> result;
  ReadInto(*client.inference().Generate(&context, request), result);
  return result;
}

StreamResult<v1::ScoreResponse> Score(RawClient& client,
                                      const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  StreamResult<v1::ScoreResponse> result;
  ReadInto(*client.inference().Score(&context, request), result);
  return result;
}

v1::GenerateRequest SmallRequest() {
  v1::GenerateRequest request;
  request.mutable_input()->set_text("Once upon a time");
  request.set_max_new_tokens(2);
  return request;
}

std::string FieldViolation(const grpc::Status& status) {
  const auto detail = DetailOf<google::rpc::BadRequest>(status);
  if (!detail.has_value() || detail->field_violations().empty()) return "";
  const auto& violation = detail->field_violations(0);
  return absl::StrCat(violation.field(), ": ", violation.description());
}

std::string Reason(const grpc::Status& status) {
  const auto detail = DetailOf<google::rpc::ErrorInfo>(status);
  return detail.has_value() ? detail->reason() : "";
}

}  // namespace quire::e2e
