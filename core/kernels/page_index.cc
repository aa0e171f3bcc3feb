#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "ATen/ops/empty.h"
#include "ATen/ops/index_select.h"
#include "c10/util/BFloat16.h"
#include "core/base/check.h"
#include "core/kernels/refined.h"

namespace quire::kernels {
namespace {

constexpr int64_t kPage = kGroupTokens;

// One head's page.
template <typename T>
struct PageView {
  const T* k;  // [64][D]
  const T* v;
  int64_t d;
  uint8_t* codes;  // [D/8][4][16][4]
  float* scales;   // [64]
  float* key_mean;
  float* value_mean;  // [D]
};

template <typename T>
void Mean(const T* rows, int64_t d, float* mean) {
  std::fill(mean, mean + d, 0.0f);
  for (int64_t j = 0; j < kPage; ++j) {
    for (int64_t i = 0; i < d; ++i) mean[i] += static_cast<float>(rows[j * d + i]);
  }
  for (int64_t i = 0; i < d; ++i) mean[i] /= kPage;
}

// Codes -7 .. 7, moved to 1 .. 15.
template <typename T>
void Quantize(const PageView<T>& page) {
  const int64_t d = page.d;
  std::vector<uint8_t> row(d);
  for (int64_t j = 0; j < kPage; ++j) {
    const T* const key = page.k + j * d;
    float high = 0;
    for (int64_t i = 0; i < d; ++i) {
      high = std::max(high, std::abs(static_cast<float>(key[i]) - page.key_mean[i]));
    }
    // Just under 7.5: the farthest channel must not lie on a border between two codes.
    const float scale = high / 7.49f;
    const float inverse = high > 0 ? 7.49f / high : 0;
    page.scales[j] = scale;
    for (int64_t i = 0; i < d; ++i) {
      const float x = (static_cast<float>(key[i]) - page.key_mean[i]) * inverse;
      row[i] = static_cast<uint8_t>(std::nearbyint(x) + 8);
    }
    for (int64_t i = 0; i < d / 2; ++i) {
      page.codes[((i / 4 * 4 + j / 16) * 16 + j % 16) * 4 + i % 4] =
          static_cast<uint8_t>(row[i] | row[i + d / 2] << 4);
    }
  }
}

template <typename T>
void IndexPage(const PagedKv& kv, int64_t slot, PageIndex& index) {
  const int64_t d = kv.k.size(3);
  const PageView<T> page = {kv.k.const_data_ptr<T>() + slot * kPage * d,
                            kv.v.const_data_ptr<T>() + slot * kPage * d,
                            d,
                            index.codes.data_ptr<uint8_t>() + slot * kPage * d / 2,
                            index.scales.data_ptr<float>() + slot * kPage,
                            index.key_means.data_ptr<float>() + slot * d,
                            index.value_means.data_ptr<float>() + slot * d};
  Mean(page.k, d, page.key_mean);
  Mean(page.v, d, page.value_mean);
  Quantize(page);
}

}  // namespace

PageIndex PageIndex::Make(int64_t num_blocks, int64_t kv_heads, int64_t head_dim) {
  QUIRE_CHECK(head_dim % 8 == 0);
  return {at::empty({num_blocks, kv_heads, kPage * head_dim / 2}, at::kByte),
          at::empty({num_blocks, kv_heads, kPage}, at::kFloat),
          at::empty({num_blocks, kv_heads, head_dim}, at::kFloat),
          at::empty({num_blocks, kv_heads, head_dim}, at::kFloat),
          std::vector<uint8_t>(num_blocks, 0)};
}

int64_t PageIndex::bytes() const {
  return static_cast<int64_t>(codes.nbytes() + scales.nbytes() + key_means.nbytes() +
                              value_means.nbytes());
}

void IndexPages(const PagedKv& kv, absl::Span<const BlockId> pages, PageIndex& index,
                AttentionWork& work) {
  QUIRE_CHECK(kv.block_tokens() == kPage);
  std::vector<int64_t> missing;
  for (const BlockId page : pages) {
    const auto block = static_cast<int64_t>(page);
    if (block < 0 || index.built[block]) continue;
    index.built[block] = 1;
    missing.push_back(block);
  }
  const int64_t kv_heads = kv.k.size(1), d = kv.k.size(3);
  const auto tasks = static_cast<int64_t>(missing.size()) * kv_heads;
  at::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t slot = missing[task / kv_heads] * kv_heads + task % kv_heads;
      if (kv.k.scalar_type() == at::kBFloat16) {
        IndexPage<at::BFloat16>(kv, slot, index);
      } else {
        IndexPage<float>(kv, slot, index);
      }
    }
  });
  // A key and its value are added to their means, a key's distance is coded.
  work.statistics_macs += tasks * kPage * 3 * d;
  work.statistics_bytes +=
      tasks * kPage * (2 * d * static_cast<int64_t>(kv.k.element_size()) + d / 2);
}

DroppedPages MeansOf(const PageIndex& index, std::vector<int32_t> pages,
                     absl::Span<const BlockId> blocks, at::ScalarType type) {
  const auto n = static_cast<int64_t>(blocks.size());
  at::Tensor ids = at::empty({n}, at::kLong);
  for (int64_t i = 0; i < n; ++i) {
    const auto block = static_cast<int64_t>(blocks[i]);
    QUIRE_CHECK(index.built[block] != 0);
    ids.data_ptr<int64_t>()[i] = block;
  }
  return {std::move(pages), at::index_select(index.key_means, 0, ids).to(type),
          at::index_select(index.value_means, 0, ids).to(type)};
}

}  // namespace quire::kernels
