#include "core/dga/group_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

FaithfulOptions Options(float gamma, int32_t min_focal, int32_t m = 16) {
  FaithfulOptions options;
  options.focal_share = gamma;
  options.min_focal_tokens = min_focal;
  options.group_tokens = m;
  return options;
}

TEST(GroupPlanTest, FocalTargetIsTheLargerOfShareAndLeastButNoMoreThanAll) {
  EXPECT_EQ(FocalTarget(Options(.1f, 0), 0), 0);
  EXPECT_EQ(FocalTarget(Options(.1f, 0), 100), 10);
  EXPECT_EQ(FocalTarget(Options(.1f, 0), 104), 10);
  EXPECT_EQ(FocalTarget(Options(.1f, 0), 106), 11);
  EXPECT_EQ(FocalTarget(Options(.1f, 1024), 10240), 1024);
  EXPECT_EQ(FocalTarget(Options(.1f, 1024), 10250), 1025);
  EXPECT_EQ(FocalTarget(Options(.1f, 1024), 1023), 1023);
  EXPECT_EQ(FocalTarget(Options(1, 0), 1000003), 1000003);
}

TEST(GroupPlanTest, RegroupsAtElevenTenths) {
  EXPECT_EQ(RegroupTokens(Options(.1f, 0, 1)), 1);
  EXPECT_EQ(RegroupTokens(Options(.1f, 0, 9)), 9);
  EXPECT_EQ(RegroupTokens(Options(.1f, 0, 10)), 11);
  EXPECT_EQ(RegroupTokens(Options(.1f, 0, 16)), 17);
  EXPECT_EQ(RegroupTokens(Options(.1f, 0, 64)), 70);
}

TEST(GroupPlanTest, AChunkFillsTheTargetAndTakesTheRemainder) {
  EXPECT_EQ(FocalOfChunk(Options(.1f, 0), 1000, 0, 1000), 100 + 900 % 16);
  EXPECT_EQ(FocalOfChunk(Options(.1f, 0), 1000, 90, 160), 10 + 150 % 16);
  EXPECT_EQ(FocalOfChunk(Options(.1f, 0), 1000, 500, 160), 0);  // has more than it wants
  EXPECT_EQ(FocalOfChunk(Options(.1f, 1024), 900, 500, 400), 400);
  EXPECT_EQ(FocalOfChunk(Options(.1f, 0, 1), 100, 0, 100), 10);
}

TEST(GroupPlanTest, DecodingMakesOneGroupUnlessAllTokensAreToBeFocal) {
  EXPECT_EQ(FocalOfDecode(Options(.1f, 0), 1000, 17), 1);
  EXPECT_EQ(FocalOfDecode(Options(.5f, 0), 1000, 17), 1);
  EXPECT_EQ(FocalOfDecode(Options(.1f, 0, 4), 1000, 4), 0);
  EXPECT_EQ(FocalOfDecode(Options(1, 0), 1000, 17), 17);
  EXPECT_EQ(FocalOfDecode(Options(.1f, 1000), 1000, 17), 17);
  EXPECT_EQ(FocalOfDecode(Options(.1f, 999), 1000, 17), 1);
}

TEST(GroupPlanTest, TheHighestScoresAreFocalAndTheOthersRunsInOrder) {
  GroupPlan plan;
  EXPECT_THAT(AppendTokens(0, {1, 9, 2, 8, 3, 4}, 2, 2, plan), ElementsAre(0, 2, 4, 5));
  EXPECT_THAT(plan.focal, ElementsAre(1, 3));
  EXPECT_THAT(plan.last, ElementsAre(2, 5));
  EXPECT_THAT(AppendTokens(6, {0, 1, 0}, 1, 2, plan), ElementsAre(6, 8));
  EXPECT_THAT(plan.focal, ElementsAre(1, 3, 7));
  EXPECT_THAT(plan.last, ElementsAre(2, 5, 8));
}

TEST(GroupPlanTest, OfEqualScoresTheEarlierIsFocalAndNanTheLast) {
  GroupPlan plan;
  AppendTokens(10, {NAN, 5, 5, 5}, 2, 1, plan);
  EXPECT_THAT(plan.focal, ElementsAre(11, 12));
  plan = {};
  AppendTokens(10, {NAN, NAN, -1, NAN}, 2, 1, plan);
  EXPECT_THAT(plan.focal, ElementsAre(10, 12));
}

TEST(GroupPlanTest, ARowSeesWhatIsCompleteAndTheRestRaw) {
  GroupPlan plan;
  AppendTokens(0, {1, 9, 2, 8, 3, 4}, 2, 2, plan);  // focal 1, 3; groups 0 2, 4 5
  const auto view = [&](Position row) {
    const RowView v = ViewOf(plan, row);
    return std::vector<int64_t>{v.focal, v.groups, v.raw_begin};
  };
  EXPECT_THAT(view(0), ElementsAre(0, 0, 0));
  EXPECT_THAT(view(1), ElementsAre(1, 0, 0));
  EXPECT_THAT(view(2), ElementsAre(1, 1, 3));
  EXPECT_THAT(view(4), ElementsAre(2, 1, 3));
  EXPECT_THAT(view(5), ElementsAre(2, 2, 6));
  EXPECT_THAT(view(900), ElementsAre(2, 2, 6));
  EXPECT_THAT(NotFocal(plan, 0, 8), ElementsAre(0, 2, 4, 5, 6, 7));
  EXPECT_THAT(NotFocal(plan, 2, 5), ElementsAre(2, 4));
  EXPECT_THAT(NotFocal(plan, 3, 4), IsEmpty());
}

