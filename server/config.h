#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/dga/attention_options.h"
#include "core/engine/engine.h"

namespace quire::server {

// Everything that can be set. Each name is a key of the config file; the flag is the name
// with dashes (--max-waiting), the environment variable QUIRE_ with the name
// (QUIRE_MAX_WAITING). Limits are in config.cc's table. Plain value.
struct ServerOptions {
  std::vector<std::string> model;              // folders; the first is the default model
  std::string listen = "127.0.0.1:50051";      // host:port of gRPC; port 0: a free one
  std::string http_listen = "127.0.0.1:8080";  // of /metrics and /healthz; "": neither
  std::string port_file;                       // "": none; see WritePortFile
  int32_t threads = 0;                         // of one step; 0: as many as CPU cores
  std::string device = "auto";                 // auto, cpu, cuda, cuda:N
  std::string compute = "auto";                // auto, float32, bfloat16
  int64_t kv_cache_bytes = 0;                  // of each model; 0: from free memory
  int32_t chunk_tokens = 0;             // of one step; 0: by the device, see --help
  std::string attention_mode = "auto";  // auto, dense, faithful, refined; of requests
  double attention_eps = 0.04;          // that say nothing else, as are the next three
  double attention_max_error = 1;       // 1: never falls back
  int32_t attention_min_sparse_tokens = -1;  // -1: the mode's own
  int32_t max_running = 256;                 // calls that a model computes at a time
  int32_t max_waiting = 64;                  // calls that may wait beyond those
  int64_t max_waiting_tokens = 1 << 20;      // prompt tokens of those that wait
  int32_t long_prompt_tokens = 4096;         // see core/schedule, as the next three
  int32_t max_long_prefills = 2;
  int32_t decode_stretch_percent = 180;
  double max_step_seconds = 0.25;        // 0: no limit
  std::string prefix_cache = "tenant";   // off, tenant, shared
  std::string admission = "report";      // off, report, enforce
  int32_t stream_interval_ms = 10;       // 0: an event a token
  int32_t stream_events_per_second = 0;  // of all answers together; 0: 500 a core
  int32_t min_context_tokens = 1024;     // a smaller cache is refused at the start
  double price_per_device_hour = 0;      // USD; 0: not set
  double shadow_share = 0.01;            // of sparse requests, computed densely too
  double shadow_device_seconds_per_minute = 6;  // that these may take
  std::string schedule_trace;                   // file; "": none
  int64_t max_message_bytes = 64 << 20;         // of one gRPC message
  int64_t max_text_bytes = 64 << 20;  // of one request's text, all pieces together
  double write_stall_seconds = 30;    // a client that takes no event for so long is left
  double batch_idle_seconds =
      300;                    // a ScoreBatch call that sends nothing for so long ends
  double drain_seconds = 30;  // from SIGTERM until calls are cancelled
  std::string log_format = "json";  // json, text
  std::string log_level = "info";   // debug, info, warning, error

  // kInvalidArgument: "max_waiting is 0; it must be in [1, 10000]".
  absl::Status Validate() const;
  // Whether a model's cache of so many bytes and tokens holds a request of a useful size:
  // min_context_tokens, or the model's context if that is smaller. kInvalidArgument names
  // both sizes.
  absl::Status CheckCache(int64_t bytes, int64_t tokens, int64_t context_tokens) const;
  // REQUIRES: valid.
  AttentionOptions attention() const;
  PrefixCaching prefix_caching() const;
  AdmissionMode admission_mode() const;
};

struct CommandLine {
  ServerOptions options;            // valid
  bool check_config = false;        // print the options and leave
  std::optional<std::string> text;  // --help or --version: print this and leave
};

// Value of an environment variable; nullopt and "" mean that it is not set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

// Flags over environment over config file (--config FILE, a JSON object) over defaults.
// `arguments` without the program's name. kInvalidArgument names the field, the limit,
// the value and the source; unknown flags and keys of the file are refused by name.
// kNotFound: the config file cannot be read.
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments,
                                             const Environment& environment);

// The options as a config file that would set them.
std::string ToJson(const ServerOptions& options);

// "[::1]:80" -> {"::1", 80}. kInvalidArgument: "is 'x'; it must be host:port".
struct HostPort {
  std::string host;
  int32_t port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view address);

}  // namespace quire::server
