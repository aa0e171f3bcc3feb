#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace quire::cli {

// One document read at one eps, beside the same document read densely. Compared are the
// tokens that may be read sparsely: those from min_sparse_tokens on that have a logprob.
struct Measurement {
  std::string document;  // key of its text
  double eps = 0;
  int64_t tokens = 0;    // compared
  int64_t agreed = 0;    // of these, whose most probable token is dense attention's
  double abs_delta = 0;  // sum of |logprob - dense logprob|, nats
  double logprob = 0;    // sums
  double dense_logprob = 0;
  double columns = 0;  // keys read by query heads, whole document
  double dense_columns = 0;
  double macs = 0;  // multiply-adds of attention, choosing included
  double dense_macs = 0;
  double seconds = 0;  // reading the prompt, as the server measured it
  double dense_seconds = 0;
  bool sparse = false;  // any row was
  int64_t audited_tokens = 0;
  double audited_error = 0;  // mean over these
  double max_audited_error = 0;
};

// A number, and what it is with the wanted confidence at least and at most (each alone).
struct Bounded {
  double value = 0;
  double low = 0;
  double high = 0;
};

// All documents at one eps together: tokens are weighed alike, whatever document they are
// of.
struct EpsSummary {
  double eps = 0;
  int documents = 0;
  int64_t tokens = 0;
  Bounded agreement;            // share of tokens
  Bounded drift;                // mean |difference of logprob|, nats
  double perplexity_ratio = 1;  // of dense perplexity
  double density = 1;           // share of keys read
  double saved = 0;             // share of attention's multiply-adds; negative: a loss
  // Dense seconds over own: the middle document's, as a server has other work at times.
  double speedup = 1;
  double audited_error = 0;  // mean over audited tokens; 0: none
  double max_audited_error = 0;
};

struct Bootstrap {
  int samples = 2000;
  uint64_t seed = 1;
  double confidence = 0.95;  // of each bound alone
};

// Draws documents with replacement: what varies is which documents a user happens to
// have, not the tokens within one. The same input gives the same result on every machine.
// REQUIRES: measurements of one eps, at least one, each with tokens.
EpsSummary Summarise(absl::Span<const Measurement> measurements,
                     const Bootstrap& bootstrap);

// What the user asks for; at least one of them.
struct Wanted {
  std::optional<double> agreement;  // at least
  std::optional<double> max_drift;  // at most, nats
};

// Whether the bounds, not the values, are as wanted.
bool Holds(const EpsSummary& summary, const Wanted& wanted);

struct Recommendation {
  std::optional<double> eps;  // unset: dense
  // The audited error of a request above which something is amiss: a quarter above
  // the largest one seen at this eps, in two digits; 1: there was none.
  double max_error = 1;
};

// The largest eps that holds, as do all smaller ones that were measured, and that saves
// work. REQUIRES: ascending in eps.
Recommendation Recommend(absl::Span<const EpsSummary> summaries, const Wanted& wanted);

// What is worth measuring next: between the largest eps that holds and the next one, or
// half the smallest; unset: they are within a tenth, or nothing is left to find.
// REQUIRES: ascending in eps.
std::optional<double> NextEps(absl::Span<const EpsSummary> summaries,
                              const Wanted& wanted);

// Fewer documents than this say little of others.
inline constexpr int kFewDocuments = 8;
// Below this nothing is saved any more, at any length.
inline constexpr double kMinEps = 0.005;

}  // namespace quire::cli
