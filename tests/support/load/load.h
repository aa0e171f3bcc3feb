#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace quire::load {

struct LoadOptions {
  std::string server = "127.0.0.1:50051";
  double per_second = 1;  // Poisson
  double seconds = 10;
  int clients = 16;     // requests outstanding at most, each on a connection of its own
  int min_prompt = 64;  // tokens, uniform
  int max_prompt = 256;
  int new_tokens = 32;
  double score_share = 0;  // of the requests: Score instead of Generate
  double summarize_share = 0;
  double deadline_s = 10;   // 0: none
  double cancel_share = 0;  // of the requests: cancelled after a random part of a second
  int tenants = 1;
  int documents = 0;  // > 0: prompts begin with one of so many documents
  uint64_t seed = 1;
};

// How one request went, from when it was to be sent: waiting for a free client counts.
struct Result {
  std::string code;    // of gRPC, "OK" and so on
  std::string reason;  // ErrorInfo's
  double first_token_s = 0;
  double total_s = 0;
  double call_s = 0;  // from when it was sent
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  bool retry_info = false;
};

struct Report {
  double seconds = 0;
  std::vector<Result> results;
};

// Open loop: requests are sent when they are due, whatever became of others.
Report Run(const LoadOptions& options);

std::string ToJson(const LoadOptions& options, const Report& report);

}  // namespace quire::load
