#include "client/cli/attention_flags.h"

#include <CLI/CLI.hpp>
#include <map>

namespace quire::cli {
namespace {

constexpr char kGroup[] = "Attention (default: the server's own)";
constexpr char kFaithfulGroup[] = "With --attention faithful";

// By name; zero, which is the server's own, for the empty one.
template <typename Enum>
using Names = std::map<std::string, Enum>;

const Names<v1::AttentionMode>& Modes() {
  static const auto& names =
      *new Names<v1::AttentionMode>{{"auto", v1::ATTENTION_MODE_AUTO},
                                    {"dense", v1::ATTENTION_MODE_DENSE},
                                    {"faithful", v1::ATTENTION_MODE_FAITHFUL},
                                    {"refined", v1::ATTENTION_MODE_REFINED}};
  return names;
}

const Names<v1::TailEstimate>& Tails() {
  static const auto& names =
      *new Names<v1::TailEstimate>{{"sampled", v1::TAIL_ESTIMATE_SAMPLED},
                                   {"group-means", v1::TAIL_ESTIMATE_GROUP_MEANS}};
  return names;
}

const Names<v1::GroupBias>& Biases() {
  static const auto& names =
      *new Names<v1::GroupBias>{{"none", v1::GROUP_BIAS_NONE},
                                {"log-size", v1::GROUP_BIAS_LOG_SIZE},
                                {"entropy", v1::GROUP_BIAS_ENTROPY}};
  return names;
}

template <typename Enum>
Enum ValueOf(const Names<Enum>& names, const std::string& name) {
  const auto found = names.find(name);
  return found == names.end() ? Enum{} : found->second;
}

template <typename Enum>
void AddName(CLI::App& command, const char* flag, std::string& value, const char* help,
             const Names<Enum>& names, const char* group) {
  std::vector<std::string> allowed;
  for (const auto& [name, unused] : names) allowed.push_back(name);
  command.add_option(flag, value, help)->check(CLI::IsMember(allowed))->group(group);
}

void AddFaithful(CLI::App& command, AttentionFlags& flags) {
  const auto option = [&](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->group(kFaithfulGroup);
  };
  option("--group-tokens", flags.group_tokens,
         "Tokens of a group, 1 to the text's length; default 16");
  option("--focal-share", flags.focal_share,
         "Share of tokens outside of groups, (0, 1]; default 0.1");
  option("--min-focal-tokens", flags.min_focal_tokens,
         "At least so many of them; default 1024");
  option("--sampled-queries", flags.sampled_queries,
         "Queries that choose them; default 128");
  AddName(command, "--group-bias", flags.group_bias, "Added to a group's score", Biases(),
          kFaithfulGroup);
  command
      .add_flag("--unscaled-pooling", flags.unscaled_pooling,
                "Pool groups without the root of the head size")
      ->group(kFaithfulGroup);
  command
      .add_flag("--whole-prompt", flags.whole_prompt,
                "Choose over the whole prompt, read in one step, as published")
      ->group(kFaithfulGroup);
}

void SetFaithful(const AttentionFlags& flags, v1::AttentionOptions& options) {
  v1::FaithfulOptions faithful;
  if (flags.group_tokens) faithful.set_group_tokens(*flags.group_tokens);
  if (flags.focal_share) faithful.set_focal_share(*flags.focal_share);
  if (flags.min_focal_tokens) faithful.set_min_focal_tokens(*flags.min_focal_tokens);
  if (flags.sampled_queries) faithful.set_sampled_queries(*flags.sampled_queries);
  faithful.set_bias(ValueOf(Biases(), flags.group_bias));
  if (flags.unscaled_pooling) faithful.set_scaled_pooling(false);
  if (flags.whole_prompt) faithful.set_whole_prompt(true);
  if (faithful.ByteSizeLong() > 0) *options.mutable_faithful() = faithful;
}

}  // namespace

v1::AttentionOptions AttentionFlags::ToProto() const {
  v1::AttentionOptions options;
  options.set_mode(ValueOf(Modes(), mode));
  if (eps) options.set_eps(*eps);
  if (max_error) options.set_max_error(*max_error);
  if (min_sparse_tokens) options.set_min_sparse_tokens(*min_sparse_tokens);
  options.set_tail(ValueOf(Tails(), tail));
  if (compact) options.set_compact(true);
  SetFaithful(*this, options);
  return options;
}

void AddAttention(CLI::App& command, AttentionFlags& flags) {
  const auto option = [&](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->group(kGroup);
  };
  AddName(command, "--attention", flags.mode,
          "auto: refined where that is faster, else dense", Modes(), kGroup);
  option("--eps", flags.eps,
         "Refined: smaller reads more and errs less, [0, 1]; default 0.04");
  option("--max-error", flags.max_error,
         "Audited error that lowers eps, then goes dense, [0, 1]; default 1: never");
  option("--min-sparse-tokens", flags.min_sparse_tokens,
         "Tokens that see fewer read them all; default: auto 4096, refined 193");
  AddName(command, "--tail", flags.tail,
          "Refined: what stands for the tokens that are not read for certain", Tails(),
          kGroup);
  command
      .add_flag("--compact", flags.compact,
                "Give back the memory of what hardly matters once the text is read")
      ->group(kGroup);
  AddFaithful(command, flags);
}

}  // namespace quire::cli
