// Greedy answers to questions about facts hidden in a book, on the device that
// QUIRE_DEVICE names: one row of CSV for each question, so that two devices can be
// compared (compare.py). Each text is read once for each way of reading; a question goes
// on from its end.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/status_macros.h"
#include "core/runner/runner.h"
#include "tests/benchmarks/device_option.h"
#include "tests/benchmarks/dga_quality/prompt.h"

namespace quire {
namespace {

using quality::AskOneByOne;
using quality::Questions;
using Clock = std::chrono::steady_clock;

struct Arguments {
  std::string model, text, csv;
  std::vector<int64_t> lengths = {16'384, 30'000};
  std::vector<std::string> modes = {"dense", "refined"};
  int parts = 4, facts = 16;
  int64_t chunk = 2048, answer = 24;
  float eps = AttentionOptions().eps;
};

constexpr int32_t kBlockTokens = 64;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

const std::map<std::string, AttentionMode>& Modes() {
  static const auto& modes =
      *new std::map<std::string, AttentionMode>{{"dense", AttentionMode::kDense},
                                                {"refined", AttentionMode::kRefined},
                                                {"auto", AttentionMode::kAuto}};
  return modes;
}

// One sequence in the cache of a runner.
class Reader {
 public:
  Reader(LoadedRunner& loaded, const AttentionOptions& attention, int64_t chunk)
      : loaded_(loaded), attention_(attention), chunk_(chunk) {
    for (int32_t i = 0; i < loaded.kv.num_blocks; ++i) blocks_.push_back(BlockId{i});
  }

  // Reads tokens from position `begin` on; the most probable one after them.
  absl::StatusOr<TokenId> Read(absl::Span<const TokenId> tokens, int64_t begin) {
    TokenId next = 0;
    for (size_t done = 0; done < tokens.size();) {
      const auto part = tokens.subspan(done, static_cast<size_t>(chunk_));
      const StepItem item = {.id = RequestId{1},
                             .begin = static_cast<Position>(begin + done),
                             .tokens = part,
                             .blocks = blocks_,
                             .sample = true,
                             .attention = attention_};
      QUIRE_ASSIGN_OR_RETURN(const std::vector<StepResult> results,
                             loaded_.runner->Step({.items = {item}}));
      QUIRE_RETURN_IF_ERROR(results[0].status);
      next = results[0].sampled->token;
      work_ += results[0].attention.work;
      done += part.size();
    }
    return next;
  }

  // Keys that were read, as a share of what dense attention reads.
  double Columns() const {
    return static_cast<double>(work_.columns) / static_cast<double>(work_.dense_columns);
  }

 private:
  LoadedRunner& loaded_;
  const AttentionOptions attention_;
  const int64_t chunk_;
  std::vector<BlockId> blocks_;
  AttentionWork work_;
};

class Bench {
 public:
  Bench(const Arguments& arguments, const ModelFiles& files, const Tokenizer& tokenizer,
        LoadedRunner& loaded)
      : arguments_(arguments), files_(files), tokenizer_(tokenizer), loaded_(loaded) {}
  ~Bench() {
    if (csv_ != nullptr) std::fclose(csv_);
  }

  absl::Status Open() {
    if (arguments_.csv.empty()) return absl::OkStatus();
    csv_ = std::fopen(arguments_.csv.c_str(), "w");
    if (csv_ == nullptr) {
      return absl::NotFoundError(absl::StrCat("cannot write ", arguments_.csv));
    }
    std::fprintf(csv_, "model,device,compute,length,part,mode,thing,code,found,answer\n");
    return absl::OkStatus();
  }

