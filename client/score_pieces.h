#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "quire/v1/inference.pb.h"

namespace quire::client {

// Inputs beyond this go over ScoreBatch in pieces.
inline constexpr size_t kMaxWholeInputBytes = size_t{1} << 20;
// With 10,000 spans of 20 bytes in the first message, none comes near gRPC's usual 4 MiB.
inline constexpr size_t kPieceBytes = size_t{512} << 10;
// A negative id, which the server refuses by name, takes 10 bytes on the wire.
inline constexpr int kPieceTokens = kPieceBytes / 10;

// Whether the request is too large for one message.
bool NeedsPieces(const v1::ScoreRequest& request);

// Cuts a request into the messages of a ScoreBatch call, one at a time, so that no second
// copy of a long text is held. The request outlives this object. One thread.
class ScorePieces {
 public:
  ScorePieces(std::string id, const v1::ScoreRequest& request);

  // nullopt: the last one was given. A request without input gives one message without
  // source.
  std::optional<v1::ScoreBatchRequest> Next();

 private:
  void TakeText(v1::ScoreBatchRequest& piece);
  void TakeTokens(v1::ScoreBatchRequest& piece);

  const std::string id_;
  const v1::ScoreRequest& request_;
  size_t begin_ = 0;  // of the next piece: bytes, or tokens
  bool first_ = true;
  bool done_ = false;
};

}  // namespace quire::client
