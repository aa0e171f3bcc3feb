#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model/cuda_decoder.h"
#include "core/runner/cuda_model_runner.h"
#include "tests/benchmarks/cuda_step/report.h"

namespace quire::cuda_step {

struct Options {
  int steps = 50;  // that a median is of
  // Far columns of a query head that eps is chosen for: of a token, of a prompt's row.
  double columns = 450, prompt_columns = 1500;
  bool sampled = false;  // tokens are drawn: temperature .8, top-k 50, top-p .95
  bool profile = false;  // the host's time by part
  bool graphs = true;
  int64_t chunk = 8192;  // of a prompt
};

// One model of a shape with random weights, and a cache full of random keys and values.
class Bench {
 public:
  // Sequences that are measured have at most so many tokens together. Throws what CUDA
  // and ATen throw: c10::OutOfMemoryError if it does not fit.
  Bench(const std::string& model, int64_t tokens, const Options& options,
        at::Device device);

  // Tokens that a cache beside the model's weights has room for on an empty device.
  static int64_t Room(const std::string& model, at::Device device);

  // ModelRunner::Prepare: how long it took, in milliseconds.
  double Prepare();

  // Latency of a token of `batch` sequences that have `length` tokens each, by the whole
  // step: tables, layers, logits, choice. Refined at the eps with which a head
  // reads about options.columns far keys; random scores say nothing of what is enough.
  Row MeasureToken(AttentionMode mode, int64_t batch, int64_t length);

  // From the first chunk of a prompt to its first token. Refined at the eps with which a
  // row of the last chunk reads about options.prompt_columns far keys.
  Row MeasureFirstToken(AttentionMode mode, int64_t length);

 private:
  struct Step;  // what a step asks, of all sequences
  Step MakeStep(const AttentionOptions& attention, int64_t batch, int64_t length) const;
  std::vector<StepResult> Run(const Step& step) const;
  // Rows [begin, begin + count) of a prompt.
  AttentionStats PromptChunk(const AttentionOptions& attention,
                             const std::vector<TokenId>& tokens, int64_t begin,
                             int64_t count) const;
  // Far columns of a query head, of a layer, of the results' rows on average.
  static double FarColumns(const AttentionStats& stats);
  void Profile(const Step& step, bool refined, Row& row) const;

  const std::string model_;
  const ModelConfig config_;
  const Options options_;
  KvGeometry geometry_;
  std::vector<BlockId> blocks_;     // shuffled
  CudaDecoder* decoder_ = nullptr;  // of the runner, as is the next
  CudaKvCache* cache_ = nullptr;
  std::unique_ptr<CudaModelRunner> runner_;
};

}  // namespace quire::cuda_step
