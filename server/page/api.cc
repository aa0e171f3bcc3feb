#include "server/page/api.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/page/query.h"
#include "server/page/request_json.h"
#include "server/version.h"

namespace quire::server {
namespace {

using nlohmann::json;

constexpr char kPath[] = "/api/v1/";

HttpResponse Json(int status, std::string body) {
  return {.status = status,
          .content_type = "application/json",
          .body = std::move(body),
          .headers = {}};
}
HttpResponse Json(const json& body) {
  // Names of files and models need not be UTF-8.
  return Json(200, body.dump(-1, ' ', false, json::error_handler_t::replace));
}

HttpResponse NotFound(absl::string_view what) {
  const json error = {{"field", ""}, {"message", absl::StrCat(what, " is not there")}};
  return Json(404, json{{"error", error}}.dump());
}

// `message` begins with the field.
HttpResponse BadParameter(absl::string_view message) {
  const json error = {{"field", std::string(message.substr(0, message.find(' ')))},
                      {"message", std::string(message)}};
  return Json(400, json{{"error", error}}.dump());
}

const char* PhaseName(ServingState::Phase phase) {
  constexpr const char* kNames[] = {"loading", "serving", "draining"};
  return kNames[static_cast<int>(phase)];
}

json ModelJson(const ServedModel& model) {
  const ModelConfig& config = model.text.config;
  return {{"name", model.text.name},
          {"architecture", std::string(ArchitectureName(config.architecture))},
          {"device", model.device},
          {"device_note", model.device_note},
          {"compute_type", model.compute_type},
          {"parameters", model.parameters},
          {"context_tokens", model.text.context_tokens()},
          {"layers", config.num_layers},
          {"heads", config.num_heads},
          {"weight_bytes", model.weight_bytes},
          {"kv_cache_bytes", model.kv_cache_bytes},
          {"kv_cache_tokens", model.kv_cache_tokens}};
}

double NumberOr(const std::map<std::string, double>& numbers, const char* name,
                double otherwise) {
  const auto found = numbers.find(name);
  return found == numbers.end() ? otherwise : found->second;
}

}  // namespace

Api::Api(const PageOptions& options, const ServingState& state, const History& history,
         const RequestLog& requests)
    : options_(options), state_(state), history_(history), requests_(requests) {}

HttpRoute Api::Route() const {
  return {.path = "/api", .prefix = true, .handle = [this](const HttpRequest& request) {
            return Handle(request);
          }};
}

HttpResponse Api::Handle(const HttpRequest& request) const {
  absl::string_view what = request.path;
  if (!absl::ConsumePrefix(&what, kPath)) return NotFound(request.path);
  if (what == "overview") return Overview(request);
  if (what == "history") return Samples(request);
  if (what == "requests") return Requests(request);
  if (absl::ConsumePrefix(&what, "requests/")) return Request(std::string(what));
  return NotFound(request.path);
}

HttpResponse Api::Overview(const HttpRequest& request) const {
  const auto query = ParseQuery(request.query, {});
  if (!query.ok()) return BadParameter(query.status().message());
  json models = json::array();
  if (const ModelRegistry* registry = state_.models()) {
    for (const auto& model : registry->models()) models.push_back(ModelJson(*model));
  }
  return Json({{"version", kVersion},
               {"state", PhaseName(state_.phase())},
               {"grpc_address", options_.grpc_address},
               {"price_per_device_hour_usd", options_.price_per_device_hour},
               {"shadow_share", options_.shadow_share},
               {"models", models}});
}

HttpResponse Api::Samples(const HttpRequest& request) const {
  const auto query = ParseQuery(request.query, {"step", "since"});
  if (!query.ok()) return BadParameter(query.status().message());
  const double step = NumberOr(*query, "step", 1);
  const double since = NumberOr(*query, "since", 0);
  if (std::none_of(History::kTiers.begin(), History::kTiers.end(), [&](const auto& t) {
        return static_cast<double>(t.step_seconds) == step;
      })) {
    return BadParameter(absl::StrCat("step is ", step, "; it must be 1, 10 or 60"));
  }
  if (since > 1e11) {
    return BadParameter(
        absl::StrCat("since is ", since, "; it must be Unix seconds, at most 1e11"));
  }
  const std::string samples =
      history_.Json(static_cast<int64_t>(step),
                    absl::UnixEpoch() + absl::Milliseconds(std::llround(since * 1e3)));
  return Json(200, absl::StrCat("{\"state\":\"", PhaseName(state_.phase()),
                                "\",\"requests_version\":", requests_.version(), ",",
                                samples.substr(1)));
}

HttpResponse Api::Requests(const HttpRequest& request) const {
  const auto query = ParseQuery(request.query, {"after", "limit"});
  if (!query.ok()) return BadParameter(query.status().message());
  const double after = NumberOr(*query, "after", 0);
  const double limit = NumberOr(*query, "limit", 50);
  if (after > 1e15 || after != std::floor(after)) {
    return BadParameter(
        absl::StrCat("after is ", after, "; it must be a whole number up to 1e15"));
  }
  if (limit < 1 || limit > kMaxRequests || limit != std::floor(limit)) {
    return BadParameter(
        absl::StrCat("limit is ", limit, "; it must be 1 to ", kMaxRequests));
  }
  // Before the records: what changes in between is told again, not lost.
  const int64_t version = requests_.version();
  json records = json::array();
  for (const RequestRecord& record :
       requests_.Changed(static_cast<int64_t>(after), static_cast<size_t>(limit))) {
    records.push_back(SummaryJson(record));
  }
  return Json({{"version", version}, {"requests", records}});
}

HttpResponse Api::Request(const std::string& name) const {
  std::optional<RequestRecord> record = requests_.Find(name);
  absl::string_view digits = name;
  int64_t number = 0;
  if (!record.has_value() && absl::ConsumePrefix(&digits, "number/") &&
      absl::SimpleAtoi(digits, &number)) {
    record = requests_.FindNumber(number);
  }
  if (!record.has_value()) return NotFound("this request");
  return Json(DetailJson(*record));
}

}  // namespace quire::server
