// What sparse attention costs and what it changes, against dense attention of the same
// prompts in the same process; tests/benchmarks/dga_quality/README.md says how to read
// it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "c10/core/InferenceMode.h"
#include "core/base/status_macros.h"
#include "tests/benchmarks/dga_quality/measure.h"
#include "tests/benchmarks/dga_quality/settings.h"

namespace quire::quality {
namespace {

struct Arguments {
  std::string model;
  std::vector<std::string> texts;
  std::vector<int64_t> lengths;
  std::vector<std::string> settings;
  std::vector<std::string> presets;
  std::string csv;
  std::string compute = "auto";
  int parts = 1, rounds = 1, facts = 16;
  int64_t decode = 0, chunk = 512, from = 2048, stride = 8;
};

// Comma-separated values with a header that comes with the first row.
class Csv {
 public:
  explicit Csv(const std::string& path) {
    if (path.empty()) return;
    file_ = std::fopen(path.c_str(), "w");
    if (file_ == nullptr) std::perror(path.c_str());
  }
  ~Csv() {
    if (file_ != nullptr) std::fclose(file_);
  }
  void Write(const std::vector<std::pair<std::string, std::string>>& row) {
    if (file_ == nullptr) return;
    if (!std::exchange(has_header_, true))
      Line(row, [](auto& cell) { return cell.first; });
    Line(row, [](auto& cell) { return cell.second; });
    std::fflush(file_);
  }

 private:
  template <typename Part>
  void Line(const std::vector<std::pair<std::string, std::string>>& row, Part part) {
    for (size_t i = 0; i < row.size(); ++i) {
      const bool quote = part(row[i]).find(',') != std::string::npos;
      std::fprintf(file_, "%s%s%s%s", i > 0 ? "," : "", quote ? "\"" : "",
                   std::string(part(row[i])).c_str(), quote ? "\"" : "");
    }
    std::fprintf(file_, "\n");
  }
  std::FILE* file_ = nullptr;
  bool has_header_ = false;
};

// What all rows of one prompt share.
struct Case {
  std::string model, text;
  int part = 0;
  int64_t length = 0;  // as asked for
  const Prompt* prompt = nullptr;
  int64_t prefill = 0;  // tokens
};

struct Measured {
  Reading reading;
  Quality prefill, decode;
  // Of each round, least last.
  std::vector<double> attention, forward, score, decode_attention, decode_all;

