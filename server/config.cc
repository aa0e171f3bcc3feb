#include "server/config.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <type_traits>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "core/runner/device.h"
#include "server/rpc/status.h"
#include "server/version.h"

namespace quire::server {
namespace {

using Json = nlohmann::ordered_json;
using Strings = std::vector<std::string>;
using Options = ServerOptions;

constexpr double kGiB = 1 << 30;

// One option: where it lives, its limits (numbers) or choices (strings; none: anything).
struct Field {
  std::string name;
  std::string help;
  std::variant<std::string Options::*, int32_t Options::*, int64_t Options::*,
               double Options::*, Strings Options::*>
      member;
  double min = 0;
  double max = 0;
  Strings choices = {};
};

// What is served, where, and how it reads.
std::vector<Field> ModelFields() {
  return {
      {"model", "model folder; may be repeated, the first is the default",
       &Options::model},
      {"listen", "host:port of gRPC; port 0 takes a free one", &Options::listen},
      {"http_listen", "host:port of /metrics and /healthz; empty: neither",
       &Options::http_listen},
      {"port_file", "file that names the addresses once the server is ready",
       &Options::port_file},
      {"threads", "CPU threads of one step; 0: all cores", &Options::threads, 0, 1024},
      {"device",
       "auto, cpu, cuda or cuda:N; auto: the first GPU that can be used, else the CPU",
       &Options::device},
      {"compute",
       "auto, float32 or bfloat16",
       &Options::compute,
       0,
       0,
       {"auto", "float32", "bfloat16"}},
      {"kv_cache_bytes", "memory for keys and values of each model; 0: from free memory",
       &Options::kv_cache_bytes, 0, 65536 * kGiB},
      {"attention_mode",
       "auto, dense, faithful or refined, for requests that do not say",
       &Options::attention_mode,
       0,
       0,
       {"auto", "dense", "faithful", "refined"}},
      {"attention_eps", "their eps: smaller reads more and errs less; 0: dense",
       &Options::attention_eps, 0, 1},
      {"attention_max_error",
       "their largest audited error before eps is lowered; 1: never",
       &Options::attention_max_error, 0, 1},
      {"attention_min_sparse_tokens",
       "their least visible tokens for sparse reading; -1: the mode's own",
       &Options::attention_min_sparse_tokens, -1, std::numeric_limits<int32_t>::max()},
  };
}

// What is computed when.
std::vector<Field> EngineFields() {
  return {
      {"chunk_tokens",
       "tokens of one step, all requests together; >= max_running; 0: 512 on a CPU, 2048 "
       "on a GPU",
       &Options::chunk_tokens, 0, 65536},
      {"max_running", "calls that a model computes at a time", &Options::max_running, 1,
       1024},
      {"max_waiting", "calls that may wait beyond those", &Options::max_waiting, 1, 1000},
      {"max_waiting_tokens", "prompt tokens of the calls that may wait",
       &Options::max_waiting_tokens, 1, 1e12},
      {"long_prompt_tokens",
       "prompts from here on are long, and only a few begin at once",
       &Options::long_prompt_tokens, 1, std::numeric_limits<int32_t>::max()},
      {"max_long_prefills", "long prompts that are read at a time",
       &Options::max_long_prefills, 1, 1024},
      {"decode_stretch_percent",
       "longest step with prompts while others decode, of the decodes' own",
       &Options::decode_stretch_percent, 101, 100000},
      {"max_step_seconds", "longest step while only prompts are read; 0: no limit",
       &Options::max_step_seconds, 0, 3600},
      {"prefix_cache",
       "off, tenant or shared: who may begin with what was read before",
       &Options::prefix_cache,
       0,
       0,
       {"off", "tenant", "shared"}},
      {"admission",
       "off, report or enforce: calls that cannot meet their deadline",
       &Options::admission,
       0,
       0,
       {"off", "report", "enforce"}},
      {"min_context_tokens", "least tokens that kv_cache_bytes must hold",
       &Options::min_context_tokens, 1, std::numeric_limits<int32_t>::max()},
      {"schedule_trace", "file of the scheduler's decisions; empty: none",
       &Options::schedule_trace},
  };
}

// What calls may do, and what is told of them.
std::vector<Field> ServiceFields() {
  return {
      {"stream_interval_ms", "least time between two pieces of text; 0: one a token",
       &Options::stream_interval_ms, 0, 10000},
      {"stream_events_per_second",
       "pieces of text of all answers together; 0: 500 for each core",
       &Options::stream_events_per_second, 0, 1000000},
      {"price_per_device_hour", "USD, for estimates of cost and savings; 0: not set",
       &Options::price_per_device_hour, 0, 1e6},
      {"shadow_share",
       "share of the requests that read sparsely to be computed again densely, when "
       "nobody waits, to measure what was saved; 0: none",
       &Options::shadow_share, 0, 1},
      {"shadow_device_seconds_per_minute", "device time of these; 0: none",
       &Options::shadow_device_seconds_per_minute, 0, 60},
      {"max_message_bytes", "largest gRPC message", &Options::max_message_bytes, 1024,
       std::numeric_limits<int32_t>::max()},
      {"max_text_bytes", "longest text of one request, all pieces together",
       &Options::max_text_bytes, 1, 64 * kGiB},
      {"write_stall_seconds", "a client that takes no event for so long is left",
       &Options::write_stall_seconds, 0.01, 86400},
      {"batch_idle_seconds", "a ScoreBatch call that sends nothing for so long is ended",
       &Options::batch_idle_seconds, 0.01, 86400},
      {"drain_seconds", "from SIGTERM until the calls in work are cancelled",
       &Options::drain_seconds, 0, 86400},
      {"log_format", "json or text", &Options::log_format, 0, 0, {"json", "text"}},
      {"log_level",
       "debug, info, warning or error",
       &Options::log_level,
       0,
       0,
       {"debug", "info", "warning", "error"}},
  };
}

const std::vector<Field>& Fields() {
  static const auto& fields = *[] {
    auto* all = new std::vector<Field>;
    for (std::vector<Field> group : {ModelFields(), EngineFields(), ServiceFields()}) {
      all->insert(all->end(), group.begin(), group.end());
    }
    return all;
  }();
  return fields;
}

absl::Status Wrong(const Field& field, absl::string_view value, absl::string_view must,
                   absl::string_view source) {
  return absl::InvalidArgumentError(absl::StrCat(
      field.name, " is ", value, source.empty() ? "" : absl::StrCat(" (", source, ")"),
      "; it must be ", must));
}

// ------------------------------------------------------------------- one value into a
// field

// The value that a flag or a variable means, in the field's own JSON type; text that is
// no number stays a string and is refused by SetField.
Json FromText(const Field& field, const std::string& text) {
  return std::visit(
      [&](auto member) -> Json {
        using T = std::decay_t<decltype(std::declval<Options>().*member)>;
        if constexpr (std::is_same_v<T, double>) {
          // JSON has no NaN.
          if (double value = 0; absl::SimpleAtod(text, &value) && std::isfinite(value)) {
            return value;
          }
        } else if constexpr (std::is_integral_v<T>) {
          if (int64_t value = 0; absl::SimpleAtoi(text, &value)) return value;
        }
        return text;
      },
      field.member);
}

absl::Status SetString(const Field&, const Json& value, std::string& out) {
  if (!value.is_string()) return absl::InvalidArgumentError("a string");
  out = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status SetStrings(const Field& field, const Json& value, Strings& out) {
  if (value.is_string()) {
    out = {value.get<std::string>()};
    return absl::OkStatus();
  }
  out.clear();
  if (!value.is_array())
    return absl::InvalidArgumentError("a string or a list of strings");
  for (const Json& item : value) {
    QUIRE_RETURN_IF_ERROR(SetString(field, item, out.emplace_back()));
  }
  return absl::OkStatus();
}

std::string Range(const Field& field) {
  return absl::StrCat("in [", absl::SixDigits(field.min), ", ",
                      field.max < 1e6 ? absl::StrCat(field.max)
                                      : absl::StrCat(static_cast<int64_t>(field.max)),
                      "]");
}

template <typename T>
absl::Status SetNumber(const Field& field, const Json& value, T& out) {
  const bool fits =
      std::is_same_v<T, double> ? value.is_number() : value.is_number_integer();
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat(
        std::is_same_v<T, double> ? "a number " : "an integer ", Range(field)));
  }
  // Also refuses what would not fit T.
  const double wide = value.get<double>();
  if (!(wide >= field.min && wide <= field.max)) {
    return absl::InvalidArgumentError(Range(field));
  }
  out = value.get<T>();
  return absl::OkStatus();
}

absl::Status SetField(const Field& field, const Json& value, absl::string_view source,
                      Options& options) {
  const absl::Status status = std::visit(
      [&](auto member) {
        using T = std::decay_t<decltype(options.*member)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return SetString(field, value, options.*member);
        } else if constexpr (std::is_same_v<T, Strings>) {
          return SetStrings(field, value, options.*member);
        } else {
          return SetNumber(field, value, options.*member);
        }
      },
      field.member);
  if (status.ok()) return status;
  return Wrong(field, value.dump(-1, ' ', false, Json::error_handler_t::replace),
               status.message(), source);
}

