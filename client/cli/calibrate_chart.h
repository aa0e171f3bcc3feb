#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace quire::cli {

struct ChartPoint {
  double x = 0;
  double y = 0;
  double low = 0;  // of the whisker; equal: none
  double high = 0;
  std::string name;     // told when pointed at
  std::string label;    // written beside it; may be empty
  bool strong = false;  // stands out
};

struct ChartSpec {
  std::string title;  // for those who hear the page
  std::string x_label;
  std::string y_label;
  std::vector<ChartPoint> points;
  std::optional<double> line;  // a horizontal one
  std::string line_label;
  std::function<std::string(double)> x_text;  // of a tick
  std::function<std::string(double)> y_text;
  double y_max = 1e300;       // no tick beyond
  bool labels_below = false;  // of points that rise to the right
};

// An SVG element of points over two linear axes, drawn with the classes and colours of
// the report's style sheet. Texts are escaped. REQUIRES: a point; finite numbers.
std::string ScatterChart(const ChartSpec& spec);

// For text and attributes of HTML; bytes that are not UTF-8 and control characters are
// replaced.
std::string HtmlEscape(const std::string& text);

// About `count` round numbers from low to high, both inside.
std::vector<double> Ticks(double low, double high, int count);

}  // namespace quire::cli
