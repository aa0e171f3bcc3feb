#include "core/kernels/cpu/refined_float.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

namespace quire::kernels {
namespace {

constexpr int64_t kPage = kGroupTokens;

struct Column {
  const float* key;
  const float* value;
  Position position;
  bool mean = false;
  float log2_weight = 0;
};

// Only the share of the time matters, not its unit.
int64_t Nanoseconds() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

// One token of one key/value head.
class TokenAttention {
 public:
  TokenAttention(const FloatRefinedArgs& args, int64_t token)
      : a_(args),
        token_(token),
        d_(args.kv->k.size(3)),
        position_(args.sequence->begin + token),
        window_(WindowPage(position_)) {}

  void Run(bf16::RefinedCounts& counts) {
    const int64_t began = Nanoseconds();
    ListNear();
    counts.near_columns += static_cast<int64_t>(near_.size()) * a_.share;
    counts.near_keys += static_cast<int64_t>(near_.size());
    const int64_t choosing = Nanoseconds();
    Choose(counts);
    counts.selection_cycles += Nanoseconds() - choosing;
    if (a_.options->tail == TailEstimate::kGroupMeans) AddRests();
    AddDropped();
    counts.far_columns += static_cast<int64_t>(far_.size()) * a_.share;
    counts.far_keys += static_cast<int64_t>(far_.size());
    Record();
    for (int64_t r = 0; r < a_.share; ++r) Attend(r, counts);
    counts.cycles += Nanoseconds() - began;
  }

 private:
  int64_t Block(int64_t page) const {
    return static_cast<int64_t>(a_.sequence->blocks[page]);
  }
  int64_t Slot(int64_t page) const { return Block(page) * a_.kv->k.size(1) + a_.head; }
  const float* Row(const at::Tensor& cache, int64_t key) const {
    return cache.const_data_ptr<float>() + (Slot(key / kPage) * kPage + key % kPage) * d_;
  }
  const float* Query(int64_t r) const { return a_.q + (token_ * a_.share + r) * d_; }
  Column KeyColumn(int64_t key) const {
    return {Row(a_.kv->k, key), Row(a_.kv->v, key), static_cast<Position>(key)};
  }

  float Score(int64_t r, const Column& column) const {
    float sum = 0;
    for (int64_t i = 0; i < d_; ++i) sum += Query(r)[i] * column.key[i];
    return sum * a_.options->scale;
  }

  void ListNear() {
    for (int64_t key = 0; key <= position_; ++key) {
      if (key == kPage) key = window_ * kPage;
      near_.push_back(KeyColumn(key));
    }
  }

  float LogSum(int64_t r, const std::vector<Column>& columns) const {
    float max = -std::numeric_limits<float>::infinity(), sum = 0;
    std::vector<float> scores;
    for (const Column& c : columns) {
      scores.push_back(Score(r, c));
      max = std::max(max, scores.back());
    }
    for (const float s : scores) sum += std::exp(s - max);
    return max + std::log(sum);
  }

  // Score of a far key by the index.
  float IndexScore(int64_t r, int64_t key) const {
    const int64_t slot = Slot(key / kPage), j = key % kPage;
    const uint8_t* const codes =
        a_.index->codes.const_data_ptr<uint8_t>() + slot * kPage * d_ / 2;
    const float* const mean = a_.index->key_means.const_data_ptr<float>() + slot * d_;
    const float step = a_.index->scales.const_data_ptr<float>()[slot * kPage + j];
    const bool means_only = a_.options->index == KeyIndex::kPageMeans;
    float sum = 0;
    for (int64_t i = 0; i < d_; ++i) {
      if (means_only) {
        sum += Query(r)[i] * mean[i];
        continue;
      }
      const int64_t low = i % (d_ / 2);
      const uint8_t byte = codes[((low / 4 * 4 + j / 16) * 16 + j % 16) * 4 + low % 4];
      const int code = i < d_ / 2 ? byte & 15 : byte >> 4;
      sum += Query(r)[i] * (mean[i] + step * static_cast<float>(code - 8));
    }
    return sum * a_.options->scale;
  }

  void Choose(bf16::RefinedCounts& counts) {
    const int64_t far = (window_ - 1) * kPage;
    std::vector<float> largest(far, 0.0f);
    for (int64_t r = 0; r < a_.share; ++r) AddShares(r, largest);
    AddPageShares(page_largest_);
    const uint32_t start = DrawStart(a_.options->layer, a_.head, position_);
    const float tau = a_.options->eps * a_.options->eps;
    for (int64_t i = 0; i < far; ++i) {
      const int64_t key = kPage + i;
      if (Block(key / kPage) < 0) continue;
      const float chance = tau > 0 ? largest[i] / tau : 2.0f;
      const bool sampled = a_.options->tail == TailEstimate::kSampled;
      const float draw = DrawTable()[(start + key) % kDraws];
      if (chance < 1 && (!sampled || 128 * std::log2(chance) <= draw)) continue;
      far_.push_back(KeyColumn(key));
      // Draws are rounded to whole numbers.
      if (chance < 1) far_.back().log2_weight = Log2Weight(chance);
    }
    counts.index_means += (window_ - 1) * a_.share;
    counts.mean_pages += window_ - 1;
    if (a_.options->index == KeyIndex::kPageMeans) return;
    counts.index_pages += window_ - 1;
    counts.index_columns += far * a_.share;
  }

