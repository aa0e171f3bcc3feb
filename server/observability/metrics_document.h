#pragma once

#include <string>

namespace quire::server {

// docs/metrics.md, made from the catalogue.
std::string MetricsDocument();

}  // namespace quire::server
