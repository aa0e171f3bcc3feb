#include "core/kv/prefix_cache.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "core/base/check.h"

namespace quire {
namespace {

using Tokens = absl::Span<const TokenId>;

struct KnownPage {
  uint64_t serial = 0;
  BlockId block{};
};

struct TokensLess {
  using is_transparent = void;
  bool operator()(Tokens a, Tokens b) const {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }
};

// Pages behind one place, of one variant. In order of their tokens, so that those with
// the longest common beginning with a text are its neighbours.
using Siblings = std::map<std::vector<TokenId>, KnownPage, TokensLess>;

struct Family {
  PrefixCache::Place parent;
  uint64_t variant = 0;
  friend bool operator==(const Family&, const Family&) = default;
  template <typename H>
  friend H AbslHashValue(H hash, const Family& family) {
    return H::combine(std::move(hash), family.parent.page, family.parent.root,
                      family.variant);
  }
};

struct Closest {
  const KnownPage* page = nullptr;
  size_t common = 0;  // tokens, from the beginning
};

size_t CommonTokens(Tokens a, Tokens b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

Closest FindClosest(const Siblings& siblings, Tokens wanted) {
  Closest closest;
  const auto consider = [&](const Siblings::value_type& known) {
    const size_t common = CommonTokens(known.first, wanted);
    if (common > closest.common) closest = {&known.second, common};
  };
  const auto next = siblings.lower_bound(wanted);
  if (next != siblings.end()) consider(*next);
  if (next != siblings.begin()) consider(*std::prev(next));
  return closest;
}

}  // namespace

struct PrefixCache::Rep {
  struct Entry {
    Family family;
    Siblings::iterator page;
  };

  explicit Rep(BlockPool& pool) : pool(pool) {}
  size_t page_tokens() const { return pool.geometry().tokens_per_block; }
  Tokens Checked(const Page& page) const {
    QUIRE_CHECK(!page.tokens.empty() && page.tokens.size() <= page_tokens());
    return page.tokens;
  }
  void MoveTo(BlockId block, Siblings::iterator page);
  void Evicted(BlockId block);

  BlockPool& pool;
  absl::flat_hash_map<Family, Siblings> families;  // none is empty
  absl::flat_hash_map<BlockId, Entry> entries;     // one for each page
  uint64_t last_serial = 0;
  int64_t evicted = 0;
};

// A copy that is held cannot go before the pages that its sequence adds behind it.
void PrefixCache::Rep::MoveTo(BlockId block, Siblings::iterator page) {
  const BlockId old = std::exchange(page->second.block, block);
  auto entry = entries.extract(old);
  entry.key() = block;
  entries.insert(std::move(entry));
  pool.ClearCached(old);
  pool.SetCached(block);
}

void PrefixCache::Rep::Evicted(BlockId block) {
  const auto entry = entries.find(block);
  QUIRE_CHECK(entry != entries.end());
  const auto family = families.find(entry->second.family);
  family->second.erase(entry->second.page);
  if (family->second.empty()) families.erase(family);
  entries.erase(entry);
  QUIRE_CHECK(families.size() <= entries.size());  // old families would pile up unseen
  ++evicted;
}

PrefixCache::PrefixCache(BlockPool& pool) : rep_(std::make_unique<Rep>(pool)) {
  pool.set_on_evict([rep = rep_.get()](BlockId block) { rep->Evicted(block); });
}

PrefixCache::~PrefixCache() {
  rep_->pool.set_on_evict(nullptr);
  for (const auto& [block, entry] : rep_->entries) rep_->pool.ClearCached(block);
}

PrefixCache::Place PrefixCache::Root(uint64_t name) { return {.page = 0, .root = name}; }

PrefixCache::Found PrefixCache::Find(Place root, absl::Span<const Page> pages,
                                     int64_t max_tokens) const {
  Found found{.place = root};
  for (const Page& page : pages) {
    const int64_t allowed = std::max<int64_t>(max_tokens - found.tokens, 0);
    const Tokens wanted = rep_->Checked(page).subspan(0, static_cast<size_t>(allowed));
    const auto family = rep_->families.find(Family{found.place, page.variant});
    if (family == rep_->families.end()) break;
    const Closest closest = FindClosest(family->second, wanted);
    if (closest.common == 0) break;
    found.tokens += static_cast<int64_t>(closest.common);
    if (closest.common < rep_->page_tokens()) {
      found.tail = closest.page->block;
      found.tail_tokens = static_cast<int32_t>(closest.common);
      break;
    }
    found.blocks.push_back(closest.page->block);
    found.place.page = closest.page->serial;
  }
  return found;
}

PrefixCache::Place PrefixCache::Add(Place place, const Page& page, BlockId block) {
  const Tokens tokens = rep_->Checked(page);
  QUIRE_CHECK(rep_->pool.holders(block) > 0 && !rep_->entries.contains(block));
  const Family family{place, page.variant};
  Siblings& siblings = rep_->families[family];
  auto known = siblings.find(tokens);
  if (known == siblings.end()) {
    rep_->pool.SetCached(block);
    known = siblings.try_emplace({tokens.begin(), tokens.end()}).first;
    known->second = {.serial = ++rep_->last_serial, .block = block};
    rep_->entries.emplace(block, Rep::Entry{family, known});
  } else if (rep_->pool.holders(known->second.block) == 0) {
    rep_->MoveTo(block, known);
  }
  return {.page = known->second.serial, .root = place.root};
}

int64_t PrefixCache::pages() const { return static_cast<int64_t>(rep_->entries.size()); }

int64_t PrefixCache::evicted_pages() const { return rep_->evicted; }

}  // namespace quire
