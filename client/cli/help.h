#pragma once

namespace quire::cli {

// Texts of --help and --version.
extern const char kVersion[];
extern const char kSummary[];
extern const char kFooter[];
extern const char kGlobalFlagsHint[];
extern const char kSummarizeExamples[];
extern const char kAskExamples[];
extern const char kGenerateExamples[];
extern const char kScoreExamples[];
extern const char kTokensExamples[];
extern const char kModelsExamples[];
extern const char kLoadExamples[];
extern const char kCostExamples[];
extern const char kTopExamples[];
extern const char kCalibrateExamples[];

}  // namespace quire::cli
