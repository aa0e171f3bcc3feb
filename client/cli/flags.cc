#include "client/cli/flags.h"

#include <CLI/CLI.hpp>
#include <sstream>
#include <utility>

#include "client/cli/exit_code.h"
#include "client/cli/help.h"

namespace quire::cli {
namespace {

void AddGlobal(CLI::App& app, GlobalFlags& flags) {
  app.add_option("--server", flags.server, "Address of the server, host:port")
      ->type_name("ADDRESS")
      ->envname("QUIRE_SERVER")
      ->capture_default_str();
  app.add_option("--model", flags.model, "Model to use; default: the server's own")
      ->type_name("NAME");
  app.add_option("--timeout", flags.timeout,
                 "Give up after this long: 90s, 5m, 1h30m, or seconds; default: never")
      ->type_name("DURATION");
  app.add_option("--request-id", flags.request_id,
                 "Name of the request in the server's log")
      ->type_name("ID");
  app.add_option("--tenant", flags.tenant,
                 "Whose requests these are, for a fair share; default: nobody's")
      ->type_name("NAME")
      ->envname("QUIRE_TENANT");
  app.add_flag("--json", flags.json, "Print one JSON object on standard output");
  app.add_flag("-q,--quiet", flags.quiet,
               "Only results and errors: no progress, no figures");
  app.add_flag("-v,--verbose", flags.verbose,
               "Also print the plan, retries and request id");
}

void AddSampling(CLI::App& app, SamplingFlags& flags) {
  const std::string group = "Sampling (default: the model's own)";
  const auto option = [&](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->group(group);
  };
  option("--temperature", flags.temperature,
         "0: always the most probable token; up to 100");
  option("--top-k", flags.top_k, "Draw among the k most probable; 0: all");
  option("--top-p", flags.top_p, "Draw among the most probable that sum to p, (0, 1]");
  option("--min-p", flags.min_p,
         "Drop what has less than this share of the best, [0, 1]");
  option("--repetition-penalty", flags.repetition_penalty, "1: off; [0.01, 100]");
  option("--presence-penalty", flags.presence_penalty, "0: off; [-10, 10]");
  option("--frequency-penalty", flags.frequency_penalty, "0: off; [-10, 10]");
  option("--no-repeat-ngram", flags.no_repeat_ngram,
         "No n tokens in a row twice; 0: off");
  option("--seed", flags.seed, "The same seed gives the same answer");
  app.add_flag("--penalize-prompt", flags.penalize_prompt,
               "Penalties and n-grams look at the prompt too")
      ->group(group);
}

void AddMaxTokens(CLI::App& app, std::optional<int32_t>& value) {
  app.add_option("--max-tokens", value,
                 "Longest answer, tokens; default: the model's own");
}

void AddPriority(CLI::App& command, int32_t& value) {
  command.add_option("--priority", value, "-2 to 2; higher ones go first; default: 0");
}

CLI::Option* AddFile(CLI::App& command, std::string& path, const char* help) {
  return command.add_option("FILE", path, help)->type_name("");
}

void SetFooter(CLI::App& command, const char* examples) {
  command.footer(std::string(examples) + kGlobalFlagsHint);
}

void AddSummarize(CLI::App& app, SummarizeFlags& flags) {
  CLI::App* command =
      app.add_subcommand("summarize", "Summarise a document of any length");
  AddFile(*command, flags.file, "UTF-8 text; -: standard input");
  command->add_option("--words", flags.words, "Wanted length, 10 to 2,000 words");
  command
      ->add_option("--strategy", flags.strategy,
                   "auto; extractive: sentences of the document; abstractive: written by "
                   "the model")
      ->check(CLI::IsMember({"auto", "extractive", "abstractive"}))
      ->capture_default_str();
  command->add_option("--question", flags.question, "What the summary shall answer");
  command->add_flag("--sources", flags.sources,
                    "Print where in the document it comes from");
  AddMaxTokens(*command, flags.max_tokens);
  AddSampling(*command, flags.sampling);
  AddPriority(*command, flags.priority);
  AddAttention(*command, flags.attention);
  SetFooter(*command, kSummarizeExamples);
}

void AddAsk(CLI::App& app, SummarizeFlags& flags) {
  CLI::App* command = app.add_subcommand("ask", "Answer a question about a document");
  AddFile(*command, flags.file, "UTF-8 text; -: standard input")->required();
  command->add_option("QUESTION", flags.question, "At most 2,000 bytes")
      ->type_name("")
      ->required();
  AddMaxTokens(*command, flags.max_tokens);
  AddSampling(*command, flags.sampling);
  AddPriority(*command, flags.priority);
  AddAttention(*command, flags.attention);
  SetFooter(*command, kAskExamples);
}

void AddGenerate(CLI::App& app, GenerateFlags& flags) {
  CLI::App* command = app.add_subcommand("generate", "Continue a text, or answer a chat");
  auto* prompt =
      command->add_option("PROMPT", flags.prompt, "The text itself")->type_name("");
  command
      ->add_option("--file", flags.file, "Take the text from a file; -: standard input")
      ->excludes(prompt);
  command->add_flag("--chat", flags.chat,
                    "The text is a user's message, in the model's format");
  command->add_option("--system", flags.system,
                      "A system message before it; implies --chat");
  command->add_option("--stop", flags.stop, "End before this string; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--stop-token-id", flags.stop_token_ids, "The same for a token")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", flags.ignore_eos,
                    "Go on after the model's end token");
  command->add_flag("--logprobs", flags.logprobs, "With --json: each token's logprob");
  command->add_option("--top-logprobs", flags.top_logprobs,
                      "With --json: also the n most probable, 1 to 20");
  AddMaxTokens(*command, flags.max_tokens);
  AddSampling(*command, flags.sampling);
  AddPriority(*command, flags.priority);
  AddAttention(*command, flags.attention);
  SetFooter(*command, kGenerateExamples);
}

void AddScore(CLI::App& app, ScoreFlags& flags) {
  CLI::App* command =
      app.add_subcommand("score", "How probable a text is to the model, token by token");
  AddFile(*command, flags.file, "UTF-8 text; -: standard input");
  command->add_flag("--per-token", flags.per_token,
                    "A line of tab-separated values a token");
  command->add_flag("--ranks", flags.ranks,
                    "Also each token's rank; implies --per-token");
  command->add_option("--top", flags.top,
                      "Also the n most probable tokens, 1 to 20; implies --per-token");
  command->add_option("--spans-file", flags.spans_file,
                      "Sums over spans of bytes: a line \"BEGIN END\" each");
  command->add_option("--overlap", flags.overlap,
                      "Tokens of context that windows share, if the text needs several");
  command->add_flag("--importance", flags.importance,
                    "The sentences that are attended to most; with --json: all, and the "
                    "tokens");
  AddPriority(*command, flags.priority);
  AddAttention(*command, flags.attention);
  SetFooter(*command, kScoreExamples);
}

void AddTokens(CLI::App& app, TokensFlags& flags) {
  CLI::App* command =
      app.add_subcommand("tokens", "Count or list a text's tokens, or back");
  AddFile(*command, flags.file, "UTF-8 text, or ids with --decode; -: standard input");
  auto* ids = command->add_flag("--ids", flags.ids, "Print the ids; texts up to 1 MiB");
  command->add_flag("--decode", flags.decode, "FILE has ids; print the text")
      ->excludes(ids);
  command
      ->add_flag("--add-special", flags.add_special,
                 "With --ids: add begin and end tokens")
      ->needs(ids);
  command
      ->add_flag("--parse-special", flags.parse_special,
                 "With --ids: read special tokens written in the text")
      ->needs(ids);
  command->add_flag("--skip-special", flags.skip_special,
                    "With --decode: leave them out");
  SetFooter(*command, kTokensExamples);
}

void AddModels(CLI::App& app, ModelsFlags& flags) {
  CLI::App* command = app.add_subcommand("models", "What the server can run");
  command->add_option("NAME", flags.name, "Only this one")->type_name("");
  SetFooter(*command, kModelsExamples);
}

void AddLoad(CLI::App& app, LoadFlags& flags) {
  CLI::App* command = app.add_subcommand("load", "How busy the server is");
  command->add_option("NAME", flags.name, "Of this model; default: --model")
      ->type_name("");
  SetFooter(*command, kLoadExamples);
}

void AddCost(CLI::App& app, CostFlags& flags) {
  CLI::App* command =
      app.add_subcommand("cost", "What a call would take, densely and sparsely");
  auto* file = AddFile(*command, flags.file, "UTF-8 text; -: standard input");
  command->add_option("--tokens", flags.tokens, "A prompt of so many tokens, not a file")
      ->excludes(file);
  command->add_option("--task", flags.task, "generate, score or summarize")
      ->check(CLI::IsMember({"generate", "score", "summarize"}))
      ->capture_default_str();
  AddMaxTokens(*command, flags.max_tokens);
  AddPriority(*command, flags.priority);
  AddAttention(*command, flags.attention);
  SetFooter(*command, kCostExamples);
}

void AddTop(CLI::App& app, TopFlags& flags) {
  CLI::App* command = app.add_subcommand("top", "Watch how busy the server is");
  command
      ->add_option("--interval", flags.interval,
                   "Time between two looks: 2s, 500ms, or seconds")
      ->type_name("DURATION")
      ->capture_default_str();
  command->add_flag("--once", flags.once,
                    "Print one look and end; so it is without a terminal, too");
  SetFooter(*command, kTopExamples);
}

void AddCalibrate(CLI::App& app, CalibrateFlags& flags) {
  CLI::App* command = app.add_subcommand(
      "calibrate", "Find the eps that suits your own documents, by measuring");
  command->add_option("FOLDER", flags.folder, "Of .txt and .md files, folders in it too")
      ->type_name("")
      ->required();
  const auto option = [&](const char* name, auto& value, const char* help) {
    return command->add_option(name, value, help);
  };
  option("--agreement", flags.agreement,
         "Wanted: share of tokens whose most probable one is dense attention's, (0, 1]; "
         "default 0.98");
  option("--max-drift", flags.max_drift,
         "Wanted, too: mean difference of a token's logprob, at most, nats");
  option("--confidence", flags.confidence, "That documents like these have it, [0.5, 1)")
      ->capture_default_str();
  option("--eps", flags.eps, "What is tried, with commas between")->capture_default_str();
  option("--refine", flags.refine, "Tries between these, 0 to 8")->capture_default_str();
  option("--attention", flags.mode, "auto or refined, as the server shall read")
      ->check(CLI::IsMember({"auto", "refined"}))
      ->capture_default_str();
  option("--min-sparse-tokens", flags.min_sparse_tokens,
         "Tokens that see fewer read them all; default: auto 4096, refined 193");
  option("--max-documents", flags.max_documents, "Of more, so many are drawn")
      ->capture_default_str();
  option("--seed", flags.seed, "Of that draw and of the confidence")
      ->capture_default_str();
  option("--out", flags.out,
         "Folder for the results, which an interrupted run goes on in")
      ->capture_default_str();
  command->add_flag("--fresh", flags.fresh, "Measure again what is there");
  AddPriority(*command, flags.priority);
  SetFooter(*command, kCalibrateExamples);
}

// Everything that a command line may say, and where it is kept while it is read.
struct Parser {
  CLI::App app{kSummary, "quire"};
  GlobalFlags global;
  SummarizeFlags summarize, ask;
  GenerateFlags generate;
  ScoreFlags score;
  TokensFlags tokens;
  ModelsFlags models;
  LoadFlags load;
  CostFlags cost;
  TopFlags top;
  CalibrateFlags calibrate;

