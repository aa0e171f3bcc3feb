#include <string>
#include <vector>

#include "core/engine/attention_variant.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/engine/batching_fixture.h"

// Requests that begin like earlier ones. The fake model checks that each position's token
// and all before it are what the request has there; its answers depend on all of them.
namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr AttentionMode kAuto = AttentionMode::kAuto;
constexpr AttentionMode kDense = AttentionMode::kDense;
constexpr AttentionMode kFaithful = AttentionMode::kFaithful;
constexpr AttentionMode kRefined = AttentionMode::kRefined;

class PrefixTest : public BatchingFixture {
 protected:
  PrefixTest() {
    options_.prefix_caching = PrefixCaching::kPerTenant;
    options_.model.max_positions = 400;
    model_.set_next(NextOfAll);
  }

  // Runs it, checks its answer, and tells where its first item began.
  Position BeginOf(EngineRequest request) {
    std::vector<TokenId> wanted;
    if (const auto* generate = std::get_if<GenerateRequest>(&request.work)) {
      wanted = AnswerOfAll(generate->prompt, generate->max_new_tokens);
    } else {
      const auto& score = std::get<ScoreRequest>(request.work);
      wanted.assign(score.tokens.begin() + score.first, score.tokens.end());
    }
    const auto before = static_cast<size_t>(model_.num_steps());
    const Submitted submitted = Submit(std::move(request));
    const Finished finished = submitted.record->Wait();
    EXPECT_EQ(finished.status, absl::OkStatus());
    EXPECT_EQ(ReportedTokens(*submitted.record), wanted);
    const Position begin = model_.steps().at(before).items.at(0).begin;
    EXPECT_EQ(finished.usage.cached_tokens, begin);
    return begin;
  }
};

// A prompt and one that has its first `common` tokens.
std::vector<TokenId> Like(std::vector<TokenId> tokens, size_t common, size_t count) {
  tokens.resize(common);
  while (tokens.size() < count) tokens.push_back(98);
  return tokens;
}

BlockId B(int32_t id) { return BlockId{id}; }

TEST_F(PrefixTest, TheSecondRequestComputesOnlyTheRest) {
  Start();
  Run(Generate(Tokens(20, 0), 1));
  const Submitted second = Submit(Generate(Like(Tokens(20, 0), 12, 22), 2));
  const Finished finished = second.record->Wait();
  EXPECT_EQ(finished.status, absl::OkStatus());
  EXPECT_EQ(finished.usage,
            (Usage{.prompt_tokens = 22, .cached_tokens = 12, .generated_tokens = 2}));
  EXPECT_THAT(StepTexts(), ElementsAre("1:0+16", "1:16+4s", "2:12+10s", "2:22+1s"));
  EXPECT_THAT(ProgressOf(*second.record), ElementsAre("22/22"));
  EXPECT_EQ(ReportedTokens(*second.record), AnswerOfAll(Like(Tokens(20, 0), 12, 22), 2));
  // Its first three pages are the first request's.
  EXPECT_THAT(ItemsOf(second.id)[0].blocks,
              ElementsAre(B(0), B(1), B(2), B(5), B(6), B(7)));
  EXPECT_THAT(model_.steps()[2].copies, IsEmpty());
}

TEST_F(PrefixTest, AnsweringTheSamePromptAgainComputesItsLastToken) {
  Start();
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 1)), 0);
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 1)), 15);
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 3)), 15);
}

TEST_F(PrefixTest, ProgressBeginsWhereTheCacheEnds) {
  Start();
  Run(Generate(Tokens(20, 0), 1));
  const Submitted second = Submit(Generate(Tokens(60, 0), 1));
  EXPECT_EQ(second.record->Wait().usage.cached_tokens, 20);
  EXPECT_THAT(ProgressOf(*second.record), ElementsAre("36/60", "52/60", "60/60"));
}

