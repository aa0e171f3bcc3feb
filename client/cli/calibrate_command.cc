#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/container/btree_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/cli/calibrate_report.h"
#include "client/cli/calibrate_run.h"
#include "client/cli/calibrate_view.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

constexpr int32_t kAutoMinSparseTokens = 4096;
constexpr int32_t kRefinedMinSparseTokens = 193;
constexpr size_t kMaxGrid = 16;
constexpr int kMaxRefinements = 8;
constexpr double kDefaultAgreement = 0.98;

absl::Status OutOf(const char* flag, double value, const char* range) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %g; it must be in %s", flag, value, range));
}

absl::Status CheckFlags(const CalibrateFlags& flags) {
  if (flags.agreement && !(*flags.agreement > 0 && *flags.agreement <= 1)) {
    return OutOf("--agreement", *flags.agreement, "(0, 1]");
  }
  if (flags.max_drift && !(*flags.max_drift > 0 && *flags.max_drift <= 100)) {
    return OutOf("--max-drift", *flags.max_drift, "(0, 100]");
  }
  if (!(flags.confidence >= 0.5 && flags.confidence < 1)) {
    return OutOf("--confidence", flags.confidence, "[0.5, 1)");
  }
  if (flags.max_documents < 1 || flags.max_documents > 10'000) {
    return OutOf("--max-documents", static_cast<double>(flags.max_documents),
                 "[1, 10000]");
  }
  if (flags.refine < 0 || flags.refine > kMaxRefinements) {
    return OutOf("--refine", flags.refine, "[0, 8]");
  }
  if (flags.min_sparse_tokens && *flags.min_sparse_tokens < kRefinedMinSparseTokens) {
    return OutOf("--min-sparse-tokens", *flags.min_sparse_tokens, "[193, 2147483647]");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> ParseGrid(const std::string& text) {
  absl::btree_set<double> grid;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    double eps = 0;
    if (!absl::SimpleAtod(word, &eps) || !(eps > 0 && eps <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--eps has \"", word, "\"; it must be numbers in (0, 1] with ",
                       "commas between"));
    }
    grid.insert(eps);
  }
  if (grid.size() > kMaxGrid) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--eps has ", grid.size(), " numbers; it must have at most ", kMaxGrid));
  }
  return std::vector<double>(grid.begin(), grid.end());
}

std::string ModelWords(const v1::Model& model) {
  return absl::StrCat(model.name(), ", ", WithCommas(model.parameters()), " parameters, ",
                      model.compute_type(), ", context ",
                      WithCommas(model.context_tokens()));
}

// One run of the command, step by step.
class Calibration {
 public:
  Calibration(const Session& session, const CalibrateFlags& flags)
      : session_(session), flags_(flags) {}

  absl::Status Run() {
    for (const auto step :
         {&Calibration::Prepare, &Calibration::FindFiles, &Calibration::OpenStore,
          &Calibration::CountAll, &Calibration::MeasureAll, &Calibration::Write}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return Explain(status);
    }
    return Print();
  }

 private:
  Screen& screen() const { return session_.screen(); }

  absl::Status Prepare() {
    if (absl::Status status = CheckFlags(flags_); !status.ok()) return status;
    auto grid = ParseGrid(flags_.eps);
    if (!grid.ok()) return grid.status();
    grid_ = *std::move(grid);
    const bool refined = flags_.mode == "refined";
    result_.folder = flags_.folder;
    result_.mode = refined ? v1::ATTENTION_MODE_REFINED : v1::ATTENTION_MODE_AUTO;
    result_.min_sparse_tokens = flags_.min_sparse_tokens.value_or(
        refined ? kRefinedMinSparseTokens : kAutoMinSparseTokens);
    result_.wanted = {flags_.agreement, flags_.max_drift};
    if (!flags_.agreement && !flags_.max_drift) {
      result_.wanted.agreement = kDefaultAgreement;
    }
    result_.bootstrap = {.seed = flags_.seed, .confidence = flags_.confidence};
    options_ = {.folder = flags_.folder,
                .mode = result_.mode,
                .min_sparse_tokens = result_.min_sparse_tokens,
                .priority = flags_.priority};
    return absl::OkStatus();
  }

