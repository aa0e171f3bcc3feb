#pragma once

#include <string>
#include <utility>
#include <vector>

#include "prometheus/collectable.h"

namespace quire::server {

// The value of every series that the page shows, by its name: that of /metrics, with at
// most the label that the page tells apart; over all other labels it is summed (shares of
// a model's memory: the largest). "quire_prompt_tokens_total",
// "quire_attention_columns_total{context=\"le_1024\"}", and of histograms _sum, _count
// and _bucket{le="..."}. Metrics that do not exist (yet) are left out.
using Sample = std::vector<std::pair<std::string, double>>;

// Thread-safe, as far as the sources are.
Sample TakeSample(const std::vector<const prometheus::Collectable*>& sources);

}  // namespace quire::server
