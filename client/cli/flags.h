#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "client/cli/attention_flags.h"
#include "quire/v1/inference.pb.h"

namespace quire::cli {

// What the command line says. Ranges are the server's to check: it names the field, the
// limit and the value, and knows the model.

struct GlobalFlags {
  std::string server = "127.0.0.1:50051";
  std::string model;
  std::string request_id;
  std::string tenant;
  std::string timeout;  // as written; empty: none
  bool json = false;
  bool quiet = false;
  bool verbose = false;
};

struct SamplingFlags {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::optional<int32_t> no_repeat_ngram;
  std::optional<uint64_t> seed;
  bool penalize_prompt = false;

  // Only what was given.
  v1::Sampling ToProto() const;
};

struct SummarizeFlags {  // and `ask`
  std::string file;      // "-": standard input; empty: standard input unless a terminal
  std::string strategy = "auto";
  std::string question;
  int32_t words = 0;
  std::optional<int32_t> max_tokens;
  bool sources = false;
  SamplingFlags sampling;
  AttentionFlags attention;
  int32_t priority = 0;
};

struct GenerateFlags {
  std::optional<std::string> prompt;
  std::string file;
  bool chat = false;
  std::string system;  // implies chat
  std::optional<int32_t> max_tokens;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool logprobs = false;
  int32_t top_logprobs = 0;  // more than 0 implies logprobs
  SamplingFlags sampling;
  AttentionFlags attention;
  int32_t priority = 0;
};

struct ScoreFlags {
  std::string file;
  std::string spans_file;
  bool per_token = false;
  bool ranks = false;  // this and the next imply per_token
  int32_t top = 0;
  std::optional<int32_t> overlap;
  bool importance = false;
  AttentionFlags attention;
  int32_t priority = 0;
};

struct TokensFlags {
  std::string file;
  bool ids = false;
  bool decode = false;
  bool add_special = false;
  bool parse_special = false;
  bool skip_special = false;
};

struct ModelsFlags {
  std::string name;  // empty: all
};

struct LoadFlags {
  std::string name;  // of a model; empty: --model, else the default
};

struct CostFlags {
  std::string file;
  std::optional<int64_t> tokens;  // instead of a file
  std::string task = "generate";
  std::optional<int32_t> max_tokens;
  AttentionFlags attention;
  int32_t priority = 0;
};

struct TopFlags {
  std::string interval = "2s";  // as written
  bool once = false;
};

struct CalibrateFlags {
  std::string folder;
  std::string out = "quire-calibration";
  std::string eps = "0.02,0.04,0.08,0.16";  // as written
  std::string mode = "auto";                // or "refined"
  std::optional<int32_t> min_sparse_tokens;
  std::optional<double> agreement;
  std::optional<double> max_drift;
  double confidence = 0.95;
  int refine = 2;
  int64_t max_documents = 100;
  uint64_t seed = 1;
  bool fresh = false;
  int32_t priority = 0;
};

struct Arguments {
  GlobalFlags global;
  std::variant<SummarizeFlags, GenerateFlags, ScoreFlags, TokensFlags, ModelsFlags,
               LoadFlags, CostFlags, TopFlags, CalibrateFlags>
      command;
};

// What to print instead of running: help, version, or what is wrong with the arguments.
struct Reply {
  int exit_code = 0;  // kExitOk or kExitInvalid
  std::string text;
};

// Without the program's name. Reads QUIRE_SERVER from the environment.
std::variant<Arguments, Reply> ParseArguments(const std::vector<std::string>& arguments);

}  // namespace quire::cli
