#include "client/cli/help.h"

namespace quire::cli {

const char kVersion[] = "quire " QUIRE_VERSION;

const char kSummary[] =
    "Long documents in; summaries, answers and scores out, from a Quire server.";

const char kFooter[] =
    R"(Results go to standard output, everything else to standard error. Progress is drawn only on
a terminal. `quire COMMAND --help` has each command's flags and examples.

Exit codes:
  0    done (also if the reader of a pipe stopped early)
  1    internal error
  2    wrong usage, or an input that the client or the server refuses
  3    no server there, or it is loading or shutting down
  4    refused: the server is full, or this is more than it can hold
  5    --timeout ran out
  6    no such model
  130  interrupted with Ctrl-C (a second Ctrl-C does not wait for the server)
  143  terminated

Examples:
  quire summarize chapter.txt
  quire ask contract.txt "Who may end the contract, and when?"
  quire models --server 10.0.0.7:50051)";

const char kGlobalFlagsHint[] =
    "\n\n`quire --help` has the flags that every command takes (--server, --model, "
    "--json, "
    "--timeout, ...)\nand the exit codes.";

const char kSummarizeExamples[] = R"(Examples:
  quire summarize chapter.txt --words 100
  quire summarize chapter.txt --strategy extractive --sources
  pdftotext report.pdf - | quire summarize - > summary.txt
  quire summarize minutes.txt --question "What was decided?" --json)";

const char kAskExamples[] = R"(Examples:
  quire ask contract.txt "Who may end the contract, and when?"
  quire ask - "Which function opens the file?" < main.c)";

const char kGenerateExamples[] = R"(Examples:
  quire generate "Once upon a time" --max-tokens 50 --temperature 0.8 --seed 7
  quire generate --chat --system "Answer in one line." "What is a quire?"
  quire generate --file prompt.txt --stop END --json --top-logprobs 5)";

const char kScoreExamples[] = R"(Examples:
  quire score chapter.txt
  quire score chapter.txt --ranks --top 3 > tokens.tsv
  quire score chapter.txt --spans-file paragraphs.txt --json)";

const char kTokensExamples[] = R"(Examples:
  quire tokens chapter.txt
  echo -n "Hello there" | quire tokens - --ids
  echo "19556 665" | quire tokens - --decode)";

const char kModelsExamples[] = R"(Examples:
  quire models
  quire models quire-135m --json)";

const char kLoadExamples[] = R"(Examples:
  quire load
  quire load quire-135m --json)";

const char kCostExamples[] = R"(Examples:
  quire cost chapter.txt --max-tokens 200
  quire cost book.txt --task summarize --attention refined
  quire cost --tokens 30000 --task score --json)";

const char kTopExamples[] = R"(Ctrl-C ends it.

Examples:
  quire top
  quire top --interval 5s --model quire-135m
  quire top --once)";

const char kCalibrateExamples[] = R"(Examples:
  quire calibrate contracts/
  quire calibrate contracts/ --agreement 0.99 --out contracts-calibration
  quire-server --model ... --config contracts-calibration/config.json)";

}  // namespace quire::cli
