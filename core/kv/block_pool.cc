#include "core/kv/block_pool.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"

namespace quire {

BlockLease::BlockLease(BlockLease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), blocks_(std::move(other.blocks_)) {
  other.blocks_.clear();
}

BlockLease& BlockLease::operator=(BlockLease&& other) noexcept {
  BlockLease moved(std::move(other));
  std::swap(pool_, moved.pool_);
  std::swap(blocks_, moved.blocks_);  // what was held here goes back with `moved`
  return *this;
}

BlockLease::~BlockLease() {
  for (const BlockId block : blocks_) {
    if (block != kNoBlock) GiveBack(block);
  }
}

void BlockLease::GiveBack(BlockId block) {
  pool_->free_.push_back(block);
  std::push_heap(pool_->free_.begin(), pool_->free_.end(), std::greater<>());
}

void BlockLease::Drop(int32_t index) {
  QUIRE_CHECK(index >= 0 && index < static_cast<int64_t>(blocks_.size()) &&
              blocks_[index] != kNoBlock);
  GiveBack(std::exchange(blocks_[index], kNoBlock));
}

absl::Status BlockLease::GrowTo(int32_t count) {
  QUIRE_CHECK(pool_ != nullptr);
  const int64_t missing = int64_t{count} - static_cast<int64_t>(blocks_.size());
  if (missing > pool_->free_blocks()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "key/value cache: ", missing, " more blocks are needed, ", pool_->free_blocks(),
        " of ", pool_->geometry_.num_blocks, " are free"));
  }
  for (int64_t i = 0; i < missing; ++i) {
    std::pop_heap(pool_->free_.begin(), pool_->free_.end(), std::greater<>());
    blocks_.push_back(pool_->free_.back());
    pool_->free_.pop_back();
  }
  return absl::OkStatus();
}

BlockPool::BlockPool(KvGeometry geometry) : geometry_(geometry) {
  QUIRE_CHECK(geometry.num_blocks >= 0 && geometry.tokens_per_block > 0);
  free_.reserve(static_cast<size_t>(geometry.num_blocks));
  for (int32_t id = 0; id < geometry.num_blocks; ++id) free_.push_back(BlockId{id});
}

BlockPool::~BlockPool() {
  QUIRE_CHECK(free_blocks() == geometry_.num_blocks);  // a lease outlives its pool
}

BlockLease BlockPool::Lease() {
  BlockLease lease;
  lease.pool_ = this;
  return lease;
}

int32_t BlockPool::free_blocks() const { return static_cast<int32_t>(free_.size()); }

}  // namespace quire