// ---------------------------------------------------------------------------- the
// sources

absl::Status ReadFile(const std::string& path, Options& options) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file)
    return absl::NotFoundError(absl::StrCat("config is '", path, "'; it cannot be read"));
  const Json json = Json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config is '", path, "'; it must hold a JSON object"));
  }
  for (const auto& [key, value] : json.items()) {
    const auto field = std::find_if(Fields().begin(), Fields().end(),
                                    [&](const Field& f) { return f.name == key; });
    if (field == Fields().end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown key ", Quoted(key), " in config '", path, "'"));
    }
    QUIRE_RETURN_IF_ERROR(SetField(*field, value, path, options));
  }
  return absl::OkStatus();
}

absl::Status ReadEnvironment(const Environment& environment, Options& options) {
  for (const Field& field : Fields()) {
    const std::string name = absl::StrCat("QUIRE_", absl::AsciiStrToUpper(field.name));
    const std::optional<std::string> text = environment(name);
    if (!text.has_value() || text->empty()) continue;
    const bool list = std::holds_alternative<Strings Options::*>(field.member);
    const Json value =
        list ? Json(Strings(absl::StrSplit(*text, ':'))) : FromText(field, *text);
    QUIRE_RETURN_IF_ERROR(SetField(field, value, name, options));
  }
  return absl::OkStatus();
}

