#include "core/kernels/cuda/sample.h"

#include <numeric>
#include <optional>

#include "core/sampling/counter_random.h"
#include "core/sampling/sampler.h"
#include "tests/core/kernels/cuda/cuda_fixture.h"

// The kernels against core/sampling, which chooses on the host, over the same logits.
namespace quire::kernels::cuda {
namespace {

using namespace quire::testing;

constexpr float kInf = std::numeric_limits<float>::infinity();

// What is asked of one row.
struct Asked {
  SamplingParams params;
  std::vector<TokenId> history;
  int64_t step = 0;
};

class SampleTest : public CudaTest {
 protected:
  // Rows of `logits` [rows, vocab], the i-th as asked[i], in one launch.
  std::vector<SampledToken> Run(const std::vector<float>& logits, int64_t vocab,
                                const std::vector<Asked>& asked) {
    std::vector<SampledRow> rows;
    std::vector<int32_t> history;
    int32_t adjusted = 0;
    for (size_t i = 0; i < asked.size(); ++i) {
      const SamplingParams& p = asked[i].params;
      rows.push_back({.row = static_cast<int32_t>(i),
                      .top_k = p.top_k,
                      .temperature = p.temperature,
                      .top_p = p.top_p,
                      .min_p = p.min_p,
                      .repetition_penalty = p.repetition_penalty,
                      .presence_penalty = p.presence_penalty,
                      .frequency_penalty = p.frequency_penalty,
                      .point = UniformAt(p.seed, asked[i].step),
                      .history_begin = static_cast<int32_t>(history.size()),
                      .history_size = static_cast<int32_t>(asked[i].history.size()),
                      .no_repeat_ngram = p.no_repeat_ngram,
                      .adjusted = asked[i].history.empty() ? -1 : adjusted++,
                      .count_larger = 1});
      history.insert(history.end(), asked[i].history.begin(), asked[i].history.end());
    }
    const DeviceBuffer<float> in(logits), workspace(size_t{1} * adjusted * vocab);
    const DeviceBuffer<int32_t> histories(history);
    const DeviceBuffer<SampledToken> out(rows.size());
    Finish(SampleRows({.logits = in.get(),
                       .vocab = vocab,
                       .rows = rows.data(),
                       .count = static_cast<int32_t>(rows.size()),
                       .history = histories.get(),
                       .adjusted = workspace.get(),
                       .out = out.get()},
                      stream_));
    ExpectSameBits(in.Download(), logits);
    return out.Download();
  }