  void AddTimes(const Reading& r) {
    attention.push_back(r.receipt.prefill.seconds);
    forward.push_back(r.prefill_seconds);
    score.push_back(r.prefill_seconds + r.prefill_head_seconds);
    decode_attention.push_back(r.receipt.decode.seconds);
    decode_all.push_back(r.decode_seconds);
  }
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double Share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

using Row = std::vector<std::pair<std::string, std::string>>;

void AddNumber(Row& row, std::string name, double value) {
  row.emplace_back(std::move(name), absl::StrFormat("%.6g", value));
}

void AddWork(Row& row, const AttentionStats& stats) {
  const AttentionWork& w = stats.work;
  AddNumber(row, "columns", Share(w.columns, w.dense_columns));
  AddNumber(row, "attention_macs", Share(w.attention_macs, w.dense_macs));
  AddNumber(row, "selection_macs", Share(w.selection_macs, w.dense_macs));
  AddNumber(row, "statistics_macs", Share(w.statistics_macs, w.dense_macs));
  AddNumber(row, "audit_macs", Share(w.audit_macs, w.dense_macs));
  AddNumber(row, "all_macs", Share(w.executed_macs(), w.dense_macs));
  AddNumber(row, "attention_bytes", Share(w.attention_bytes, w.dense_bytes));
  AddNumber(row, "selection_bytes", Share(w.selection_bytes, w.dense_bytes));
  AddNumber(row, "statistics_bytes", Share(w.statistics_bytes, w.dense_bytes));
  AddNumber(row, "audit_bytes", Share(w.audit_bytes, w.dense_bytes));
  AddNumber(row, "all_bytes", Share(w.executed_bytes(), w.dense_bytes));
  AddNumber(row, "dense_macs", static_cast<double>(w.dense_macs));
  AddNumber(row, "dense_bytes", static_cast<double>(w.dense_bytes));
}

void AddErrors(Row& row, const AttentionStats& stats) {
  const auto mean = [](double sum, int64_t n) {
    return n > 0 ? sum / static_cast<double>(n) : 0;
  };
  AddNumber(row, "coverage", mean(stats.coverage, stats.sparse_rows));
  AddNumber(row, "tail_risk", mean(stats.tail_risk, stats.sparse_rows));
  AddNumber(row, "audit_error", mean(stats.audit_error, stats.audits));
  AddNumber(row, "max_audit_error", stats.max_audit_error);
}

void AddQuality(Row& row, const Quality& q) {
  AddNumber(row, "positions", static_cast<double>(q.positions));
  AddNumber(row, "kl", q.kl);
  AddNumber(row, "kl_first_third", q.first_kl);
  AddNumber(row, "kl_last_third", q.last_kl);
  AddNumber(row, "agreement", q.agreement);
  AddNumber(row, "hidden_error", q.hidden_error);
  AddNumber(row, "perplexity", q.perplexity);
  AddNumber(row, "dense_perplexity", q.dense_perplexity);
  AddNumber(row, "asked", static_cast<double>(q.asked));
  AddNumber(row, "found", static_cast<double>(q.found));
  AddNumber(row, "dense_found", static_cast<double>(q.dense_found));
}

struct Times {
  double attention, all, score;
};

void AddTimes(Row& row, const Times& own, const Times& dense, double selection) {
  AddNumber(row, "attention_s", own.attention);
  AddNumber(row, "dense_attention_s", dense.attention);
  AddNumber(row, "attention_speedup", dense.attention / own.attention);
  AddNumber(row, "selection_s", selection);
  AddNumber(row, "layers_s", own.all);
  AddNumber(row, "dense_layers_s", dense.all);
  AddNumber(row, "score_s", own.score);
  AddNumber(row, "dense_score_s", dense.score);
  AddNumber(row, "score_speedup", own.score > 0 ? dense.score / own.score : 0);
}

Row MakeRow(const Case& c, const Setting& setting, const Session& session, bool decode,
            const Measured& own, const Measured& dense) {
  const auto tokens = static_cast<int64_t>(c.prompt->tokens.size());
  const AttentionReceipt& receipt = own.reading.receipt;
  const AttentionStats& stats = decode ? receipt.decode : receipt.prefill;
  Row row = {{"model", c.model},
             {"text", c.text},
             {"part", absl::StrCat(c.part)},
             {"length", absl::StrCat(c.length)},
             {"tokens", absl::StrCat(tokens)},
             {"phase", decode ? "decode" : "prefill"},
             {"phase_tokens", absl::StrCat(decode ? tokens - c.prefill : c.prefill)},
             {"setting", setting.name},
             {"curve", setting.curve}};
  AddWork(row, stats);
  AddQuality(row, decode ? own.decode : own.prefill);
  AddErrors(row, stats);
  const auto times = [&](const Measured& m) {
    return decode ? Times{Median(m.decode_attention), Median(m.decode_all), 0}
                  : Times{Median(m.attention), Median(m.forward), Median(m.score)};
  };
  AddTimes(row, times(own), times(dense), stats.selection_seconds);
  AddNumber(row, "eps_at_end", receipt.eps);
  AddNumber(row, "fell_back", receipt.fell_back);
  AddNumber(row, "index_bytes", session.IndexShare());
  AddNumber(row, "dropped_bytes",
            Share(receipt.kv_bytes_dropped, session.KvBytes(tokens)));
  return row;
}

void Print(const Row& row) {
  std::map<std::string, std::string> cells(row.begin(), row.end());
  for (const char* name :
       {"tokens", "phase", "setting", "columns", "all_macs", "all_bytes", "kl",
        "agreement", "perplexity", "found", "dense_found", "audit_error",
        "attention_speedup", "score_speedup"}) {
    std::printf("%s%s=%s", std::string_view(name) == "tokens" ? "" : " ", name,
                cells[name].c_str());
  }
  std::printf("\n");
  std::fflush(stdout);
}

class Bench {
 public:
  Bench(const Arguments& arguments, Session& session, std::vector<Setting> settings)
      : arguments_(arguments),
        session_(session),
        settings_(std::move(settings)),
        csv_(arguments.csv) {}

  void Run(const Case& c) {
    const auto& tokens = c.prompt->tokens;
    const auto end = static_cast<int64_t>(tokens.size());
    std::vector<Measured> measured(settings_.size());
    Measured dense;
    for (int round = 0; round < arguments_.rounds; ++round) {
      Reading reading = session_.Read(tokens, c.prefill, arguments_.chunk,
                                      {.mode = AttentionMode::kDense});
      dense.AddTimes(reading);
      if (round == 0) dense.reading = std::move(reading);
      for (size_t i = 0; i < settings_.size(); ++i) {
        reading =
            session_.Read(tokens, c.prefill, arguments_.chunk, settings_[i].options);
        measured[i].AddTimes(reading);
        if (round > 0) continue;
        measured[i].reading = std::move(reading);
        Fill(c, dense, measured[i]);
        measured[i].reading.hidden.reset();
        if (arguments_.rounds == 1) Report(c, settings_[i], measured[i], dense);
      }
    }
    for (size_t i = 0; i < settings_.size() && arguments_.rounds > 1; ++i) {
      Report(c, settings_[i], measured[i], dense);
    }
    if (end > c.prefill) return;
    std::printf("# dense: attention %.2f s, layers %.2f s, score %.2f s\n",
                Median(dense.attention), Median(dense.forward), Median(dense.score));
  }