std::string FlagOf(const Field& field) {
  return absl::StrCat("--", absl::StrReplaceAll(field.name, {{"_", "-"}}));
}

absl::Status ReadFlags(const std::vector<Strings>& values, Options& options) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Field& field = Fields()[i];
    if (values[i].empty()) continue;
    const bool list = std::holds_alternative<Strings Options::*>(field.member);
    if (!list && values[i].size() > 1) {
      return Wrong(field, "given more than once", "given once", FlagOf(field));
    }
    const Json value = list ? Json(values[i]) : FromText(field, values[i].front());
    QUIRE_RETURN_IF_ERROR(SetField(field, value, FlagOf(field), options));
  }
  return absl::OkStatus();
}

// ------------------------------------------------------------------------------
// validation

absl::Status CheckChoice(const Field& field, const std::string& value) {
  if (field.choices.empty() || std::find(field.choices.begin(), field.choices.end(),
                                         value) != field.choices.end()) {
    return absl::OkStatus();
  }
  return Wrong(field, Quoted(value),
               absl::StrCat("one of ", absl::StrJoin(field.choices, ", ")), "");
}

absl::Status CheckField(const Field& field, const Options& options) {
  return std::visit(
      [&](auto member) -> absl::Status {
        using T = std::decay_t<decltype(options.*member)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return CheckChoice(field, options.*member);
        } else if constexpr (!std::is_same_v<T, Strings>) {
          const double value = static_cast<double>(options.*member);
          if (value >= field.min && value <= field.max) return absl::OkStatus();
          return Wrong(field, absl::StrCat(options.*member), Range(field), "");
        }
        return absl::OkStatus();
      },
      field.member);
}

absl::Status CheckAddress(absl::string_view name, absl::string_view address) {
  const absl::Status status = ParseHostPort(address).status();
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(name, " ", status.message()));
}

constexpr char kFooter[] = R"(
Each option can also be set in the config file (max_waiting) or in the environment
(QUIRE_MAX_WAITING; several models: divided by ':'). Flags win over environment, environment over
file.

Signals: SIGTERM and SIGINT drain (new calls are refused, calls in work may finish for
drain_seconds); a second one cancels at once.
Exit codes: 0 stopped by a signal; 1 unexpected error; 2 wrong options; 3 cannot listen;
4 a model cannot be loaded; 5 the device was lost (a supervisor may start the server again).

Examples:
  quire-server --model models/quire-135m
  quire-server --config quire.json --listen 0.0.0.0:50051 --threads 8
  quire-server --model models/quire-135m --check-config)";

}  // namespace