  absl::Status Run(std::string_view text, int64_t length, const std::string& mode) {
    int found = 0, asked = 0;
    double reading = 0, answering = 0;
    for (int part = 0; part < arguments_.parts; ++part) {
      QUIRE_ASSIGN_OR_RETURN(
          const Questions all,
          AskOneByOne(files_, tokenizer_, text,
                      {.tokens = length - arguments_.answer,
                       .facts = arguments_.facts,
                       .seed = static_cast<uint64_t>(part + 1),
                       .start = static_cast<double>(part) / arguments_.parts}));
      Reader reader(loaded_, {.mode = Modes().at(mode), .eps = arguments_.eps},
                    arguments_.chunk);
      auto began = Clock::now();
      QUIRE_RETURN_IF_ERROR(reader.Read(all.text, 0).status());
      reading += Since(began);
      began = Clock::now();
      for (const Questions::Question& question : all.questions) {
        const auto end = static_cast<int64_t>(all.text.size());
        QUIRE_ASSIGN_OR_RETURN(const std::string answer,
                               Answer(reader, question.tokens, end));
        const bool right = answer.find(question.code) != std::string::npos;
        found += right;
        ++asked;
        Write(length, part, mode, question, right, answer);
      }
      answering += Since(began);
      std::printf("# %s %lld part %d: %zu tokens, %d of %d found, columns %.4f\n",
                  mode.c_str(), static_cast<long long>(length), part, all.text.size(),
                  found, asked, reader.Columns());
      std::fflush(stdout);
    }
    std::printf(
        "%s on %s, %lld tokens, %s: %d of %d found; read in %.1f s, answered in "
        "%.1f s\n",
        files_.name.c_str(), DeviceName(loaded_.device).c_str(),
        static_cast<long long>(length), mode.c_str(), found, asked, reading, answering);
    std::fflush(stdout);
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::string> Answer(Reader& reader, absl::Span<const TokenId> question,
                                     int64_t begin) const {
    const std::vector<TokenId>& ends = files_.config.eos_tokens;
    std::vector<TokenId> answer;
    QUIRE_ASSIGN_OR_RETURN(TokenId next, reader.Read(question, begin));
    begin += static_cast<int64_t>(question.size());
    while (std::find(ends.begin(), ends.end(), next) == ends.end()) {
      answer.push_back(next);
      if (static_cast<int64_t>(answer.size()) == arguments_.answer) break;
      QUIRE_ASSIGN_OR_RETURN(next, reader.Read({&answer.back(), 1}, begin++));
    }
    return tokenizer_.Decode(answer, /*skip_special=*/true);
  }

  void Write(int64_t length, int part, const std::string& mode,
             const Questions::Question& question, bool found, const std::string& answer) {
    if (csv_ == nullptr) return;
    const std::string plain =
        absl::StrReplaceAll(answer, {{"\"", "'"}, {"\n", " "}, {"\r", " "}});
    std::fprintf(csv_, "%s,%s,%s,%lld,%d,%s,%s,%s,%d,\"%s\"\n", files_.name.c_str(),
                 DeviceName(loaded_.device).c_str(),
                 std::string(ComputeTypeName(loaded_.compute)).c_str(),
                 static_cast<long long>(length), part, mode.c_str(),
                 question.thing.c_str(), question.code.c_str(), found, plain.c_str());
    std::fflush(csv_);
  }

  const Arguments& arguments_;
  const ModelFiles& files_;
  const Tokenizer& tokenizer_;
  LoadedRunner& loaded_;
  std::FILE* csv_ = nullptr;
};

absl::Status Run(const Arguments& arguments) {
  QUIRE_ASSIGN_OR_RETURN(const ModelFiles files, OpenModelFiles(arguments.model));
  QUIRE_ASSIGN_OR_RETURN(const Tokenizer tokenizer,
                         Tokenizer::Load(files.tokenizer_path));
  const int64_t longest =
      *std::max_element(arguments.lengths.begin(), arguments.lengths.end());
  QUIRE_ASSIGN_OR_RETURN(
      LoadedRunner loaded,
      LoadRunner(files, {.kv_cache_bytes =
                             files.config.KvBytesPerToken(4) * (longest + kBlockTokens),
                         .tokens_per_block = kBlockTokens,
                         .device = BenchmarkDevice()}));
  std::printf("# %s %s, %s\n", DeviceName(loaded.device).c_str(),
              loaded.device_note.c_str(),
              std::string(ComputeTypeName(loaded.compute)).c_str());
  std::ifstream file(arguments.text, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  Bench bench(arguments, files, tokenizer, loaded);
  QUIRE_RETURN_IF_ERROR(bench.Open());
  for (const int64_t length : arguments.lengths) {
    for (const std::string& mode : arguments.modes) {
      QUIRE_RETURN_IF_ERROR(bench.Run(text, length, mode));
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Greedy answers to questions about facts hidden in a book");
  Arguments a;
  app.add_option("model", a.model, "model folder")->required();
  app.add_option("--text", a.text, "a book, one paragraph a line")->required();
  app.add_option("--length", a.lengths, "tokens of text, question and answer");
  app.add_option("--mode", a.modes, "dense, refined, auto")
      ->check(CLI::IsMember(Modes()));
  app.add_option("--eps", a.eps, "of refined attention");
  app.add_option("--parts", a.parts, "texts of each length, from different places");
  app.add_option("--facts", a.facts, "in a text, and questions about it; at most 64");
  app.add_option("--chunk", a.chunk, "tokens of a prefill step")
      ->check(CLI::PositiveNumber);
  app.add_option("--answer", a.answer, "most tokens of an answer")
      ->check(CLI::PositiveNumber);
  app.add_option("--csv", a.csv, "file to write");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(a);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