  Parser() {
    AddGlobal(app, global);
    AddSummarize(app, summarize);
    AddAsk(app, ask);
    AddGenerate(app, generate);
    AddScore(app, score);
    AddTokens(app, tokens);
    AddModels(app, models);
    AddLoad(app, load);
    AddCost(app, cost);
    AddTop(app, top);
    AddCalibrate(app, calibrate);
    // Global flags may come after the command too.
    for (CLI::App* command : app.get_subcommands({})) command->fallthrough();
    app.set_version_flag("--version", kVersion, "Print the version");
    app.require_subcommand(1);
    app.footer(kFooter);
    app.get_formatter()->column_width(32);
    app.get_formatter()->label("SUBCOMMAND", "COMMAND");
    app.get_formatter()->label("Subcommands", "Commands");
  }

  Arguments Take() {
    const std::string name = app.get_subcommands().front()->get_name();
    if (name == "summarize") return {std::move(global), std::move(summarize)};
    if (name == "ask") return {std::move(global), std::move(ask)};
    if (name == "generate") return {std::move(global), std::move(generate)};
    if (name == "score") return {std::move(global), std::move(score)};
    if (name == "tokens") return {std::move(global), std::move(tokens)};
    if (name == "load") return {std::move(global), std::move(load)};
    if (name == "cost") return {std::move(global), std::move(cost)};
    if (name == "top") return {std::move(global), std::move(top)};
    if (name == "calibrate") return {std::move(global), std::move(calibrate)};
    return {std::move(global), std::move(models)};
  }
};

Reply ReplyTo(const CLI::App& app, const CLI::ParseError& error) {
  std::ostringstream out, err;
  const int code = app.exit(error, out, err);
  if (code == 0) return {kExitOk, out.str()};
  return {kExitInvalid, "quire: " + err.str()};
}

// What one option alone cannot say; empty: nothing is wrong.
std::string Contradiction(const Arguments& arguments) {
  if (const auto* generate = std::get_if<GenerateFlags>(&arguments.command)) {
    if (!generate->prompt && generate->file.empty()) return "name a PROMPT or a --file";
    if ((generate->logprobs || generate->top_logprobs != 0) && !arguments.global.json) {
      return "--logprobs and --top-logprobs need --json";
    }
  }
  if (arguments.global.quiet && arguments.global.verbose) {
    return "--quiet and --verbose exclude each other";
  }
  return "";
}

}  // namespace

