#include "core/kernels/refined.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>

#include "ATen/Parallel.h"
#include "core/base/check.h"
#include "core/base/mix_bits.h"
#include "core/kernels/cpu/bf16_kernels.h"
#include "core/kernels/cpu/refined_float.h"

namespace quire::kernels {
namespace {

static_assert(bf16::kRefinedPage == kGroupTokens && bf16::kRefinedPage == kSinkTokens);
static_assert(bf16::kRefinedWindow == kWindowTokens);
static_assert(bf16::kRefinedDraws == kDraws);
static_assert(bf16::kMaxRefinedShare == kMaxRefinedShare);

// The draws are as even as they can be: each of kDraws equal parts of (0, 1] once.
std::vector<int16_t> MakeDraws() {
  std::vector<int16_t> draws(kDraws + kDrawPadding);
  for (int64_t i = 0; i < kDraws; ++i) {
    const double u = (static_cast<double>(i) + 0.5) / kDraws;
    draws[i] = static_cast<int16_t>(std::lround(128 * std::log2(u)));
  }
  for (int64_t i = kDraws - 1; i > 0; --i) {
    std::swap(draws[i], draws[MixBits(static_cast<uint32_t>(i)) % (i + 1)]);
  }
  std::copy(draws.begin(), draws.begin() + kDrawPadding, draws.begin() + kDraws);
  return draws;
}

std::vector<float> MakeLog2Counts() {
  std::vector<float> counts(kGroupTokens + 1, 0.0f);
  for (size_t n = 1; n < counts.size(); ++n) counts[n] = std::log2(static_cast<float>(n));
  return counts;
}

// One call over all heads and rows.
class Call {
 public:
  Call(const at::Tensor& q, const PagedKv& kv, const PageIndex& index,
       const SequenceRows& sequence, const RefinedOptions& options, at::Tensor& out)
      : q_(q), kv_(kv), index_(index), s_(sequence), options_(options), out_(out) {}

  bf16::RefinedCounts Run() {
    const bool fast = q_.scalar_type() == at::kBFloat16;
    const int64_t tokens = fast ? bf16::RefinedTaskTokens(share()) : 1;
    const int64_t first_task = s_.begin / tokens;
    const int64_t tasks = (s_.begin + s_.rows - 1) / tokens + 1 - first_task;
    at::parallel_for(0, tasks * heads(), 1, [&](int64_t begin, int64_t end) {
      bf16::RefinedCounts counts;
      std::vector<int64_t> columns(options_.head_columns == nullptr ? 0 : heads());
      // Kept: a decode step is short, and fresh memory would cost it more than its work.
      static thread_local std::vector<float> scratch;
      if (fast)
        Grow(scratch, bf16::RefinedScratchSize(s_.begin + s_.rows, kv_.k.size(3)));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = (first_task + i % tasks) * tokens - s_.begin;
        const int64_t first = std::max<int64_t>(0, at);
        const int64_t last = std::min<int64_t>(s_.rows, at + tokens);
        const int64_t before = counts.near_columns + counts.far_columns;
        if (fast) {
          RunFast(i / tasks, first, last, scratch.data(), counts);
        } else {
          RunFloat(i / tasks, first, counts);
        }
        if (columns.empty()) continue;
        columns[i / tasks] += counts.near_columns + counts.far_columns - before;
      }
      Add(counts, columns);
    });
    return total_;
  }

 private:
  static void Grow(std::vector<float>& memory, int64_t size) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
  }
  int64_t heads() const { return q_.size(0); }
  int64_t share() const { return q_.size(2); }
  int64_t QueryOffset(int64_t head) const {
    return (head * q_.size(1) + s_.first_row) * share() * q_.size(3);
  }
  int64_t OutOffset() const { return s_.first_row * out_.size(1); }

  void RunFast(int64_t head, int64_t first, int64_t last, float* scratch,
               bf16::RefinedCounts& counts) {
    std::vector<uint32_t> starts(last);
    for (int64_t t = first; t < last; ++t) {
      starts[t] = DrawStart(options_.layer, head, s_.begin + t);
    }
    Recording recording = {this, head};
    bf16::RefinedArgs args = FastArgs(head, starts.data());
    std::vector<float> shares = PageShares();
    args.page_shares = shares.empty() ? nullptr : shares.data();
    args.page_shares_from = options_.page_shares_from;
    bf16::RefinedTokens(args, first, last, scratch, counts,
                        {options_.record != nullptr ? &Record : nullptr, &recording});
    AddPageShares(head, shares);
  }

  bf16::RefinedArgs FastArgs(int64_t head, const uint32_t* starts) const {
    static const std::vector<float> log2_counts = MakeLog2Counts();
    const auto bits = [](const at::Tensor& t) {
      return static_cast<const uint16_t*>(t.const_data_ptr());
    };
    bf16::RefinedArgs a;
    a.base = {.q = bits(q_) + QueryOffset(head),
              .k = bits(kv_.k),
              .v = bits(kv_.v),
              .blocks = s_.blocks.data(),
              .out = static_cast<uint16_t*>(out_.data_ptr()) + OutOffset(),
              .head = head,
              .kv_heads = heads(),
              .share = share(),
              .head_dim = q_.size(3),
              .block_tokens = kv_.block_tokens(),
              .begin = s_.begin,
              .scale = options_.scale};
    a.codes = index_.codes.const_data_ptr<uint8_t>();
    a.scales = index_.scales.const_data_ptr<float>();
    a.key_means = index_.key_means.const_data_ptr<float>();
    a.value_means = index_.value_means.const_data_ptr<float>();
    a.draws = DrawTable();
    a.draw_starts = starts;
    a.log2_tau = options_.eps > 0 ? 2 * std::log2(options_.eps)
                                  : -std::numeric_limits<float>::infinity();
    a.log2_counts = log2_counts.data();
    a.page_means_only = options_.index == KeyIndex::kPageMeans;
    a.group_means = options_.tail == TailEstimate::kGroupMeans;
    if (options_.dropped != nullptr) {
      a.dropped = static_cast<int64_t>(options_.dropped->pages.size());
      a.dropped_pages = options_.dropped->pages.data();
      a.dropped_keys = bits(options_.dropped->keys);
      a.dropped_values = bits(options_.dropped->values);
    }
    return a;
  }

