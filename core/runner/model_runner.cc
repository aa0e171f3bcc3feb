#include "core/runner/model_runner.h"

#include <algorithm>
#include <new>

#include "ATen/Parallel.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "ATen/ops/logsumexp.h"
#include "absl/strings/str_cat.h"
#include "c10/core/InferenceMode.h"
#include "c10/util/Exception.h"
#include "core/base/status_macros.h"
#include "core/dga/probe_positions.h"
#include "core/runner/step_checks.h"
#include "core/runner/token_score.h"

namespace quire {
namespace {

// Rows of logits that exist at a time while scoring: 64 x vocab x 4 bytes.
constexpr int64_t kScoreRows = 64;

absl::Span<const float> Row(const at::Tensor& logits, int64_t row) {
  const auto vocab = static_cast<size_t>(logits.size(1));
  return {logits.const_data_ptr<float>() + row * logits.size(1), vocab};
}

at::Tensor SelectRows(const at::Tensor& hidden, absl::Span<const int64_t> rows) {
  at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::kLong);
  std::copy(rows.begin(), rows.end(), index.data_ptr<int64_t>());
  return at::index_select(hidden, 0, index);
}

}  // namespace

absl::Status CpuModelRunner::Check(const StepItem& item) const {
  const ModelConfig& c = decoder_->config();
  QUIRE_RETURN_IF_ERROR(CheckItem(item, c, geometry_));
  if (cache_->index(0) == nullptr && item.attention.mode == AttentionMode::kRefined) {
    return absl::InvalidArgumentError(absl::StrCat(
        "step item's attention.mode is REFINED; it needs cache blocks of ", kGroupTokens,
        " tokens, which have ", geometry_.tokens_per_block,
        ", a head size that 8 divides, which is ", c.head_dim, ", and at most ",
        kernels::kMaxRefinedShare, " query heads a key/value head, of which there are ",
        c.num_heads / c.num_kv_heads));
  }
  return CheckDropped(item);
}