  absl::Status FindFiles() {
    auto found = FindDocuments(flags_.folder, {.max_documents = flags_.max_documents},
                               flags_.seed);
    if (!found.ok()) return found.status();
    files_ = std::move(found->documents);
    result_.skipped = std::move(found->skipped);
    result_.others = found->others;
    result_.not_drawn = found->not_drawn;
    for (const SkippedFile& file : result_.skipped) {
      screen().Note(absl::StrCat("skipped ", file.path, ": ", file.why));
    }
    if (result_.not_drawn > 0) {
      screen().Note(
          absl::StrCat("drew ", flags_.max_documents, " of ",
                       WithCommas(flags_.max_documents + result_.not_drawn),
                       " documents; --max-documents takes more, --seed others"));
    }
    if (!files_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "there is no document in \"", flags_.folder, "\"; looked for .txt, .text, .md ",
        "and .markdown, skipped ", result_.skipped.size(), " of them and passed ",
        result_.others, " other files"));
  }

  absl::Status OpenStore() {
    const auto model =
        session_.client().GetModel(session_.flags().model, session_.NewCall());
    if (!model.ok()) return model.status();
    result_.model = ModelWords(*model);
    const CalibrationSetup setup = {
        result_.model, absl::StrCat(Name(result_.mode), " from ",
                                    result_.min_sparse_tokens, " tokens on")};
    auto store = CalibrationStore::Open(flags_.out, setup, flags_.fresh);
    if (!store.ok()) return store.status();
    store_ = *std::move(store);
    calibrator_.emplace(session_, options_, *store_);
    if (store_->of_other_setups() > 0) {
      screen().Note(absl::StrCat(
          WithCommas(store_->of_other_setups()), " readings in \"", flags_.out,
          "\" are of another model or other options and are not used"));
    }
    return absl::OkStatus();
  }

  // Which documents are long enough to be read sparsely at all.
  absl::Status CountAll() {
    int64_t longest = 0;
    for (const DocumentFile& file : files_) {
      const auto tokens = calibrator_->CountTokens(file);
      if (!tokens.ok()) return tokens.status();
      longest = std::max(longest, *tokens);
      const bool fits = *tokens > result_.min_sparse_tokens;
      (fits ? result_.documents : result_.too_short).push_back({file, *tokens});
    }
    for (const CalibrationDocument& document : result_.too_short) {
      screen().Detail(absl::StrCat(document.file.path, ": ", WithCommas(document.tokens),
                                   " tokens, too short to be read sparsely"));
    }
    const std::string limit = absl::StrCat(WithCommas(result_.min_sparse_tokens),
                                           " tokens (min_sparse_tokens)");
    if (result_.documents.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "no document is long enough to be read sparsely: the longest of ",
          files_.size(), " has ", WithCommas(longest), " tokens, and that begins beyond ",
          limit, "; --min-sparse-tokens lowers it"));
    }
    if (!result_.too_short.empty()) {
      screen().Note(absl::StrCat(
          "too short to be read sparsely, whatever eps is: ", result_.too_short.size(),
          " of ", files_.size(), " documents, which have no more than ", limit));
    }
    return absl::OkStatus();
  }

  absl::Status MeasureAll() {
    if (absl::Status status = Measure(grid_); !status.ok()) return status;
    for (int round = 0; round < flags_.refine; ++round) {
      const auto next = NextEps(result_.summaries, result_.wanted);
      if (!next || std::count(grid_.begin(), grid_.end(), *next) > 0) break;
      screen().Detail(absl::StrCat("measuring eps ", EpsText(*next), ", too"));
      grid_.push_back(*next);
      std::sort(grid_.begin(), grid_.end());
      if (absl::Status status = Measure({*next}); !status.ok()) return status;
    }
    result_.recommendation = Recommend(result_.summaries, result_.wanted);
    if (calibrator_->found() > 0) {
      screen().Note(
          absl::StrCat(WithCommas(calibrator_->found()), " readings were there already"));
    }
    return absl::OkStatus();
  }

  absl::Status Measure(const std::vector<double>& grid) {
    const absl::Status status = calibrator_->Measure(result_.documents, grid);
    if (!status.ok()) return status;
    result_.summaries.clear();
    result_.readings.clear();
    for (const double eps : grid_) {
      std::vector<Measurement> readings;
      for (const CalibrationDocument& document : result_.documents) {
        const Measurement* found = store_->Find(document.file.key, eps);
        // A server may read densely what it would not read faster sparsely.
        if (found != nullptr && found->sparse && found->tokens > 0) {
          readings.push_back(*found);
        }
      }
      if (readings.empty()) continue;
      result_.summaries.push_back(Summarise(readings, result_.bootstrap));
      result_.readings.push_back(std::move(readings));
    }
    if (!result_.summaries.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "the server read all documents densely under ", Name(result_.mode),
        "; there is nothing to calibrate (--attention refined leaves it no choice)"));
  }

  absl::Status Write() {
    for (const auto& [name, contents] :
         {std::pair<std::string, std::string>{"config.json", ConfigFragment(result_)},
          {"report.html", CalibrationReport(result_)}}) {
      const absl::Status status = store_->WriteFile(name, contents);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Print() const {
    if (session_.flags().json) {
      Json json = ToJson(result_);
      json["out"] = flags_.out;
      return session_.PrintJson(std::move(json), "");
    }
    Environment& environment = session_.environment();
    const int columns = environment.out.is_terminal() ? environment.out.columns() : 80;
    const std::string plot = Plot(result_, columns);
    absl::Status status = screen().Print(absl::StrCat(
        EpsTable(result_), plot.empty() ? "" : "\n", plot, "\n", Advice(result_)));
    screen().Note(absl::StrCat("for the server: ", flags_.out,
                               "/config.json; for you: ", flags_.out, "/report.html"));
    return status;
  }

  // What was measured is not lost, and the user should know.
  absl::Status Explain(absl::Status status) const {
    if (store_ == nullptr || !calibrator_ || calibrator_->made() == 0) return status;
    screen().Note(absl::StrCat("what was measured is kept in \"", flags_.out,
                               "\"; the same command goes on from there"));
    return status;
  }

  const Session& session_;
  const CalibrateFlags& flags_;
  CalibrationResult result_;
  std::vector<double> grid_;
  std::vector<DocumentFile> files_;
  Calibrator::Options options_;
  std::unique_ptr<CalibrationStore> store_;
  std::optional<Calibrator> calibrator_;
};

}  // namespace

absl::Status RunCommand(const Session& session, const CalibrateFlags& flags) {
  return Calibration(session, flags).Run();
}

}  // namespace quire::cli
