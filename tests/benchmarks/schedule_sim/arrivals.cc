#include "tests/benchmarks/schedule_sim/arrivals.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quire::sim {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kQuestionTokens = 40;

class Maker {
 public:
  explicit Maker(const ArrivalOptions& options)
      : options_(options), random_(options.seed) {}

  std::vector<Arrival> Make() {
    std::vector<Arrival> arrivals;
    const bool bursts = options_.process == Process::kBursts;
    const double events = options_.per_second / (bursts ? options_.burst : 1);
    for (double t = Exponential(1 / events); t < options_.seconds;
         t += Exponential(1 / events)) {
      const int64_t count =
          bursts ? 1 + static_cast<int64_t>(Exponential(options_.burst - 1)) : 1;
      for (int64_t i = 0; i < count; ++i) {
        arrivals.push_back(One(static_cast<int64_t>(t * kSecond)));
      }
    }
    return arrivals;
  }

 private:
  double Uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  double Exponential(double mean) { return -mean * std::log(1 - Uniform()); }

  int64_t Length(double uniform) const {
    const double length = static_cast<double>(options_.min_prompt) /
                          std::pow(1 - uniform, 1 / options_.tail);
    return static_cast<int64_t>(
        std::min(length, static_cast<double>(options_.max_prompt)));
  }

  Arrival One(int64_t at_ns) {
    Arrival a{.at_ns = at_ns};
    a.prompt_tokens = Length(Uniform());
    a.new_tokens = 1 + static_cast<int64_t>(Exponential(options_.mean_new));
    a.tenant = Uniform() < 0.5 ? 0 : static_cast<uint32_t>(Uniform() * options_.tenants);
    const double rank = Uniform();
    if (rank < options_.priority_share) a.priority = 0;
    if (rank > 1 - options_.priority_share) a.priority = 4;
    if (options_.documents > 0) {
      // Some are asked about more often than others.
      const double u = Uniform();
      a.document = static_cast<int64_t>(u * u * static_cast<double>(options_.documents));
      a.document_tokens = Length(Fraction(a.document));
      a.prompt_tokens = a.document_tokens + kQuestionTokens;
    }
    a.deadline_ns = static_cast<int64_t>(options_.deadline_s * kSecond);
    return a;
  }

  // In [0, 1), the same for a document whenever it comes.
  static double Fraction(int64_t document) {
    return std::fmod(0.5 + 0.6180339887498949 * static_cast<double>(document), 1.0);
  }

  const ArrivalOptions& options_;
  std::mt19937_64 random_;
};

absl::StatusOr<Arrival> ParseLine(const std::string& line) {
  const std::vector<std::string> f = absl::StrSplit(line, ',');
  Arrival a;
  double at = 0, deadline = 0;
  const bool ok =
      f.size() == 8 && absl::SimpleAtod(f[0], &at) &&
      absl::SimpleAtoi(f[1], &a.prompt_tokens) && absl::SimpleAtoi(f[2], &a.new_tokens) &&
      absl::SimpleAtoi(f[3], &a.tenant) && absl::SimpleAtoi(f[4], &a.priority) &&
      absl::SimpleAtoi(f[5], &a.document) && absl::SimpleAtoi(f[6], &a.document_tokens) &&
      absl::SimpleAtod(f[7], &deadline);
  const bool fits = a.prompt_tokens >= 1 && a.new_tokens >= 1 && at >= 0 &&
                    a.priority >= 0 && a.priority <= 4 && a.tenant < 1'000'000 &&
                    a.document_tokens <= a.prompt_tokens;
  if (!ok || !fits) return absl::InvalidArgumentError(absl::StrCat("'", line, "'"));
  a.at_ns = static_cast<int64_t>(at * kSecond);
  a.deadline_ns = static_cast<int64_t>(deadline * kSecond);
  return a;
}

}  // namespace

std::vector<Arrival> MakeArrivals(const ArrivalOptions& options) {
  return Maker(options).Make();
}

absl::StatusOr<std::vector<Arrival>> ReadArrivals(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("'", path, "' cannot be read"));
  std::vector<Arrival> arrivals;
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line.front() == '#') continue;
    const absl::StatusOr<Arrival> arrival = ParseLine(line);
    if (!arrival.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", arrival.status().message()));
    }
    arrivals.push_back(*arrival);
  }
  std::stable_sort(arrivals.begin(), arrivals.end(),
                   [](const Arrival& a, const Arrival& b) { return a.at_ns < b.at_ns; });
  return arrivals;
}

}  // namespace quire::sim