  void RunFloat(int64_t head, int64_t token, bf16::RefinedCounts& counts) {
    std::vector<float> shares = PageShares();
    const FloatRefinedArgs args = {q_.const_data_ptr<float>() + QueryOffset(head),
                                   &kv_,
                                   &index_,
                                   &s_,
                                   &options_,
                                   head,
                                   share(),
                                   out_.data_ptr<float>() + OutOffset(),
                                   shares.empty() ? nullptr : shares.data()};
    RefinedTokenFloat(args, token, counts);
    AddPageShares(head, shares);
  }

  // Room for one task's part of options_.page_shares, if that is wanted.
  std::vector<float> PageShares() const {
    return std::vector<float>(options_.page_shares != nullptr ? s_.blocks.size() : 0);
  }
  void AddPageShares(int64_t head, const std::vector<float>& shares) {
    if (shares.empty()) return;
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < shares.size(); ++i) {
      options_.page_shares[head * s_.blocks.size() + i] += shares[i];
    }
  }

  struct Recording {
    const Call* call;
    int64_t head;
  };
  static void Record(void* context, int64_t token, const bf16::FarColumn* columns,
                     int64_t count) {
    const auto& r = *static_cast<const Recording*>(context);
    for (int64_t i = 0; i < count; ++i) {
      r.call->options_.record->push_back(
          {r.head, static_cast<Position>(r.call->s_.begin + token), columns[i].position,
           columns[i].mean, columns[i].log2_weight});
    }
  }

  void Add(const bf16::RefinedCounts& c, const std::vector<int64_t>& columns) {
    std::lock_guard lock(mutex_);
    for (size_t h = 0; h < columns.size(); ++h) options_.head_columns[h] += columns[h];
    total_.near_columns += c.near_columns;
    total_.far_columns += c.far_columns;
    total_.near_keys += c.near_keys;
    total_.far_keys += c.far_keys;
    total_.index_pages += c.index_pages;
    total_.index_columns += c.index_columns;
    total_.index_means += c.index_means;
    total_.mean_pages += c.mean_pages;
    total_.coverage += c.coverage;
    total_.tail_risk += c.tail_risk;
    total_.selection_cycles += c.selection_cycles;
    total_.cycles += c.cycles;
  }

  const at::Tensor& q_;
  const PagedKv& kv_;
  const PageIndex& index_;
  const SequenceRows& s_;
  const RefinedOptions& options_;
  at::Tensor& out_;
  std::mutex mutex_;
  bf16::RefinedCounts total_;
};

}  // namespace

const int16_t* DrawTable() {
  static const std::vector<int16_t> draws = MakeDraws();
  return draws.data();
}

uint32_t DrawStart(int32_t layer, int64_t head, int64_t position) {
  return MixPlace(layer, static_cast<int32_t>(head), position) % kDraws;
}

void RefinedAttention(const at::Tensor& q, const PagedKv& kv, const PageIndex& index,
                      const SequenceRows& sequence, const RefinedOptions& options,
                      at::Tensor& out, AttentionStats& stats) {
  QUIRE_CHECK(q.dim() == 4 && q.is_contiguous() && q.scalar_type() == kv.k.scalar_type());
  QUIRE_CHECK(kv.block_tokens() == kGroupTokens && q.size(2) <= kMaxRefinedShare);
  QUIRE_CHECK(sequence.begin >= kSinkTokens + kWindowTokens && sequence.rows > 0);
  const auto began = std::chrono::steady_clock::now();
  const bf16::RefinedCounts c = Call(q, kv, index, sequence, options, out).Run();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const int64_t d = q.size(3);
  const auto element = static_cast<int64_t>(kv.k.element_size());
  AttentionWork& w = stats.work;
  w.columns += c.near_columns + c.far_columns;
  w.expanded_columns += c.far_columns;
  w.attention_macs += (c.near_columns + c.far_columns) * 2 * d;
  w.attention_bytes += (c.near_keys + c.far_keys) * 2 * d * element;
  w.selection_macs += (c.index_columns + c.index_means) * d;
  w.selection_bytes += c.index_pages * kGroupTokens * (d / 2 + 4) + c.mean_pages * 4 * d;
  stats.sparse_rows += sequence.rows * q.size(0) * q.size(2);
  stats.coverage += c.coverage;
  stats.tail_risk += c.tail_risk;
  // Of the wall time, as much as of the threads' time.
  if (c.cycles > 0) {
    stats.selection_seconds +=
        seconds * static_cast<double>(c.selection_cycles) / static_cast<double>(c.cycles);
  }
}

}  // namespace quire::kernels
