#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/types.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/sampling/sampler.h"
#include "core/step/step.h"

namespace quire {

// Continue a prompt.
struct GenerateRequest {
  std::vector<TokenId> prompt;  // never empty
  int32_t max_new_tokens = 0;   // >= 1; prompt + max_new_tokens <= max_positions
  std::vector<TokenId>
      stop_tokens;  // generation ends when one is chosen; it is not reported
  SamplingParams sampling;
  int32_t top_logprobs = 0;  // alternatives reported with each token, 0..kMaxTopLogprobs
  AttentionOptions attention;
  // Not empty: the answer, whatever would have been chosen; each token is reported with
  // its own logprob. As many as max_new_tokens; stop_tokens do not matter.
  std::vector<TokenId> forced;
};

// The probability of tokens[i] after tokens[..i), for i in [first, tokens.size()). The
// last token is not computed and counts neither as progress nor in Usage: nothing is
// asked after it.
struct ScoreRequest {
  std::vector<TokenId> tokens;  // at least 2, at most max_positions
  int32_t first = 1;            // >= 1; what stands before is context only
  int32_t top_logprobs = 0;
  bool ranks = false;
  bool importance = false;  // tell the sink, see RequestSink::OnImportance
  AttentionOptions attention;
};

inline constexpr int32_t kMaxTopLogprobs = 20;

inline constexpr int32_t kMinPriority = -2;
inline constexpr int32_t kMaxPriority = 2;
inline constexpr size_t kMaxTenantBytes = 64;

// Whose request it is and how urgent.
struct Scheduling {
  int32_t priority = 0;  // [kMinPriority, kMaxPriority]; the highest goes first
  std::string tenant;    // at most kMaxTenantBytes bytes; "" is a tenant like any other
  // A call may read its text in several passes, each a request. What the passes after
  // this one will take counts when its deadline is judged; and a pass after the first is
  // not refused for want of room or time, since its call was admitted.
  int64_t later_prompt_tokens = 0;
  int64_t later_new_tokens = 0;
  bool admitted = false;
  std::string call_id;  // of that call, for whoever measures; the engine does not care
};

// A request that nobody waits for, such as one that is computed again to be measured. It
// is computed only in steps in which no other request could be, neither finds nor leaves
// anything in the prefix cache, is not admitted (nor counted as load), and ends with
// kAborted when others need its memory.
struct Background {
  // DeviceTime counts from this token of the prompt on: what the prefix cache had for the
  // request that is measured.
  int64_t measure_from = 0;
};

struct EngineRequest {
  std::variant<GenerateRequest, ScoreRequest> work;
  absl::Time deadline = absl::InfiniteFuture();
  Scheduling scheduling;
  std::optional<Background> background;
};

// What a request consumed. Integers only, so sums are exact.
struct Usage {
  int64_t prompt_tokens = 0;     // computed or cached
  int64_t cached_tokens = 0;     // of these, found in the cache
  int64_t generated_tokens = 0;  // as many as were reported: without the stop token
  Usage& operator+=(const Usage& other);
  friend bool operator==(const Usage&, const Usage&) = default;
};

struct Timings {
  absl::Duration queue;    // accepted until its first step began
  absl::Duration prefill;  // first step began until the prompt was computed
  absl::Duration decode;   // the rest; waiting after a preemption counts where it falls
  Timings& operator+=(const Timings& other);
};

enum class FinishReason : uint8_t { kStopToken, kLength, kScored };

// The time that steps took for one request: of each step its part, by what its rows were
// expected to cost.
struct DeviceTime {
  absl::Duration prefill;
  absl::Duration decode;
  // True: no other request was in any of its steps, so the times are its own, not shares.
  bool alone = true;
  // What dense attention of the same rows would have taken: the times above, by the ratio
  // of the steps' expected costs.
  absl::Duration dense_prefill;
  absl::Duration dense_decode;
  absl::Duration skipped;  // for rows before Background::measure_from, in no other
  DeviceTime& operator+=(const DeviceTime& other);
  absl::Duration total() const { return prefill + decode; }
  absl::Duration dense_total() const { return dense_prefill + dense_decode; }
};

struct Finished {
  // OK, kCancelled, kDeadlineExceeded, or what the runner returned. The reason is
  // meaningful only when OK; all else always is.
  absl::Status status;
  FinishReason reason = FinishReason::kLength;
  Usage usage;
  Timings timings;
  AttentionReceipt attention;
  DeviceTime device;
  // Its columns (AttentionWork) by layer and key/value head, [layers, G]; empty if the
  // runner does not tell.
  std::vector<int64_t> head_columns;
};

// Adds the columns of another pass; passes of other shapes cannot be of one model.
void AddHeadColumns(const std::vector<int64_t>& pass, std::vector<int64_t>& sum);

// Receives one request's output. Called from one thread of the engine's own, in order;
// OnFinished exactly once and last. Implementations must not block and must not call the
// engine.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  // Prompt tokens computed so far, out of all; after each chunk.
  virtual void OnProgress(int64_t done_tokens, int64_t total_tokens) = 0;
  virtual void OnToken(const TokenScore& token) = 0;          // Generate
  virtual void OnScores(std::vector<TokenScore> scores) = 0;  // Score, a chunk at a time
  // Score with `importance`, once, after the last scores: for each token that was read,
  // the mean share of attention that the sampled queries from it on pay to it
  // (AttentionProbe).
  virtual void OnImportance(std::vector<float> importance) = 0;
  virtual void OnFinished(const Finished& finished) = 0;
};

}  // namespace quire
