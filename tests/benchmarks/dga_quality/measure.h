#pragma once

#include <cstdint>

#include "tests/benchmarks/dga_quality/prompt.h"
#include "tests/benchmarks/dga_quality/session.h"

namespace quire::quality {

// How far one reading of a prompt is from the dense reading of it. Means over positions.
struct Quality {
  int64_t positions = 0;
  double kl = 0;                     // nats, dense to this
  double first_kl = 0, last_kl = 0;  // over the first and the last third of the positions
  double agreement = 0;     // share of positions with the same most probable next token
  double hidden_error = 0;  // relative L2 error of the last hidden state
  double perplexity = 0, dense_perplexity = 0;  // over every position of the range
  int64_t asked = 0;                            // facts whose answer lies in the range
  int64_t found = 0, dense_found = 0;           // of them, all digits right
};

// What is measured of a prompt: every stride-th position of its text in [begin, end), and
// the answers whose digits follow from positions in the same range.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t stride = 8;
};

Quality Compare(const Session& session, const Prompt& prompt, const Reading& dense,
                const Reading& other, const Range& range);

}  // namespace quire::quality