  void ExpectHostsChoice(const std::vector<float>& logits, int64_t vocab,
                         const std::vector<Asked>& asked) {
    const std::vector<SampledToken> got = Run(logits, vocab, asked);
    for (size_t i = 0; i < asked.size(); ++i) {
      const absl::Span<const float> row(logits.data() + i * vocab, vocab);
      const SamplingParams& p = asked[i].params;
      SCOPED_TRACE(::testing::Message()
                   << "row " << i << " temperature " << p.temperature << " top_k "
                   << p.top_k << " top_p " << p.top_p << " min_p " << p.min_p << " n "
                   << p.no_repeat_ngram << " history " << asked[i].history.size());
      const TokenId token = Sample(row, p, asked[i].history, asked[i].step);
      ASSERT_EQ(got[i].token, token);
      EXPECT_EQ(got[i].larger + 1, Rank(row, token));
      EXPECT_EQ(got[i].logit, std::isnan(row[token]) ? -kInf : row[token]);
    }
  }
};

template <typename... Values>
float Pick(Draw& draw, Values... values) {
  const std::vector<double> all{static_cast<double>(values)...};
  return static_cast<float>(all[draw.Below(static_cast<int32_t>(all.size()))]);
}

Asked RandomAsked(Draw& draw, int32_t vocab) {
  Asked asked;
  SamplingParams& p = asked.params;
  p.temperature = Pick(draw, 0, 0.01, 0.25, 0.8, 1, 1, 3, 100);
  p.top_k = static_cast<int32_t>(Pick(draw, 0, 0, 1, 7, 50, 1000, 1025, 5000));
  p.top_p = Pick(draw, 1, 1, 1e-30, 0.001, 0.3, 0.9, 0.95, 0.999);
  p.min_p = Pick(draw, 0, 0, 0.01, 0.2, 1);
  p.repetition_penalty = Pick(draw, 1, 1, 1.3, 0.5);
  p.presence_penalty = Pick(draw, 0, 0, 0.5, -1);
  p.frequency_penalty = Pick(draw, 0, 0, 0.25, -0.5);
  p.no_repeat_ngram = static_cast<int32_t>(Pick(draw, 0, 0, 1, 2, 3));
  p.seed = static_cast<uint64_t>(draw.Below(1 << 30));
  asked.step = draw.Below(1000);
  if (draw.Below(3) > 0) {
    asked.history.resize(static_cast<size_t>(draw.Below(3000)));
    // Some are no tokens of this vocabulary.
    for (TokenId& token : asked.history) token = draw.Below(std::min(vocab, 99) + 2) - 1;
  }
  return asked;
}

// Rows that a selection by digits, by distance or by threads may stumble over.
constexpr int kKinds = 10;
float OfKind(int kind, Draw& draw, int64_t i) {
  const float normal = draw.Normal(3);
  switch (kind) {
    case 1:
      return std::round(normal);  // ties
    case 2:
      return 2.5f;
    case 3:
      return draw.Below(3) == 0 ? kNan : normal;
    case 4:
      return draw.Below(50) == 0 ? kInf : normal;
    case 5:
      return i % 7 == 3 ? kNan : -kInf;  // nothing is possible
    case 6:
      return 20 * normal;
    case 7:
      return i % 1024 < 2 ? 10 + 0.01f * normal : normal;  // of the same threads
    case 8:
      return draw.Below(3) == 0 ? -1.0f : draw.Below(2) == 0 ? 0.0f : -0.0f;
    case 9:
      return draw.Below(9) == 0 ? -kInf : 1e-3f * normal;
    default:
      return normal;
  }
}

std::vector<float> RowsOfKinds(Draw& draw, int64_t rows, int64_t vocab, int first_kind) {
  std::vector<float> logits;
  for (int64_t row = 0; row < rows; ++row) {
    const int kind = static_cast<int>(first_kind + row) % kKinds;
    for (int64_t i = 0; i < vocab; ++i) logits.push_back(OfKind(kind, draw, i));
  }
  return logits;
}

TEST_F(SampleTest, ChoosesWhatTheHostChooses) {
  for (const int32_t vocab : {1, 2, 17, 1000, 1023, 1025, 8192, 49152, 151936}) {
    SCOPED_TRACE(::testing::Message() << "vocab " << vocab);
    Draw draw(static_cast<uint32_t>(vocab));
    // A row has the more blocks the fewer rows there are.
    for (const int rows : {1, 1, 1, 2, 3, 12, 24, 40, 40}) {
      SCOPED_TRACE(::testing::Message() << "rows " << rows);
      std::vector<Asked> asked;
      for (int i = 0; i < rows; ++i) asked.push_back(RandomAsked(draw, vocab));
      ExpectHostsChoice(RowsOfKinds(draw, rows, vocab, draw.Below(kKinds)), vocab, asked);
    }
  }
}

// The usual settings over a row like a model's: few tokens are probable.
TEST_F(SampleTest, UsualSettings) {
  constexpr int32_t kVocab = 128256;
  constexpr int kRows = 64;
  Draw draw(3);
  std::vector<float> logits = draw.Floats(size_t{1} * kRows * kVocab, 2);
  for (int i = 0; i < 300 * kRows; ++i) {
    logits[draw.Below(kRows) * size_t{1} * kVocab + draw.Below(kVocab)] +=
        12 + draw.Normal(3);
  }
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 0.8f, .top_k = 50, .top_p = 0.95f},
        SamplingParams{.temperature = 1}, SamplingParams{.temperature = 1, .top_p = 0.9f},
        SamplingParams{.temperature = 0.7f, .min_p = 0.05f},
        SamplingParams{.temperature = 2, .top_p = 0.9999f}}) {
    std::vector<Asked> asked;
    for (int i = 0; i < kRows; ++i) {
      asked.push_back({.params = params, .step = i});
      asked.back().params.seed = 1234 + static_cast<uint64_t>(i);
    }
    ExpectHostsChoice(logits, kVocab, asked);
  }
}

TEST_F(SampleTest, AllDrawsOfARow) {
  constexpr int32_t kVocab = 40;
  Draw draw(9);
  const std::vector<float> row = draw.Floats(kVocab, 2);
  std::vector<float> logits;
  std::vector<Asked> asked;
  for (int i = 0; i < 2000; ++i) {
    logits.insert(logits.end(), row.begin(), row.end());
    asked.push_back({.params = {.temperature = 1.5f, .top_p = 0.97f}, .step = i});
  }
  ExpectHostsChoice(logits, kVocab, asked);
}

TEST_F(SampleTest, ABanOnEverythingIsLifted) {
  constexpr int32_t kVocab = 1500;
  std::vector<TokenId> all(kVocab);
  std::iota(all.begin(), all.end(), 0);
  Draw draw(4);
  std::vector<float> logits = draw.Floats(3 * kVocab, 2);
  std::fill_n(logits.begin(), kVocab, -kInf);
  logits[77] = 1;  // the only one that is possible, and banned
  const std::vector<TokenId> one = {77};
  const SamplingParams banned = {.temperature = 1, .no_repeat_ngram = 1};
  SamplingParams penalized = banned;
  penalized.repetition_penalty = 3;
  ExpectHostsChoice(logits, kVocab,
                    {{banned, one, 1}, {banned, all, 2}, {penalized, all, 3}});
}

