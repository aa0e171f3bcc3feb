#include "core/attention/step_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "ATen/ops/empty.h"
#include "core/attention/probe_attention.h"
#include "core/base/check.h"

namespace quire {
namespace {

// One sequence in one layer.
class SequenceInLayer {
 public:
  SequenceInLayer(const at::Tensor& q, const kernels::PagedKv& kv,
                  kernels::PageIndex* index, const LayerAttention& layer,
                  SequenceAttention& sequence, at::Tensor& out)
      : q_(q), kv_(kv), index_(index), layer_(layer), s_(sequence), out_(out) {}

  // One row that reads everything it sees: such sequences are run together.
  bool DecodesDensely() const {
    const bool sparse =
        Mode() == AttentionMode::kFaithful ||
        (Mode() != AttentionMode::kDense && s_.rows.begin + 1 >= s_.options.SparseFrom());
    return s_.rows.rows == 1 && !sparse && s_.probed.empty();
  }

  // What Run does, but for the attention itself, which took so long.
  void CountDenseDecode(double seconds) {
    if (index_ != nullptr) ForgetReusedPages();
    s_.stats.work += kernels::DenseWork(layer_.shape, s_.rows, Element());
    CountDense(s_.rows);
    s_.stats.seconds += seconds;
  }

  void Run() {
    const auto began = std::chrono::steady_clock::now();
    if (index_ != nullptr) ForgetReusedPages();
    s_.stats.work += kernels::DenseWork(layer_.shape, s_.rows, Element());
    switch (Mode()) {
      case AttentionMode::kFaithful:
        RunFaithful();
        break;
      case AttentionMode::kDense:
        RunDense(s_.rows);
        break;
      default:
        RunRefined();
    }
    if (!s_.probed.empty()) {
      ProbeAttention(q_, kv_, s_.rows, s_.probed, layer_.scale, s_.importance,
                     s_.stats.work);
    }
    s_.stats.seconds +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }

 private:
  AttentionMode Mode() const {
    // What is gone cannot be read densely any more.
    if (Dropped() != nullptr) return AttentionMode::kRefined;
    const bool refined = s_.options.mode == AttentionMode::kAuto ||
                         s_.options.mode == AttentionMode::kRefined;
    return refined && (s_.options.eps == 0 || index_ == nullptr) ? AttentionMode::kDense
                                                                 : s_.options.mode;
  }
  int64_t Element() const { return static_cast<int64_t>(kv_.k.element_size()); }
  Position End() const { return s_.rows.begin + static_cast<Position>(s_.rows.rows); }
  float Eps() const {
    return s_.options.mode == AttentionMode::kDense ? 0 : s_.options.eps;
  }
  float* PageShares() const {
    if (!s_.compact) return nullptr;
    const size_t size = layer_.shape.kv_heads * s_.rows.blocks.size();
    s_.page_shares.resize(layer_.num_layers * size);
    return &s_.page_shares[layer_.layer * size];
  }
  // Of this layer, [G].
  int64_t* HeadColumns() const {
    const auto heads = static_cast<size_t>(layer_.shape.kv_heads);
    s_.head_columns.resize(static_cast<size_t>(layer_.num_layers) * heads);
    return &s_.head_columns[static_cast<size_t>(layer_.layer) * heads];
  }
  kernels::DroppedPages* Dropped() const {
    return s_.state->dropped.empty() ? nullptr : &s_.state->dropped[layer_.layer];
  }

  // A block whose first token is new holds a new page.
  void ForgetReusedPages() {
    const int64_t block = kv_.block_tokens();
    for (int64_t page = (s_.rows.begin + block - 1) / block; page * block < End();
         ++page) {
      index_->built[static_cast<int64_t>(s_.rows.blocks[page])] = 0;
    }
  }

  kernels::SequenceRows Part(int64_t first, int64_t count) const {
    return {s_.rows.first_row + first, count,
            s_.rows.begin + static_cast<Position>(first), s_.rows.blocks};
  }

  void RunDense(const kernels::SequenceRows& rows) {
    kernels::DenseAttention(q_, kv_, rows, layer_.scale, out_);
    CountDense(rows);
  }

  void CountDense(const kernels::SequenceRows& rows) {
    const AttentionWork dense = kernels::DenseWork(layer_.shape, rows, Element());
    s_.stats.work.columns += dense.dense_columns;
    int64_t* const columns = HeadColumns();
    for (int64_t h = 0; h < layer_.shape.kv_heads; ++h) {
      columns[h] += dense.dense_columns / layer_.shape.kv_heads;
    }
    s_.stats.work.attention_macs += dense.dense_macs;
    s_.stats.work.attention_bytes += dense.dense_bytes;
  }

  void RunFaithful() {
    s_.state->faithful.resize(layer_.num_layers);
    FaithfulAttention(q_, kv_, s_.rows, layer_.scale, s_.options.faithful,
                      s_.state->faithful[layer_.layer], out_, s_.stats, HeadColumns());
    Audit(0);
  }