v1::Sampling SamplingFlags::ToProto() const {
  v1::Sampling sampling;
  if (temperature) sampling.set_temperature(*temperature);
  if (top_k) sampling.set_top_k(*top_k);
  if (top_p) sampling.set_top_p(*top_p);
  if (min_p) sampling.set_min_p(*min_p);
  if (repetition_penalty) sampling.set_repetition_penalty(*repetition_penalty);
  if (presence_penalty) sampling.set_presence_penalty(*presence_penalty);
  if (frequency_penalty) sampling.set_frequency_penalty(*frequency_penalty);
  if (no_repeat_ngram) sampling.set_no_repeat_ngram(*no_repeat_ngram);
  if (seed) sampling.set_seed(*seed);
  if (penalize_prompt) sampling.set_penalize_prompt(true);
  return sampling;
}

std::variant<Arguments, Reply> ParseArguments(const std::vector<std::string>& arguments) {
  Parser parser;
  try {
    // CLI11 wants them last first.
    parser.app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return ReplyTo(parser.app, error);
  }
  Arguments parsed = parser.Take();
  if (const std::string wrong = Contradiction(parsed); !wrong.empty()) {
    return Reply{kExitInvalid,
                 "quire: " + wrong + "\nRun with --help for more information.\n"};
  }
  return parsed;
}

}  // namespace quire::cli
