// quire_metrics_doc > docs/metrics.md
#include <iostream>

#include "server/observability/metrics_document.h"

int main() { std::cout << quire::server::MetricsDocument(); }