// A block may be missing only where this runner dropped it.
absl::Status CpuModelRunner::CheckDropped(const StepItem& item) const {
  const auto state = states_.find(item.id);
  const std::vector<int32_t> none;
  const std::vector<int32_t>& dropped =
      state == states_.end() || state->second.dropped.empty()
          ? none
          : state->second.dropped.front().pages;
  for (size_t i = 0; i < item.blocks.size(); ++i) {
    const bool gone =
        std::binary_search(dropped.begin(), dropped.end(), static_cast<int32_t>(i));
    if ((item.blocks[i] == kNoBlock) == (gone && item.begin > 0)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "step item's cache block ", i,
        gone ? " was dropped; it must be" : " is there; it must not be", " kNoBlock"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StepResult>> CpuModelRunner::Step(const StepInput& input) {
  QUIRE_RETURN_IF_ERROR(CheckCopies(input, geometry_));
  CheckedItems checked(input, [this](const StepItem& item) { return Check(item); });
  for (const RequestId id : input.released) states_.erase(id);
  absl::StatusOr<std::vector<StepResult>> results = ComputeOrError(input, checked.items);
  // Some layers are ahead of others then. Dropped pages are not lost by that: they are
  // dropped when all is done.
  if (!results.ok()) {
    for (const StepItem* item : checked.items) states_[item->id].faithful.clear();
    return results;
  }
  return std::move(checked).Merge(*std::move(results));
}

// The only place where what ATen throws is caught.
absl::StatusOr<std::vector<StepResult>> CpuModelRunner::ComputeOrError(
    const StepInput& input, Items items) {
  try {
    const c10::InferenceMode inference;
    for (const BlockCopy& copy : input.copies) cache_->Copy(copy.from, copy.to);
    return items.empty() ? std::vector<StepResult>() : Compute(items);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory while computing a step");
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    // ATen's CPU allocator has no type of its own for this.
    if (what.find("not enough memory") != std::string::npos) {
      return absl::ResourceExhaustedError(what);
    }
    return absl::InternalError(what);
  }
}

std::vector<SequenceAttention> CpuModelRunner::Sequences(
    Items items, std::vector<StepResult>& results) {
  std::vector<SequenceAttention> sequences;
  int64_t first = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const StepItem& item = *items[i];
    const auto rows = static_cast<int64_t>(item.tokens.size());
    // What another sequence left under this id is not ours.
    if (item.begin == 0) states_.erase(item.id);
    SequenceAttention s = {.rows = {first, rows, item.begin, item.blocks},
                           .options = item.attention,
                           .state = &states_[item.id],
                           .compact = item.attention.compact && item.last_chunk};
    s.options.refined_pays_from = refined_pays_from_;
    if (item.importance) {
      AttentionProbe& probe = results[i].importance;
      s.probed = ProbedRows(item.begin, rows, item.last_chunk);
      for (const int64_t row : s.probed) {
        probe.queries.push_back(item.begin + static_cast<Position>(row));
      }
      probe.attention.assign(item.begin + rows, 0.0f);
      s.importance = absl::MakeSpan(probe.attention);
    }
    sequences.push_back(std::move(s));
    first += rows;
  }
  return sequences;
}

std::vector<StepResult> CpuModelRunner::Compute(Items items) {
  std::vector<TokenId> tokens;
  std::vector<int64_t> last_rows;
  for (const StepItem* item : items) {
    tokens.insert(tokens.end(), item->tokens.begin(), item->tokens.end());
    if (item->sample) last_rows.push_back(static_cast<int64_t>(tokens.size()) - 1);
  }
  std::vector<StepResult> results(items.size());
  std::vector<SequenceAttention> sequences = Sequences(items, results);
  const at::Tensor hidden = decoder_->Forward(tokens, absl::MakeSpan(sequences), *cache_);
  for (size_t i = 0; i < results.size(); ++i) {
    results[i].id = items[i]->id;
    results[i].attention = sequences[i].stats;
    results[i].head_columns = std::move(sequences[i].head_columns);
    if (sequences[i].compact) Compact(sequences[i], results[i]);
    for (float& x : results[i].importance.attention) {
      x /= static_cast<float>(decoder_->config().num_layers);
    }
    if (items[i]->targets.empty()) continue;
    const kernels::SequenceRows& rows = sequences[i].rows;
    ScoreTargets(*items[i], hidden.narrow(0, rows.first_row, rows.rows), results[i]);
  }
  if (!last_rows.empty()) SampleRows(items, hidden, last_rows, results);
  return results;
}

void CpuModelRunner::Compact(SequenceAttention& sequence, StepResult& result) {
  const ModelConfig& config = decoder_->config();
  std::vector<int32_t> pages =
      PagesToDrop(sequence, config.num_kv_heads, sequence.options.eps);
  if (pages.empty()) return;
  std::vector<BlockId> blocks;
  for (const int32_t page : pages) blocks.push_back(sequence.rows.blocks[page]);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    sequence.state->dropped.push_back(kernels::MeansOf(
        *cache_->index(layer), pages, blocks, cache_->layer(layer).k.scalar_type()));
  }
  result.dropped_blocks = std::move(pages);
}

void CpuModelRunner::ScoreTargets(const StepItem& item, const at::Tensor& hidden,
                                  StepResult& result) const {
  std::vector<int64_t> rows;
  for (size_t i = 0; i < item.targets.size(); ++i) {
    if (item.targets[i] != kNoTarget) rows.push_back(static_cast<int64_t>(i));
  }
  result.scores.resize(rows.size());
  for (size_t begin = 0; begin < rows.size(); begin += kScoreRows) {
    const size_t count = std::min<size_t>(kScoreRows, rows.size() - begin);
    const at::Tensor logits =
        decoder_->Logits(SelectRows(hidden, absl::MakeSpan(rows).subspan(begin, count)));
    const at::Tensor log_sums = at::logsumexp(logits, {1});
    at::parallel_for(0, static_cast<int64_t>(count), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        result.scores[begin + i] =
            ScoreToken(Row(logits, i), log_sums.const_data_ptr<float>()[i],
                       item.targets[rows[begin + i]], item.ranks, item.top_logprobs);
      }
    });
  }
}

void CpuModelRunner::SampleRows(Items items, const at::Tensor& hidden,
                                absl::Span<const int64_t> last_rows,
                                std::vector<StepResult>& results) const {
  const at::Tensor logits = decoder_->Logits(SelectRows(hidden, last_rows));
  const at::Tensor log_sums = at::logsumexp(logits, {1});
  std::vector<size_t> sampled;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i]->sample) sampled.push_back(i);
  }
  const auto count = static_cast<int64_t>(sampled.size());
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const StepItem& item = *items[sampled[row]];
      const TokenId token =
          Sample(Row(logits, row), item.sampling, item.history, item.sample_step);
      results[sampled[row]].sampled =
          ScoreToken(Row(logits, row), log_sums.const_data_ptr<float>()[row], token,
                     item.ranks, item.top_logprobs);
    }
  });
}

}  // namespace quire