TEST(GroupPlanTest, FewRowsAreAllSampled) {
  EXPECT_THAT(SampledRows(7, 3, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(SampledRows(7, 1, 128), ElementsAre(0));
  EXPECT_THAT(SampledRows(7, 40, 1), ElementsAre(39));
}

TEST(GroupPlanTest, HalfOfTheSampledRowsAreRecentAndHalfAnywhere) {
  for (const int64_t count : {2, 9, 128}) {
    const std::vector<int64_t> rows = SampledRows(1000, 4000, count);
    ASSERT_EQ(rows.size(), static_cast<size_t>(count));
    EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()));
    EXPECT_EQ(std::set<int64_t>(rows.begin(), rows.end()).size(), rows.size());
    const auto recent = rows.begin() + count / 2;
    EXPECT_EQ(*recent, 4000 - (count + 1) / 2);
    EXPECT_LT(*(recent - 1), *recent);
    EXPECT_GE(rows.front(), 0);
  }
  // Spread over the chunk: of 64 random rows some in each quarter.
  const std::vector<int64_t> rows = SampledRows(0, 4064, 128);
  for (int64_t quarter = 0; quarter < 4; ++quarter) {
    const auto in = std::count_if(rows.begin(), rows.begin() + 64,
                                  [&](int64_t row) { return row / 1000 == quarter; });
    EXPECT_GE(in, 6);
    EXPECT_LE(in, 28);
  }
}

std::vector<Position> RandomHalf(Position begin, int64_t rows, int64_t count) {
  std::vector<Position> positions;
  for (const int64_t row : SampledRows(begin, rows, count)) {
    positions.push_back(begin + static_cast<Position>(row));
  }
  positions.resize(count / 2);
  return positions;
}

TEST(GroupPlanTest, SampledRowsDependOnThePositionAlone) {
  const std::vector<Position> all = RandomHalf(0, 300, 20);
  EXPECT_EQ(RandomHalf(0, 300, 20), all);
  // A chunk that begins later, but not after the first of them, has the same.
  ASSERT_GT(all.front(), 0);
  EXPECT_EQ(RandomHalf(all.front(), 300 - all.front(), 20), all);
  EXPECT_NE(RandomHalf(all.front() + 1, 299 - all.front(), 20), all);
}

TEST(GroupPlanTest, RawTokensAreSplitByTheLastQueryOnlyWhileDecoding) {
  const FaithfulOptions options = Options(.1f, 0);
  const RawSplit decode = SplitOf(options, 100, 117, 1, 10);
  EXPECT_TRUE(decode.by_last_query);
  EXPECT_EQ(decode.fresh, 17);
  EXPECT_EQ(decode.focal, 1);
  EXPECT_TRUE(decode.needs_scores());
  // A prompt's last row, after steps that were not seen.
  const RawSplit left_over = SplitOf(options, 0, 117, 1, 0);
  EXPECT_FALSE(left_over.by_last_query);
  EXPECT_EQ(left_over.focal, FocalOfChunk(options, 117, 0, 117));
  EXPECT_FALSE(SplitOf(options, 100, 117, 17, 10).by_last_query);
  EXPECT_FALSE(SplitOf(Options(1, 0), 0, 100, 100, 0).needs_scores());  // all are focal
  EXPECT_FALSE(SplitOf(options, 0, 32, 32, 32).needs_scores());         // none
}

TEST(GroupPlanTest, SumsBecomeMeansOverTheRowsThatSee) {
  std::vector<float> sums = {6, 6, 6, 6, 6};  // of rows -2..2
  MeanOfSeeing({0, 1, 2}, -2, absl::MakeSpan(sums));
  EXPECT_THAT(sums, ElementsAre(2, 2, 2, 3, 6));
}

TEST(GroupPlanTest, PoolingRowsAreTheLastMembersOrTheFirstRow) {
  EXPECT_THAT(PoolingRows(10, {3, 8, 12, 14, 15}, 2), ElementsAre(0, 4));
}

// Of a plan of random tokens that reaches beyond the rows: row by row, as ViewOf says.
TEST(GroupPlanTest, RawColumnsAndCountsAreThoseOfEveryRow) {
  std::mt19937 random(1);
  for (int repetition = 0; repetition < 200; ++repetition) {
    const int32_t m = 1 + static_cast<int32_t>(random() % 5);
    const int64_t groups = random() % 6, focal = random() % 9;
    GroupPlan plan;
    std::vector<float> scores(groups * m + focal);
    for (float& score : scores) score = static_cast<float>(random() % 100);
    AppendTokens(0, scores, focal, m, plan);
    const auto begin = static_cast<Position>(random() % 30);
    const Position end = begin + 1 + static_cast<Position>(random() % 30);
    const std::vector<RawColumn> raw = RawColumns(plan, begin, end);
    PlanReads want;
    for (Position row = begin; row < end; ++row) {
      const RowView view = ViewOf(plan, row);
      std::vector<Position> read = NotFocal(plan, view.raw_begin, row + 1);
      std::vector<Position> got;
      for (const RawColumn& c : raw) {
        if (c.position <= row && row < c.until) got.push_back(c.position);
      }
      ASSERT_EQ(got, read) << begin << ' ' << end << ' ' << row;
      want.columns += view.focal + view.groups + static_cast<int64_t>(read.size());
      want.focal += view.groups > 0 ? view.focal : 0;
      want.grouped_rows += view.groups > 0;
    }
    const PlanReads reads = ReadsOf(plan, raw, begin, end);
    EXPECT_EQ(reads.columns, want.columns);
    EXPECT_EQ(reads.focal, want.focal);
    EXPECT_EQ(reads.grouped_rows, want.grouped_rows);
  }
}

}  // namespace
}  // namespace quire