  void RunRefined() {
    const int64_t first =
        std::clamp<int64_t>(s_.options.SparseFrom() - 1 - s_.rows.begin, 0, s_.rows.rows);
    if (first > 0) RunDense(Part(0, first));
    if (first == s_.rows.rows) return;
    QUIRE_CHECK(index_ != nullptr);
    const int64_t far = kernels::WindowPage(End() - 1);
    kernels::IndexPages(kv_, s_.rows.blocks.subspan(1, far - 1), *index_, s_.stats.work);
    kernels::RefinedAttention(
        q_, kv_, *index_, Part(first, s_.rows.rows - first),
        {.scale = layer_.scale,
         .eps = Eps(),
         .tail = s_.options.tail,
         .index = s_.options.index,
         .layer = layer_.layer,
         .dropped = Dropped(),
         .page_shares = PageShares(),
         .page_shares_from = End() - static_cast<Position>(kCompactRows),
         .head_columns = HeadColumns()},
        out_, s_.stats);
    Audit(first);
  }

  // Recomputes the audited rows from `first` on densely. Pages that are gone cannot be.
  void Audit(int64_t first) {
    if (Dropped() != nullptr) return;
    std::vector<int64_t> rows;
    for (int64_t i = first; i < s_.rows.rows; ++i) {
      if (IsAudited(s_.rows.begin + static_cast<Position>(i))) rows.push_back(i);
    }
    if (rows.empty()) return;
    const at::Tensor dense =
        kernels::DenseAttentionOf(q_, kv_, s_.rows, rows, layer_.scale).to(at::kFloat);
    s_.audit_errors.resize(rows.size(), 0);
    for (size_t i = 0; i < rows.size(); ++i) {
      AddError(dense[static_cast<int64_t>(i)],
               out_[s_.rows.first_row + rows[i]].to(at::kFloat), s_.audit_errors[i]);
      const AttentionWork work =
          kernels::DenseWork(layer_.shape, Part(rows[i], 1), Element());
      s_.stats.work.audit_macs += work.dense_macs;
      if (i + 1 == rows.size()) s_.stats.work.audit_bytes += work.dense_bytes;
    }
  }

  void AddError(const at::Tensor& dense, const at::Tensor& sparse, double& error) const {
    const float* const a = dense.const_data_ptr<float>();
    const float* const b = sparse.const_data_ptr<float>();
    double difference = 0, size = 0;
    for (int64_t i = 0; i < dense.numel(); ++i) {
      difference += (a[i] - b[i]) * (a[i] - b[i]);
      size += a[i] * a[i];
    }
    if (size > 0) error += std::sqrt(difference / size) / layer_.num_layers;
  }

  const at::Tensor& q_;
  const kernels::PagedKv& kv_;
  kernels::PageIndex* const index_;
  const LayerAttention& layer_;
  SequenceAttention& s_;
  at::Tensor& out_;
};

// When the last layer is done, a token's error is known.
void CountAudits(SequenceAttention& s) {
  for (const double error : s.audit_errors) {
    ++s.stats.audits;
    s.stats.audit_error += error;
    s.stats.max_audit_error = std::max(s.stats.max_audit_error, error);
  }
}

}  // namespace

std::vector<int32_t> PagesToDrop(const SequenceAttention& sequence, int64_t kv_heads,
                                 float eps) {
  const auto blocks = static_cast<int64_t>(sequence.rows.blocks.size());
  const int64_t end = sequence.rows.begin + sequence.rows.rows;
  const auto rows = static_cast<float>(std::min(kCompactRows, sequence.rows.rows));
  const auto heads = static_cast<int64_t>(sequence.page_shares.size()) / blocks;
  if (heads < kv_heads) return {};
  std::vector<std::pair<float, int32_t>> pages;  // largest share over layers and heads
  for (int64_t page = 1; page < kernels::WindowPage(end - 1); ++page) {
    if (sequence.rows.blocks[page] == kNoBlock) continue;
    float largest = 0;
    for (int64_t h = 0; h < heads; ++h) {
      largest = std::max(largest, sequence.page_shares[h * blocks + page]);
    }
    pages.emplace_back(largest, static_cast<int32_t>(page));
  }
  std::sort(pages.begin(), pages.end());
  std::vector<float> gone(heads, 0.0f);
  std::vector<int32_t> dropped;
  for (const auto& [largest, page] : pages) {
    bool fits = true;
    for (int64_t h = 0; h < heads; ++h) {
      const float share = sequence.page_shares[h * blocks + page] / rows;
      fits = fits && gone[h] + share <= eps;
    }
    if (!fits) break;
    for (int64_t h = 0; h < heads; ++h) {
      gone[h] += sequence.page_shares[h * blocks + page] / rows;
    }
    dropped.push_back(page);
  }
  std::sort(dropped.begin(), dropped.end());
  return dropped;
}

at::Tensor Attend(const at::Tensor& q, const kernels::PagedKv& kv,
                  kernels::PageIndex* index, const LayerAttention& layer,
                  absl::Span<SequenceAttention> sequences) {
  at::Tensor out =
      at::empty({q.size(1), layer.shape.query_heads * layer.shape.head_dim}, q.options());
  std::vector<kernels::SequenceRows> decodes;
  std::vector<SequenceInLayer> decoded;
  for (SequenceAttention& s : sequences) {
    SequenceInLayer in_layer(q, kv, index, layer, s, out);
    if (in_layer.DecodesDensely()) {
      decodes.push_back(s.rows);
      decoded.push_back(in_layer);
    } else {
      in_layer.Run();
    }
    if (layer.layer + 1 == layer.num_layers) CountAudits(s);
  }
  if (decodes.empty()) return out;
  const auto began = std::chrono::steady_clock::now();
  kernels::DenseDecode(q, kv, decodes, layer.scale, out);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  for (SequenceInLayer& s : decoded) {
    s.CountDenseDecode(took.count() / static_cast<double>(decoded.size()));
  }
  return out;
}

}  // namespace quire
