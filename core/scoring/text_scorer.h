#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/cancellation.h"
#include "core/dga/attention_options.h"
#include "core/dga/attention_stats.h"
#include "core/engine/engine.h"
#include "core/engine/request.h"
#include "core/step/step.h"

namespace quire {

struct TextScoreOptions {
  int32_t overlap_tokens =
      0;  // between windows, 1 .. context_tokens - 1; 0: a quarter of it
  int32_t top_logprobs = 0;
  bool ranks = false;
  bool importance = false;     // tell the observer, see TextScoreObserver::OnImportance
  AttentionOptions attention;  // of every window
  absl::Time deadline = absl::InfiniteFuture();
  // The first window's; those after it are told to be admitted already.
  Scheduling scheduling;
};

struct ScoreProgress {
  int64_t done_tokens = 0;  // of this window
  int64_t total_tokens = 0;
  int32_t window = 1;
  int32_t windows = 1;
};

// Told of a text's scores as they are computed, on the calling thread. An error stops the
// scoring and is returned.
class TextScoreObserver {
 public:
  virtual ~TextScoreObserver() = default;
  virtual absl::Status OnProgress(const ScoreProgress& progress) = 0;
  // scores[i] belongs to token first_token + i; every token is reported exactly once, in
  // order; at most kMaxScoreBlock at a time. The very first token of the text has no
  // probability: logprob NaN, rank 0, no alternatives.
  virtual absl::Status OnScores(int64_t first_token,
                                absl::Span<const TokenScore> scores) = 0;
  // If asked for: how much more than others in its place each token is attended to, after
  // each window's scores. importance[i] belongs to token first_token + i; every token is
  // reported exactly once, in order; at most kMaxScoreBlock at a time.
  //
  // With s_i the mean share of attention that sampled queries at i and beyond pay to
  // token i (AttentionProbe), and u_i the same of attention that falls with the distance,
  // 1 / (q - i + 1) / (1 + 1/2 + ... + 1 / (q + 1)) for the query q, this is s_i / u_i.
  // The law was measured: with it, medians over 512 tokens lie within .4 and .5 of each
  // other (quire-135m) or .8 and 1.1 (quire-19m) from a story's beginning to its end, and
  // do not depend on how far the next sampled query is. Divided by even attention, 1 / (q
  // + 1), the last 500 tokens had 60 times the median of the first and every 32nd token 6
  // times its neighbours'. So windows are comparable. The first token a model reads takes
  // hundreds of times its share, which says nothing of its meaning. Of the tokens that
  // two windows read, the first half is reported from the one before, the other from the
  // one after: there a token has both something before it and queries beyond it. The
  // text's last token, which is not read, has 0.
  virtual absl::Status OnImportance(int64_t /*first_token*/,
                                    absl::Span<const float> /*importance*/) {
    return absl::OkStatus();
  }
};

inline constexpr int32_t kMaxScoreBlock = 4096;

struct TextScoreResult {
  double logprob = 0;  // sum over the scored tokens
  int64_t scored_tokens = 0;
  int32_t windows = 1;
  int32_t overlap_tokens = 0;  // 0 if one window was enough
  Usage usage;
  Timings timings;
  AttentionReceipt attention;
  DeviceTime device;
  std::vector<int64_t> head_columns;  // see Finished
};

// How many windows ScoreText reads `tokens` tokens in. REQUIRES: tokens >= 1,
// context_tokens
// >= 2, overlap_tokens in [0, context_tokens).
int32_t CountScoreWindows(int64_t tokens, int32_t context_tokens, int32_t overlap_tokens);

// Windows that read as many tokens each: all of a window but its last.
struct ScoreWindows {
  int64_t read_tokens = 0;
  int64_t count = 1;
  friend bool operator==(const ScoreWindows&, const ScoreWindows&) = default;
};
// In order; all windows are alike but the last. A text of one token is not read: empty.
std::vector<ScoreWindows> PlanScoreWindows(int64_t tokens, int32_t context_tokens,
                                           int32_t overlap_tokens);

// The probability of every token of a text of any length. Texts longer than
// context_tokens are read in windows that overlap; each token is scored once, in the
// first window that reaches it with its context. Memory does not grow with the text: the
// next window is submitted when the observer has taken the one before. Blocks the calling
// thread. Errors: kInvalidArgument (fewer than 1 token, overlap out of range, the
// attention does not suit the text), the engine's, the observer's.
absl::StatusOr<TextScoreResult> ScoreText(Engine& engine, int32_t context_tokens,
                                          absl::Span<const TokenId> tokens,
                                          const TextScoreOptions& options,
                                          Cancellation* cancellation,
                                          TextScoreObserver& observer);

}  // namespace quire
