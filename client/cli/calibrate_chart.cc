#include "client/cli/calibrate_chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

constexpr double kWidth = 640, kHeight = 340;
constexpr double kLeft = 74, kRight = 24, kTop = 18, kBottom = 52;

struct Axis {
  double low = 0, high = 1;
  double begin = 0, end = 1;  // in the picture
  double At(double value) const {
    return begin + (value - low) / (high - low) * (end - begin);
  }
};

// Some air around what is there.
Axis AxisOf(double low, double high, double begin, double end) {
  double air = 0.08 * (high - low);
  if (!(air > 0)) air = std::max(0.05 * std::abs(high), 1e-6);
  return {low - air, high + air, begin, end};
}

std::string Text(double x, double y, const char* anchor, const std::string& text,
                 const char* style = "tick") {
  return absl::StrFormat(
      "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s"
      "</text>\n",
      style, x, y, anchor, HtmlEscape(text));
}

std::string Stroke(const char* style, double x1, double y1, double x2, double y2) {
  return absl::StrFormat(
      "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", style, x1,
      y1, x2, y2);
}

std::string Axes(const ChartSpec& spec, const Axis& x, const Axis& y) {
  std::string svg;
  for (const double tick : Ticks(x.low, x.high, 6)) {
    absl::StrAppend(&svg, Stroke("grid", x.At(tick), y.begin, x.At(tick), y.end),
                    Text(x.At(tick), y.begin + 18, "middle", spec.x_text(tick)));
  }
  for (const double tick : Ticks(y.low, std::min(y.high, spec.y_max), 6)) {
    absl::StrAppend(&svg, Stroke("grid", x.begin, y.At(tick), x.end, y.At(tick)),
                    Text(x.begin - 8, y.At(tick) + 4, "end", spec.y_text(tick)));
  }
  absl::StrAppend(&svg,
                  Text((x.begin + x.end) / 2, kHeight - 10, "middle", spec.x_label));
  const double middle = (y.begin + y.end) / 2;
  absl::StrAppend(
      &svg, absl::StrFormat("<text class=\"tick\" x=\"14\" y=\"%.1f\" "
                            "text-anchor=\"middle\" transform=\"rotate(-90 14 %.1f)\">%s"
                            "</text>\n",
                            middle, middle, HtmlEscape(spec.y_label)));
  return svg;
}

std::string Point(const ChartPoint& point, const Axis& x, const Axis& y, double label_y) {
  const double px = x.At(point.x), py = y.At(point.y);
  std::string svg;
  if (point.high > point.low) {
    const double low = y.At(point.low), high = y.At(point.high);
    absl::StrAppend(&svg, Stroke("whisker", px, low, px, high),
                    Stroke("whisker", px - 4, low, px + 4, low),
                    Stroke("whisker", px - 4, high, px + 4, high));
  }
  absl::StrAppend(&svg,
                  absl::StrFormat("<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\">"
                                  "<title>%s</title></circle>\n",
                                  point.strong ? "point strong" : "point", px, py,
                                  point.strong ? "7" : "4.5", HtmlEscape(point.name)));
  if (!point.label.empty()) {
    const bool at_edge = px > kWidth - 110;
    absl::StrAppend(&svg, Text(px + (at_edge ? -11 : 11), py + label_y,
                               at_edge ? "end" : "start", point.label, "mark"));
  }
  return svg;
}

}  // namespace

std::string HtmlEscape(const std::string& text) {
  std::string escaped;
  for (const char c : Neutralise(text)) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::vector<double> Ticks(double low, double high, int count) {
  std::vector<double> ticks;
  if (!(high > low) || count < 1) return ticks;
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double ratio = rough / power;
  const double step = power * (ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10);
  const double first = std::ceil(low / step - 1e-9);
  for (double i = first; i * step <= high + 1e-9 * step; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string ScatterChart(const ChartSpec& spec) {
  double x_low = 1e300, x_high = -1e300, y_low = 1e300, y_high = -1e300;
  for (const ChartPoint& point : spec.points) {
    x_low = std::min(x_low, point.x);
    x_high = std::max(x_high, point.x);
    y_low = std::min({y_low, point.y, point.low});
    y_high = std::max({y_high, point.y, point.high});
  }
  if (spec.line) {
    y_low = std::min(y_low, *spec.line);
    y_high = std::max(y_high, *spec.line);
  }
  const Axis x = AxisOf(x_low, x_high, kLeft, kWidth - kRight);
  const Axis y = AxisOf(y_low, y_high, kHeight - kBottom, kTop);
  std::string svg = absl::StrFormat(
      "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">\n<title>%s"
      "</title>\n",
      kWidth, kHeight, HtmlEscape(spec.title), HtmlEscape(spec.title));
  absl::StrAppend(&svg, Axes(spec, x, y));
  if (spec.line) {
    absl::StrAppend(
        &svg, Stroke("wanted", x.begin, y.At(*spec.line), x.end, y.At(*spec.line)),
        Text(x.begin + 4, y.At(*spec.line) - 5, "start", spec.line_label, "mark"));
  }
  const double label_y = spec.labels_below ? 17 : -8;
  for (const ChartPoint& point : spec.points) {
    absl::StrAppend(&svg, Point(point, x, y, label_y));
  }
  return absl::StrCat(svg, "</svg>\n");
}

}  // namespace quire::cli
