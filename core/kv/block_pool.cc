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
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
    if (*block != kNoBlock) pool_->GiveBack(*block);
  }
}

absl::Status BlockLease::GrowTo(int32_t count) {
  QUIRE_CHECK(pool_ != nullptr);
  const int64_t missing = int64_t{count} - static_cast<int64_t>(blocks_.size());
  if (missing > pool_->free_blocks()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "key/value cache: ", missing, " more blocks are needed, ", pool_->free_blocks(),
        " of ", pool_->geometry_.num_blocks, " are free"));
  }
  for (int64_t i = 0; i < missing; ++i) blocks_.push_back(pool_->Take());
  return absl::OkStatus();
}

void BlockLease::Share(BlockId block) {
  QUIRE_CHECK(pool_ != nullptr);
  const BlockPool::Block& state = pool_->blocks_[pool_->IndexOf(block)];
  QUIRE_CHECK(state.holders > 0 || state.cached);
  pool_->Hold(block);
  blocks_.push_back(block);
}

void BlockLease::Drop(int32_t index) {
  QUIRE_CHECK(index >= 0 && index < static_cast<int64_t>(blocks_.size()) &&
              blocks_[index] != kNoBlock);
  pool_->GiveBack(std::exchange(blocks_[index], kNoBlock));
}

int32_t BlockLease::unshared_blocks() const {
  return static_cast<int32_t>(std::ranges::count_if(blocks_, [this](BlockId block) {
    return block != kNoBlock && pool_->holders(block) == 1;
  }));
}

BlockPool::BlockPool(KvGeometry geometry) : geometry_(geometry) {
  QUIRE_CHECK(geometry.num_blocks >= 0 && geometry.tokens_per_block > 0);
  blocks_.resize(static_cast<size_t>(geometry.num_blocks));
  empty_.reserve(blocks_.size());
  for (int32_t id = 0; id < geometry.num_blocks; ++id) empty_.push_back(BlockId{id});
}

BlockPool::~BlockPool() {
  QUIRE_CHECK(free_blocks() == geometry_.num_blocks);  // a lease outlives its pool
}

BlockLease BlockPool::Lease() {
  BlockLease lease;
  lease.pool_ = this;
  return lease;
}

int32_t BlockPool::free_blocks() const {
  return static_cast<int32_t>(empty_.size() + evictable_.size());
}

int32_t BlockPool::cached_blocks() const { return cached_; }

int32_t BlockPool::holders(BlockId block) const {
  return blocks_[IndexOf(block)].holders;
}

void BlockPool::SetCached(BlockId block) {
  Block& state = blocks_[IndexOf(block)];
  QUIRE_CHECK(state.holders > 0 && !state.cached);
  state.cached = true;
  ++cached_;
}

void BlockPool::ClearCached(BlockId block) {
  Block& state = blocks_[IndexOf(block)];
  QUIRE_CHECK(state.cached);
  state.cached = false;
  --cached_;
  if (state.holders > 0) return;
  evictable_.erase(state.place);
  PutEmpty(block);
}

void BlockPool::Touch(BlockId block) {
  const Block& state = blocks_[IndexOf(block)];
  QUIRE_CHECK(state.cached);
  if (state.holders > 0) return;
  evictable_.splice(evictable_.end(), evictable_, state.place);
}

void BlockPool::set_on_evict(std::function<void(BlockId)> on_evict) {
  on_evict_ = std::move(on_evict);
}

size_t BlockPool::IndexOf(BlockId block) const {
  const auto id = static_cast<int32_t>(block);
  QUIRE_CHECK(id >= 0 && id < geometry_.num_blocks);
  return static_cast<size_t>(id);
}

BlockId BlockPool::Take() {
  if (empty_.empty()) {
    const BlockId evicted = evictable_.front();
    ClearCached(evicted);
    if (on_evict_) on_evict_(evicted);
  }
  std::pop_heap(empty_.begin(), empty_.end(), std::greater<>());
  const BlockId block = empty_.back();
  empty_.pop_back();
  Hold(block);
  return block;
}

void BlockPool::Hold(BlockId block) {
  Block& state = blocks_[IndexOf(block)];
  if (state.holders++ == 0 && state.cached) evictable_.erase(state.place);
}

void BlockPool::GiveBack(BlockId block) {
  Block& state = blocks_[IndexOf(block)];
  QUIRE_CHECK(state.holders > 0);
  if (--state.holders > 0) return;
  if (state.cached) {
    state.place = evictable_.insert(evictable_.end(), block);
  } else {
    PutEmpty(block);
  }
}

void BlockPool::PutEmpty(BlockId block) {
  empty_.push_back(block);
  std::push_heap(empty_.begin(), empty_.end(), std::greater<>());
}

}  // namespace quire