TEST_F(SampleTest, LongNgramsOfALongHistory) {
  constexpr int32_t kVocab = 300;
  std::vector<TokenId> history;
  for (int i = 0; i < 20000; ++i) history.push_back(i % 100);
  std::vector<Asked> asked;
  for (const int32_t n : {1, 2, 50, 19999, 20000, 20001}) {
    asked.push_back({.params = {.temperature = 1, .no_repeat_ngram = n},
                     .history = history,
                     .step = n});
  }
  Draw draw(5);
  ExpectHostsChoice(draw.Floats(asked.size() * kVocab), kVocab, asked);
}

TEST_F(SampleTest, TheSameBitsAgainAndAlone) {
  constexpr int32_t kVocab = 49152;
  Draw draw(6);
  std::vector<Asked> asked;
  for (int i = 0; i < 50; ++i) asked.push_back(RandomAsked(draw, kVocab));
  const std::vector<float> logits = RowsOfKinds(draw, 50, kVocab, 0);
  const std::vector<SampledToken> first = Run(logits, kVocab, asked);
  for (int again = 0; again < 5; ++again) {
    const std::vector<SampledToken> other = Run(logits, kVocab, asked);
    ASSERT_EQ(std::memcmp(first.data(), other.data(), first.size() * sizeof first[0]), 0);
  }
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto row = logits.begin() + static_cast<int64_t>(i) * kVocab;
    const std::vector<SampledToken> alone = Run({row, row + kVocab}, kVocab, {asked[i]});
    ASSERT_EQ(std::memcmp(&first[i], &alone[0], sizeof alone[0]), 0) << i;
  }
}

TEST_F(SampleTest, NoRowsAndTooManyTokens) {
  QUIRE_CUDA_OK(SampleRows({.vocab = 10}, stream_));
  EXPECT_EQ(SampleRows({.vocab = kMaxSampledVocab + 1, .count = 1}, stream_),
            cudaErrorInvalidValue);
  EXPECT_EQ(ListLargest({.vocab = 0, .count = 1}, stream_), cudaErrorInvalidValue);
}

class ListLargestTest : public CudaTest {
 protected:
  static constexpr int32_t kStride = kMaxListedTokens;

  void ExpectHostsList(const std::vector<float>& logits, int32_t vocab,
                       const std::vector<ListedRow>& rows) {
    const DeviceBuffer<float> in(logits);
    const DeviceBuffer<ListedToken> out(rows.size() * kStride);
    Finish(ListLargest({.logits = in.get(),
                        .vocab = vocab,
                        .rows = rows.data(),
                        .count = static_cast<int32_t>(rows.size()),
                        .stride = kStride,
                        .out = out.get()},
                       stream_));
    const std::vector<ListedToken> got = out.Download();
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(::testing::Message()
                   << "row " << rows[i].row << " count " << rows[i].count);
      const float* const row = logits.data() + size_t{1} * rows[i].row * vocab;
      const std::vector<TokenLogprob> want =
          TopLogprobs({row, static_cast<size_t>(vocab)}, rows[i].count);
      for (size_t j = 0; j < kStride; ++j) {
        const ListedToken& token = got[i * kStride + j];
        if (j >= want.size()) {
          ASSERT_EQ(token.token, -1) << j;  // as it was poisoned
          continue;
        }
        ASSERT_EQ(token.token, want[j].token) << j;
        const float logit = row[token.token];
        ASSERT_EQ(token.logit, std::isnan(logit) ? -kInf : logit) << j;
      }
    }
  }
};

TEST_F(ListLargestTest, ListsWhatTheHostLists) {
  for (const int32_t vocab : {1, 17, 1000, 1025, 8192, 49152, 151936}) {
    SCOPED_TRACE(::testing::Message() << "vocab " << vocab);
    Draw draw(static_cast<uint32_t>(vocab));
    const std::vector<float> logits = RowsOfKinds(draw, kKinds, vocab, 0);
    std::vector<ListedRow> rows;
    for (const int32_t count : {1, 5, 20, 128, 129, 1000, kStride, 0}) {
      for (int32_t row = 0; row < kKinds; ++row) rows.push_back({row, count});
    }
    ExpectHostsList(logits, vocab, rows);
    // A row has the more blocks the fewer rows there are.
    for (int32_t row = 0; row < kKinds; ++row) {
      ExpectHostsList(logits, vocab, {{row, 1 + draw.Below(kStride)}});
    }
  }
}

}  // namespace
}  // namespace quire::kernels::cuda