 private:
  void Fill(const Case& c, const Measured& dense, Measured& own) const {
    const auto end = static_cast<int64_t>(c.prompt->tokens.size());
    own.prefill = Compare(session_, *c.prompt, dense.reading, own.reading,
                          {arguments_.from, c.prefill, arguments_.stride});
    if (end > c.prefill) {
      own.decode =
          Compare(session_, *c.prompt, dense.reading, own.reading, {c.prefill, end, 1});
    }
  }
  void Report(const Case& c, const Setting& setting, const Measured& own,
              const Measured& dense) {
    for (const bool decode : {false, true}) {
      if (decode && c.prefill == static_cast<int64_t>(c.prompt->tokens.size())) continue;
      const Row row = MakeRow(c, setting, session_, decode, own, dense);
      Print(row);
      csv_.Write(row);
    }
  }

  const Arguments& arguments_;
  Session& session_;
  const std::vector<Setting> settings_;
  Csv csv_;
};

// The tokens that are decoded stand around the end of the text: half of them are text,
// half questions and answers. What comes after is not read.
int64_t Split(int64_t decode, Prompt& prompt) {
  const auto size = static_cast<int64_t>(prompt.tokens.size());
  if (decode == 0) return size;
  const int64_t first = std::max<int64_t>(1, prompt.text_end - decode / 2);
  prompt.tokens.resize(std::min(size, first + decode));
  return first;
}

absl::StatusOr<std::vector<Setting>> Settings(const Arguments& arguments) {
  std::vector<std::string> names = arguments.settings;
  for (const std::string& preset : arguments.presets) {
    QUIRE_ASSIGN_OR_RETURN(const auto more, Preset(preset));
    names.insert(names.end(), more.begin(), more.end());
  }
  std::vector<Setting> settings;
  for (const std::string& name : names) {
    QUIRE_ASSIGN_OR_RETURN(settings.emplace_back(), ParseSetting(name));
  }
  return settings;
}

std::string FileName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

absl::Status Run(const Arguments& arguments) {
  const c10::InferenceMode inference;
  QUIRE_ASSIGN_OR_RETURN(std::vector<Setting> settings, Settings(arguments));
  QUIRE_ASSIGN_OR_RETURN(const ModelFiles files, OpenModelFiles(arguments.model));
  QUIRE_ASSIGN_OR_RETURN(const Tokenizer tokenizer,
                         Tokenizer::Load(files.tokenizer_path));
  const int64_t longest =
      *std::max_element(arguments.lengths.begin(), arguments.lengths.end());
  const ComputeType compute = arguments.compute == "float32"    ? ComputeType::kFloat32
                              : arguments.compute == "bfloat16" ? ComputeType::kBFloat16
                                                                : ComputeType::kAuto;
  QUIRE_ASSIGN_OR_RETURN(const auto session, Session::Load(files, compute, longest));
  Bench bench(arguments, *session, std::move(settings));
  for (const std::string& path : arguments.texts) {
    std::ifstream file(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    for (const int64_t length : arguments.lengths) {
      for (int part = 0; part < arguments.parts; ++part) {
        QUIRE_ASSIGN_OR_RETURN(
            Prompt prompt,
            HideFacts(files, tokenizer, text,
                      {.tokens = length,
                       .facts = arguments.facts,
                       .seed = static_cast<uint64_t>(part + 1),
                       .start = static_cast<double>(part) / arguments.parts}));
        const int64_t prefill = Split(arguments.decode, prompt);
        if (part == 0) {  // untimed: fills the caches and wakes the threads
          session->Read(absl::MakeSpan(prompt.tokens).subspan(0, 64), 64, 64, {});
        }
        bench.Run({files.name, FileName(path), part, length, &prompt, prefill});
      }
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Cost and quality of sparse attention against dense attention");
  Arguments a;
  app.add_option("model", a.model, "model folder")->required();
  app.add_option("--text", a.texts, "books, one paragraph a line")->required();
  app.add_option("--length", a.lengths, "tokens of a prompt")->required();
  app.add_option("--setting", a.settings, "MODE[,KEY=VALUE ...], see settings.h");
  app.add_option("--preset", a.presets, "curves or paper: lists of settings");
  app.add_option("--parts", a.parts, "prompts from different places of each text");
  app.add_option("--rounds", a.rounds, "times are medians over so many passes");
  app.add_option("--facts", a.facts, "hidden facts in a prompt, at most 64");
  app.add_option("--decode", a.decode,
                 "tokens around the text's end that are fed singly");
  app.add_option("--chunk", a.chunk, "tokens of a prefill step");
  app.add_option("--from", a.from, "first position that is compared");
  app.add_option("--stride", a.stride, "every so many positions are compared");
  app.add_option("--compute", a.compute, "auto, float32 or bfloat16");
  app.add_option("--csv", a.csv, "file to write");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(a);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace quire::quality

int main(int argc, char** argv) { return quire::quality::Main(argc, argv); }