  // log2 of 1 over the probability that the rounded draw is below 128 log2(chance).
  static float Log2Weight(float chance) {
    const float whole = std::ceil(128 * std::log2(chance));
    return (0.5f - whole) / 128;
  }

  void AddShares(int64_t r, std::vector<float>& largest) {
    const float near = LogSum(r, near_);
    std::vector<float> shares(largest.size(), 0.0f);
    double total = 1;
    for (size_t i = 0; i < shares.size(); ++i) {
      const int64_t key = kPage + static_cast<int64_t>(i);
      if (Block(key / kPage) < 0) continue;
      shares[i] = std::exp(std::min(80.0f, IndexScore(r, key) - near));
      total += shares[i];
    }
    page_largest_.resize(window_, 0.0);
    std::vector<double> pages(window_, 0.0);
    for (size_t i = 0; i < shares.size(); ++i) {
      largest[i] = std::max(largest[i], static_cast<float>(shares[i] / total));
      pages[i / kPage + 1] += shares[i] / total;
    }
    for (int64_t page = 1; page < window_; ++page) {
      page_largest_[page] = std::max(page_largest_[page], pages[page]);
    }
  }

  void AddPageShares(const std::vector<double>& largest) const {
    if (a_.page_shares == nullptr || position_ < a_.options->page_shares_from) return;
    for (int64_t page = 1; page < window_; ++page) {
      a_.page_shares[page] += static_cast<float>(largest[page]);
    }
  }

  // What is left of each page after the chosen tokens, as one column.
  void AddRests() {
    std::vector<std::vector<Column>> chosen(window_);
    for (const Column& c : far_) chosen[c.position / kPage].push_back(c);
    rests_.resize(window_ * 2 * d_);
    for (int64_t page = 1; page < window_; ++page) {
      const auto left = kPage - static_cast<int64_t>(chosen[page].size());
      if (Block(page) < 0 || left == 0) continue;
      float* const key = &rests_[page * 2 * d_];
      float* const value = key + d_;
      for (int64_t i = 0; i < d_; ++i) {
        const int64_t at = Slot(page) * d_ + i;
        key[i] = a_.index->key_means.const_data_ptr<float>()[at] * kPage;
        value[i] = a_.index->value_means.const_data_ptr<float>()[at] * kPage;
        for (const Column& c : chosen[page]) {
          key[i] -= c.key[i];
          value[i] -= c.value[i];
        }
        key[i] /= static_cast<float>(left);
        value[i] /= static_cast<float>(left);
      }
      far_.push_back({key, value, static_cast<Position>(page * kPage), true,
                      std::log2(static_cast<float>(left))});
    }
  }

  void AddDropped() {
    const DroppedPages* const dropped = a_.options->dropped;
    if (dropped == nullptr) return;
    for (size_t i = 0; i < dropped->pages.size(); ++i) {
      if (dropped->pages[i] >= window_) break;
      const int64_t at = (static_cast<int64_t>(i) * a_.kv->k.size(1) + a_.head) * d_;
      far_.push_back({dropped->keys.const_data_ptr<float>() + at,
                      dropped->values.const_data_ptr<float>() + at,
                      static_cast<Position>(dropped->pages[i] * kPage), true,
                      std::log2(static_cast<float>(kPage))});
    }
  }

  void Record() const {
    if (a_.options->record == nullptr) return;
    for (const Column& c : far_) {
      a_.options->record->push_back(
          {a_.head, static_cast<Position>(position_), c.position, c.mean, c.log2_weight});
    }
  }

  void Attend(int64_t r, bf16::RefinedCounts& counts) {
    std::vector<float> scores;
    float max = -std::numeric_limits<float>::infinity();
    for (const auto* columns : {&near_, &far_}) {
      for (const Column& c : *columns) {
        scores.push_back(Score(r, c) + c.log2_weight * std::log(2.0f));
        max = std::max(max, scores.back());
      }
    }
    float* const out =
        a_.out + (token_ * a_.kv->k.size(1) + a_.head) * a_.share * d_ + r * d_;
    std::fill(out, out + d_, 0.0f);
    float total = 0, certain = 0;
    size_t at = 0;
    for (const auto* columns : {&near_, &far_}) {
      for (const Column& c : *columns) {
        const float p = std::exp(scores[at++] - max);
        total += p;
        if (c.log2_weight == 0) certain += p;
        for (int64_t i = 0; i < d_; ++i) out[i] += p * c.value[i];
      }
    }
    for (int64_t i = 0; i < d_; ++i) out[i] /= total;
    const double covered = std::min(1.0f, certain / total);
    counts.coverage += covered;
    counts.tail_risk += a_.options->eps * std::sqrt(1 - covered);
  }

  const FloatRefinedArgs& a_;
  const int64_t token_, d_, position_, window_;
  std::vector<Column> near_, far_;
  std::vector<float> rests_;
  std::vector<double> page_largest_;  // a page's share, the largest over the R heads
};

}  // namespace

void RefinedTokenFloat(const FloatRefinedArgs& args, int64_t token,
                       bf16::RefinedCounts& counts) {
  TokenAttention(args, token).Run(counts);
}

}  // namespace quire::kernels
