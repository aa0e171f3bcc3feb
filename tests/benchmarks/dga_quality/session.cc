#include "tests/benchmarks/dga_quality/session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "ATen/TensorOperators.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/log_softmax.h"
#include "ATen/ops/logsumexp.h"
#include "core/base/status_macros.h"

namespace quire::quality {
namespace {

constexpr int64_t kLogitRows = 64;  // that exist at a time, as in the runner

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() {
    seconds_ +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  }

 private:
  double& seconds_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> Session::Load(const ModelFiles& files,
                                                       ComputeType compute,
                                                       int64_t most_tokens) {
  std::unique_ptr<Session> session(new Session);
  const bool fast = kernels::HasFastBFloat16() && files.config.head_dim % 64 == 0;
  if (compute == ComputeType::kBFloat16 && !fast) {
    return absl::FailedPreconditionError("this CPU or model has no fast bfloat16");
  }
  session->config_ = files.config;
  session->type_ = compute == ComputeType::kFloat32 || !fast ? at::kFloat : at::kBFloat16;
  const KvGeometry geometry = {.num_blocks = KvGeometry{}.BlocksFor(most_tokens)};
  QUIRE_ASSIGN_OR_RETURN(session->decoder_,
                         Decoder::Load(files.config, *files.weights, session->type_));
  session->cache_ = std::make_unique<KvCache>(files.config, geometry, session->type_);
  session->blocks_.resize(geometry.num_blocks);
  return session;
}

at::Tensor Session::Step(absl::Span<const TokenId> tokens, Position begin,
                         int64_t prefill, AttentionControl& control) {
  const auto rows = static_cast<int64_t>(tokens.size());
  SequenceAttention sequence = {
      .rows = {0, rows, begin, blocks_},
      .options = control.options(),
      .state = &state_,
      .compact = control.options().compact && begin + rows == prefill};
  const at::Tensor hidden =
      decoder_->Forward(tokens, absl::MakeSpan(&sequence, 1), *cache_);
  control.Add(sequence.stats, begin < prefill);
  if (sequence.compact) Drop(sequence, control);
  return hidden;
}

// What the runner and the engine do in compact mode when a prompt has been read.
void Session::Drop(const SequenceAttention& sequence, AttentionControl& control) {
  const std::vector<int32_t> pages =
      PagesToDrop(sequence, config_.num_kv_heads, sequence.options.eps);
  if (pages.empty()) return;
  std::vector<BlockId> dropped;
  for (const int32_t page : pages) {
    dropped.push_back(std::exchange(blocks_[page], kNoBlock));
  }
  for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
    state_.dropped.push_back(
        kernels::MeansOf(*cache_->index(layer), pages, dropped, type_));
  }
  control.AddDropped(KvBytes(static_cast<int64_t>(pages.size()) * kGroupTokens));
}

void Session::Score(absl::Span<const TokenId> next, const at::Tensor& hidden,
                    std::vector<float>& logprobs) const {
  const auto rows = static_cast<int64_t>(next.size());
  for (int64_t first = 0; first < rows; first += kLogitRows) {
    const int64_t count = std::min(kLogitRows, rows - first);
    const at::Tensor logits = decoder_->Logits(hidden.narrow(0, first, count));
    const at::Tensor sums = at::logsumexp(logits, {1});
    for (int64_t i = 0; i < count; ++i) {
      logprobs.push_back(
          logits.const_data_ptr<float>()[i * logits.size(1) + next[first + i]] -
          sums.const_data_ptr<float>()[i]);
    }
  }
}

Reading Session::Read(absl::Span<const TokenId> tokens, int64_t prefill, int64_t chunk,
                      const AttentionOptions& options) {
  const auto size = static_cast<int64_t>(tokens.size());
  const bool whole =
      options.mode == AttentionMode::kFaithful && options.faithful.whole_prompt;
  Reading reading;
  reading.hidden = at::empty({size, config_.hidden_size}, at::kFloat);
  AttentionControl control(options);
  state_ = {};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i] = BlockId{static_cast<int32_t>(i)};
  }
  for (int64_t begin = 0; begin < size;) {
    const bool prompt = begin < prefill;
    const int64_t most = !prompt ? 1 : whole ? prefill : chunk;
    const int64_t end = std::min(begin + most, prompt ? prefill : size);
    at::Tensor hidden;
    {
      Stopwatch watch(prompt ? reading.prefill_seconds : reading.decode_seconds);
      hidden = Step(tokens.subspan(begin, end - begin), static_cast<Position>(begin),
                    prefill, control);
    }
    reading.hidden.narrow(0, begin, end - begin).copy_(hidden);
    {
      Stopwatch watch(prompt ? reading.prefill_head_seconds : reading.decode_seconds);
      const int64_t known = std::min(end, size - 1) - begin;  // next tokens
      Score(tokens.subspan(begin + 1, known), hidden, reading.logprobs);
    }
    begin = end;
  }
  reading.receipt = control.receipt();
  return reading;
}

at::Tensor Session::LogProbs(const at::Tensor& hidden) const {
  return at::log_softmax(decoder_->Logits(hidden), 1);
}

double Session::IndexShare() const {
  return static_cast<double>(cache_->index_bytes()) /
         static_cast<double>(cache_->bytes());
}

int64_t Session::KvBytes(int64_t tokens) const {
  return tokens * config_.KvBytesPerToken(static_cast<int64_t>(at::elementSize(type_)));
}

}  // namespace quire::quality