// The page of the second text that differs begins like one of the first text's pages.
TEST_F(PrefixTest, ThePartOfAPageThatIsTheSameIsCopied) {
  Start();
  Run(Generate(Tokens(20, 0), 1));
  const Submitted second = Submit(Generate(Like(Tokens(20, 0), 14, 20), 3));
  EXPECT_EQ(second.record->Wait().usage.cached_tokens, 14);
  EXPECT_THAT(StepTexts(),
              ElementsAre("1:0+16", "1:16+4s", "2:14+6s", "2:20+1s", "2:21+1s"));
  EXPECT_EQ(ReportedTokens(*second.record), AnswerOfAll(Like(Tokens(20, 0), 14, 20), 3));
  const RecordedStep step = model_.steps()[2];
  ASSERT_EQ(step.copies.size(), 1u);
  EXPECT_EQ(step.copies[0].from, B(3));
  EXPECT_EQ(step.copies[0].to, step.items[0].blocks[3]);
  EXPECT_NE(step.copies[0].to, B(3));
  for (size_t i = 3; i < 5; ++i) EXPECT_THAT(model_.steps()[i].copies, IsEmpty());
  ExpectAllBlocksBack();
}

TEST_F(PrefixTest, SharedPagesAreHeldOnceWhileBothRun) {
  Start();
  Run(Generate(Tokens(16, 0), 1));
  const auto both = SubmitTogether({Generate(Like(Tokens(16, 0), 12, 14), 9),
                                    Generate(Like(Tokens(16, 0), 12, 15), 9)});
  for (const Submitted& request : both) {
    EXPECT_EQ(request.record->Wait().status, absl::OkStatus());
    const std::vector<BlockId> blocks = ItemsOf(request.id)[0].blocks;
    EXPECT_THAT(std::vector<BlockId>(blocks.begin(), blocks.begin() + 3),
                ElementsAre(B(0), B(1), B(2)));
  }
  ExpectAllBlocksBack();
}

TEST_F(PrefixTest, ADocumentIsSharedWhileItsFirstReaderStillRuns) {
  Start();
  const auto requests = SubmitTogether({Generate(Tokens(16, 0), 40)});
  while (ItemsOf(requests[0].id).size() < 2) std::this_thread::yield();
  const Submitted second = Submit(Generate(Tokens(18, 0), 1));
  EXPECT_EQ(second.record->Wait().usage.cached_tokens, 16);
  EXPECT_EQ(ReportedTokens(*second.record), AnswerOfAll(Tokens(18, 0), 1));
  requests[0].record->Wait();
  EXPECT_EQ(ReportedTokens(*requests[0].record), AnswerOfAll(Tokens(16, 0), 40));
}

TEST_F(PrefixTest, AnswersAreTheSameWithoutACacheWithOneAndWithASharedOne) {
  for (const PrefixCaching caching :
       {PrefixCaching::kOff, PrefixCaching::kPerTenant, PrefixCaching::kShared}) {
    options_.prefix_caching = caching;
    Start();
    const bool off = caching == PrefixCaching::kOff;
    EXPECT_EQ(BeginOf(Generate(Tokens(30, 0), 5)), 0);
    EXPECT_EQ(BeginOf(Generate(Tokens(30, 0), 9)), off ? 0 : 29);
    EXPECT_EQ(BeginOf(Generate(Like(Tokens(30, 0), 11, 40), 5)), off ? 0 : 11);
    EXPECT_EQ(BeginOf(Score(Tokens(30, 0))), 0);
    EXPECT_EQ(engine_->stats().cached_blocks > 0, !off);
    ExpectAllBlocksBack();
    engine_.reset();
  }
}

TEST_F(PrefixTest, TenantsShareOnlyIfTheyMay) {
  Start();
  EXPECT_EQ(BeginOf(OfTenant(Generate(Tokens(16, 0), 1), "a")), 0);
  EXPECT_EQ(BeginOf(OfTenant(Generate(Tokens(16, 0), 1), "b")), 0);
  EXPECT_EQ(BeginOf(OfTenant(Generate(Tokens(16, 0), 1), "a")), 15);
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 1)), 0);
  engine_.reset();
  options_.prefix_caching = PrefixCaching::kShared;
  Start();
  EXPECT_EQ(BeginOf(OfTenant(Generate(Tokens(16, 0), 1), "a")), 0);
  EXPECT_EQ(BeginOf(OfTenant(Generate(Tokens(16, 0), 1), "b")), 15);
}

