#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "quire/v1/inference.grpc.pb.h"
#include "tests/e2e/service.h"

// A client without manners, for what `quire` refuses to send.
namespace quire::e2e {

class RawClient {
 public:
  explicit RawClient(const std::string& address, grpc::ChannelArguments arguments = {});
  v1::InferenceService::Stub& inference() { return *inference_; }

  // grpc.health.v1.Health/Check: 1 serving, 2 not serving; minus the code of an error.
  int Health(const std::string& service);

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
};

inline constexpr int kHealthServing = 1;
inline constexpr int kHealthNotServing = 2;

// Everything a stream sent, and how it ended.
template <typename Response>
struct StreamResult {
  std::vector<Response> events;
  grpc::Status status;
};

template <typename Reader, typename Response>
void ReadInto(Reader& reader, StreamResult<Response>& result) {
  Response event;
  while (reader.Read(&event)) result.events.push_back(event);
  result.status = reader.Finish();
}

StreamResult<v1::GenerateResponse> Generate(RawClient& client,
                                            const v1::GenerateRequest& request);
StreamResult<v1::ScoreResponse> Score(RawClient& client, const v1::ScoreRequest& request);

// A request that any healthy server of quire-19m answers at once.
v1::GenerateRequest SmallRequest();

// "path: description" of the first BadRequest violation, or "".
std::string FieldViolation(const grpc::Status& status);
// ErrorInfo's reason, or "".
std::string Reason(const grpc::Status& status);

}  // namespace quire::e2e