absl::Status ServerOptions::Validate() const {
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "model is not set; it must name at least one folder");
  }
  for (const std::string& folder : model) {
    if (folder.empty())
      return absl::InvalidArgumentError("model is ''; it must name a folder");
  }
  for (const Field& field : Fields()) QUIRE_RETURN_IF_ERROR(CheckField(field, *this));
  if (chunk_tokens != 0 && chunk_tokens < max_running) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_tokens is ", chunk_tokens,
                     "; it must be >= max_running, which is ", max_running));
  }
  QUIRE_RETURN_IF_ERROR(ParseDevice(device).status());
  QUIRE_RETURN_IF_ERROR(CheckAddress("listen", listen));
  return http_listen.empty() ? absl::OkStatus()
                             : CheckAddress("http_listen", http_listen);
}

absl::Status ServerOptions::CheckCache(int64_t bytes, int64_t tokens,
                                       int64_t context_tokens) const {
  const int64_t least = std::min<int64_t>(min_context_tokens, context_tokens);
  if (tokens >= least) return absl::OkStatus();
  const int64_t bytes_per_token = bytes / std::max<int64_t>(1, tokens);
  return absl::InvalidArgumentError(
      absl::StrCat("kv_cache_bytes is ", bytes, ", which holds ", tokens,
                   " tokens; it must hold at least ", least, ", about ",
                   least * bytes_per_token, " bytes: min_context_tokens is ",
                   min_context_tokens, " and the model's context ", context_tokens));
}

PrefixCaching ServerOptions::prefix_caching() const {
  if (prefix_cache == "off") return PrefixCaching::kOff;
  return prefix_cache == "shared" ? PrefixCaching::kShared : PrefixCaching::kPerTenant;
}

AdmissionMode ServerOptions::admission_mode() const {
  if (admission == "off") return AdmissionMode::kOff;
  return admission == "enforce" ? AdmissionMode::kEnforce : AdmissionMode::kReport;
}

AttentionOptions ServerOptions::attention() const {
  AttentionOptions result;
  for (const AttentionMode mode : {AttentionMode::kAuto, AttentionMode::kDense,
                                   AttentionMode::kFaithful, AttentionMode::kRefined}) {
    const std::string name(AttentionModeName(mode));
    if (absl::AsciiStrToLower(name) == attention_mode) result.mode = mode;
  }
  result.eps = static_cast<float>(attention_eps);
  result.max_error = static_cast<float>(attention_max_error);
  result.min_sparse_tokens = attention_min_sparse_tokens;
  return result;
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  HostPort result;
  const bool has_port = colon != absl::string_view::npos && colon > 0 &&
                        absl::SimpleAtoi(address.substr(colon + 1), &result.port) &&
                        result.port >= 0 && result.port <= 65535;
  absl::string_view host = has_port ? address.substr(0, colon) : "";
  const bool bracketed =
      absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (host.empty() || (!bracketed && absl::StrContains(host, ':'))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "is ", Quoted(address), "; it must be host:port with a port in [0, 65535]"));
  }
  result.host = std::string(host);
  return result;
}

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments,
                                             const Environment& environment) {
  CLI::App app("Serves language models for long documents: summaries, answers, scores.",
               "quire-server");
  CommandLine result;
  std::string config;
  std::vector<Strings> values(Fields().size());
  app.set_version_flag("--version", std::string("quire-server ") + kVersion);
  app.add_option("--config", config, "JSON file with any of these options");
  app.add_flag("--check-config", result.check_config,
               "print the effective options as JSON; exit 0 if they are valid, 2 if not");
  for (size_t i = 0; i < values.size(); ++i) {
    app.add_option(FlagOf(Fields()[i]), values[i], Fields()[i].help)
        ->expected(1)
        ->take_all();
  }
  app.footer(kFooter);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::Success& asked) {  // --help, --version
    std::stringstream text;
    app.exit(asked, text, text);
    result.text = text.str();
    return result;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  if (config.empty()) config = environment("QUIRE_CONFIG").value_or("");
  if (!config.empty()) QUIRE_RETURN_IF_ERROR(ReadFile(config, result.options));
  QUIRE_RETURN_IF_ERROR(ReadEnvironment(environment, result.options));
  QUIRE_RETURN_IF_ERROR(ReadFlags(values, result.options));
  QUIRE_RETURN_IF_ERROR(result.options.Validate());
  return result;
}

std::string ToJson(const ServerOptions& options) {
  Json json = Json::object();
  for (const Field& field : Fields()) {
    std::visit([&](auto member) { json[field.name] = options.*member; }, field.member);
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quire::server