// Pages of four tokens: rows that see 200 or more are sparse, so the 50th page differs.
TEST_F(PrefixTest, ModesShareWhatTheyReadAlike) {
  const auto with = [](AttentionOptions attention) {
    return WithAttention(Generate(Tokens(220, 0), 1), attention);
  };
  const AttentionOptions sparse{.mode = kAuto, .eps = 0.5f, .min_sparse_tokens = 200};
  Start();
  EXPECT_EQ(BeginOf(with({.mode = kDense})), 0);
  EXPECT_EQ(BeginOf(with(sparse)), 196);
  EXPECT_EQ(BeginOf(with(sparse)), 219);
  EXPECT_EQ(BeginOf(with({.mode = kAuto})), 219);  // dense up to 4096
  AttentionOptions other = sparse;
  other.mode = kRefined;
  EXPECT_EQ(BeginOf(with(other)), 219);
  other.eps = 0.25f;
  EXPECT_EQ(BeginOf(with(other)), 196);
  other = sparse;
  other.min_sparse_tokens = 204;
  EXPECT_EQ(BeginOf(with(other)), 200);
}

TEST_F(PrefixTest, FaithfulNeverShares) {
  const AttentionOptions faithful{.mode = kFaithful};
  Start();
  EXPECT_EQ(BeginOf(WithAttention(Generate(Tokens(20, 0), 1), faithful)), 0);
  EXPECT_EQ(BeginOf(WithAttention(Generate(Tokens(20, 0), 1), faithful)), 0);
  EXPECT_EQ(BeginOf(WithAttention(Generate(Tokens(20, 0), 1), {.mode = kDense})), 0);
  EXPECT_EQ(BeginOf(WithAttention(Generate(Tokens(20, 0), 1), faithful)), 0);
}

TEST_F(PrefixTest, ScoreSharesOnlyWhatItDoesNotScore) {
  Start();
  EXPECT_EQ(BeginOf(Generate(Tokens(20, 0), 1)), 0);
  EXPECT_EQ(BeginOf(Score(Tokens(20, 0), 1)), 0);
  EXPECT_EQ(BeginOf(Score(Tokens(20, 0), 13)), 12);
  EXPECT_EQ(BeginOf(Score(Tokens(20, 0), 11)), 10);
  EXPECT_EQ(BeginOf(Score(Tokens(20, 0), 19)), 18);
}

TEST_F(PrefixTest, ImportanceWantsAllRows) {
  Start();
  Run(Generate(Tokens(20, 0), 1));
  EngineRequest request = Score(Tokens(20, 0), 13);
  std::get<ScoreRequest>(request.work).importance = true;
  const Submitted submitted = Submit(request);
  EXPECT_EQ(submitted.record->Wait().usage, (Usage{.prompt_tokens = 19}));
  EXPECT_EQ(ItemsOf(submitted.id)[0].begin, 0);
}

TEST_F(PrefixTest, AConversationGoesOnWhereItsLastAnswerEnded) {
  Start();
  std::vector<TokenId> talk = Tokens(10, 0);
  EXPECT_EQ(BeginOf(Generate(talk, 8)), 0);
  for (const TokenId token : AnswerOfAll(talk, 8)) talk.push_back(token);
  // The answer's last token was never computed: 17 of 18 are there, a page of them in
  // part. Of what follows, 5 tokens are new.
  const std::vector<TokenId> next = Like(talk, 18, 23);
  EXPECT_EQ(BeginOf(Generate(next, 4)), 17);
  EXPECT_EQ(model_.steps().back().copies.size(), 0u);
  talk = next;
  for (const TokenId token : AnswerOfAll(next, 4)) talk.push_back(token);
  EXPECT_EQ(BeginOf(Generate(Like(talk, 27, 30), 1)), 26);
  ExpectAllBlocksBack();
}

TEST_F(PrefixTest, PagesBehindADroppedOneAreNotPublished) {
  model_.set_drop([](const StepItem&) { return std::vector<int32_t>{1}; });
  const AttentionOptions compact{.mode = kRefined, .compact = true};
  Start();
  // Two chunks: the pages of the first were published before the second dropped one.
  Run(WithAttention(Generate(Tokens(30, 0), 3), compact));
  EXPECT_EQ(BeginOf(WithAttention(Generate(Tokens(40, 0), 1), {.mode = kRefined})), 16);
  ExpectAllBlocksBack();
}

TEST_F(PrefixTest, WithEpsLoweredNothingMoreIsPublished) {
  const AttentionOptions audited{
      .mode = kRefined, .eps = 0.5f, .max_error = 0.1f, .min_sparse_tokens = 200};
  model_.set_audit_error([](const AttentionOptions&) { return 0.5; });
  Start();
  Run(WithAttention(Generate(Tokens(220, 0), 3), audited));
  // Chunks of 16: the first with a sparse row begins at 192, and in it eps was lowered.
  AttentionOptions same = audited;
  same.max_error = 1;
  EXPECT_EQ(BeginOf(WithAttention(Generate(Tokens(220, 0), 1), same)), 192);
}

TEST_F(PrefixTest, CachedTokensAreNotInTheReceipt) {
  Start();
  const AttentionOptions refined{.mode = kRefined, .eps = 0.5f, .min_sparse_tokens = 200};
  Run(WithAttention(Generate(Tokens(220, 0), 1), refined));
  const AttentionReceipt receipt =
      Run(WithAttention(Generate(Tokens(220, 0), 2), refined)).attention;
  EXPECT_EQ(receipt.prefill.work, FakeAttention(refined, 219, 1).work);
  EXPECT_EQ(receipt.prefill.work.dense_columns, 220);
  EXPECT_EQ(receipt.prefill.work.columns, 219 / 4 + 1);
  EXPECT_EQ(receipt.decode.work, FakeAttention(refined, 220, 1).work);
}

TEST_F(PrefixTest, TheLeastRecentlyUsedGoesWhenMemoryIsNeeded) {
  options_.kv.num_blocks = 10;
  Start();
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 1)), 0);
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 50), 1)), 0);
  EXPECT_EQ(engine_->stats().cached_blocks, 8);
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 1)), 15);  // now the other one is older
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 30), 1)), 0);
  EXPECT_EQ(BeginOf(Generate(Tokens(16, 0), 1)), 15);
  EXPECT_LT(BeginOf(Generate(Tokens(16, 50), 1)), 15);
  ExpectAllBlocksBack();
}

TEST_F(PrefixTest, ARequestAsLargeAsTheCacheEvictsAll) {
  options_.kv.num_blocks = 10;
  Start();
  Run(Generate(Tokens(16, 0), 1));
  Run(Generate(Tokens(16, 50), 1));
  EXPECT_EQ(BeginOf(Generate(Tokens(40, 20), 1)), 0);
  EXPECT_EQ(engine_->stats().cached_blocks, 10);
  ExpectAllBlocksBack();
}

// All but the last block are shared, and the copy's source is held beside its copy: one
// block too many, so the tail is computed.
TEST_F(PrefixTest, ATailThatThereIsNoRoomToCopyIsComputed) {
  options_.kv.num_blocks = 5;
  Start();
  Run(Generate(Tokens(20, 0), 1));
  EXPECT_EQ(BeginOf(Generate(Like(Tokens(20, 0), 18, 20), 1)), 16);
  ExpectAllBlocksBack();
}

TEST(AttentionVariantTest, DenseRowsAreOneVariant) {
  EXPECT_EQ(AttentionVariant({.mode = kDense}, 1'000'000), 0u);
  EXPECT_EQ(AttentionVariant({.mode = kAuto}, 4095), 0u);
  EXPECT_EQ(AttentionVariant({.mode = kRefined}, 192), 0u);
  EXPECT_EQ(AttentionVariant({.mode = kRefined, .eps = 0}, 1'000'000), 0u);
  EXPECT_EQ(AttentionVariant({.mode = kAuto, .min_sparse_tokens = 1000}, 999), 0u);
  EXPECT_EQ(AttentionVariant({.mode = kAuto, .refined_pays_from = kNeverPays}, 1 << 20),
            0u);
}

TEST(AttentionVariantTest, SparseRowsHaveEpsAndTheLeastSparseRowInIt) {
  // 0.25f is 0x3e800000.
  const AttentionOptions options{.mode = kAuto, .eps = 0.25f};
  EXPECT_EQ(AttentionVariant(options, 4096), 0x3e80000000000000u | 4096u << 2);
  EXPECT_EQ(
      AttentionVariant({.mode = kRefined, .eps = 0.25f, .min_sparse_tokens = 4096}, 4096),
      0x3e80000000000000u | 4096u << 2);
  EXPECT_EQ(AttentionVariant({.mode = kAuto,
                              .eps = 0.25f,
                              .tail = TailEstimate::kGroupMeans,
                              .index = KeyIndex::kPageMeans},
                             5000),
            0x3e80000000000000u | 4096u << 2 | 3u);
  EXPECT_EQ(AttentionVariant({.mode = kRefined, .eps = 0.25f, .max_error = 0.5f}, 193),
            0x3e80000000000000u | 193u << 2);
}

TEST(AttentionVariantTest, FaithfulHasNone) {
  EXPECT_EQ(AttentionVariant({.mode = kFaithful}, 4), std::nullopt);
}

}  // namespace
}  // namespace quire
