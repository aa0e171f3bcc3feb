#include "client/cli/top_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "client/cli/utf8.h"

namespace quire::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TopModel AModel(const std::string& name = "quire-135m") {
  TopModel model;
  model.model.set_name(name);
  model.model.set_architecture("llama");
  model.model.set_parameters(134'515'008);
  model.model.set_context_tokens(32768);
  v1::Load& load = model.load;
  load.set_model(name);
  load.set_running(3);
  load.set_max_running(256);
  load.set_waiting(2);
  load.set_max_waiting(64);
  load.set_waiting_tokens(1234);
  load.set_kv_blocks(400);
  load.set_kv_blocks_free(300);
  load.set_kv_blocks_cached(50);
  load.set_tokens_per_block(64);
  load.set_prefill_backlog_seconds(1.5);
  load.set_first_token_seconds(0.25);
  load.set_prompt_tokens_per_second(512.4);
  load.set_generated_tokens_per_second(58.75);
  load.set_prompt_tokens(9000);
  load.set_cached_tokens(6000);
  load.set_generated_tokens(70);
  load.set_tenants(2);
  load.set_attention_macs(3e12);
  load.set_dense_attention_macs(12e12);
  load.mutable_first_token()->set_p50(0.31);
  load.mutable_first_token()->set_p95(1.2);
  load.mutable_inter_token()->set_p50(0.018);
  load.mutable_inter_token()->set_p95(0.031);
  v1::Shadows& shadows = *load.mutable_shadows();
  shadows.set_count(12);
  shadows.set_own_seconds(20);
  shadows.set_dense_seconds(30);
  shadows.set_compared_tokens(1000);
  shadows.set_top1_mismatches(25);
  shadows.set_logprob_abs_delta(0.0123);
  model.rates = {0, 100, 400, 571};
  return model;
}

TopState AState() { return {.server = "127.0.0.1:50051", .models = {AModel()}}; }

int Width(std::string_view text) {
  int columns = 0;
  while (!text.empty()) {
    const size_t size = Utf8CharacterSize(text);
    EXPECT_GT(size, 0u) << text;
    if (size == 0) break;
    columns += Utf8Columns(text.substr(0, size));
    text.remove_prefix(size);
  }
  return columns;
}

TEST(TopViewTest, AModelOnAnUsualTerminal) {
  EXPECT_THAT(
      RenderTop(AState(), {.columns = 80}),
      ElementsAre(
          "quire top   127.0.0.1:50051", "",
          "quire-135m   busy   llama 135M, 32,768 tokens",
          "  requests  3 of 256 running   2 of 64 waiting   1,234 tokens wait   2 "
          "tenants",
          "  kv memory ###+.......   25.0 % used   12.5 % kept for later   of 25,600 "
          "tokens",
          "  tokens/s  512 read   58.8 written   _.+#",
          "  last min  first token 0.31 s, 95 % within 1.20 s",
          "  backlog   1.50 s   a short request now: first token after 0.25 s",
          "  cached    40.0 % of prompt tokens   9,000 read   70 written",
          "  saved     75.0 % of attention's work   6.0 TFLOP instead of 24.0 TFLOP",
          "  measured  1.50x as fast as dense   12 repeated   97.5 % same token"));
}

TEST(TopViewTest, MoreRoomShowsMore) {
  EXPECT_THAT(RenderTop(AState(), {.columns = 120}),
              Contains("  last min  first token 0.31 s, 95 % within 1.20 s   next 18 ms, "
                       "95 % within 31 ms"));
  EXPECT_THAT(RenderTop(AState(), {.columns = 120}),
              Contains("  measured  1.50x as fast as dense   12 repeated   97.5 % same "
                       "token   drift 0.0123"));
}

TEST(TopViewTest, NoLineIsWiderThanTheTerminal) {
  TopState state = AState();
  state.models[0].load.set_draining(true);
  state.models.push_back(AModel("\u6a21\u578b"));
  state.trouble = "failed to connect to all addresses; last error: connection refused";
  for (const bool unicode : {false, true}) {
    for (const int rows : {0, 10}) {
      for (int columns = 1; columns <= 200; ++columns) {
        const TopLook look = {.columns = columns, .rows = rows, .unicode = unicode};
        for (const std::string& line : RenderTop(state, look)) {
          EXPECT_LE(Width(line), columns) << line;
        }
      }
    }
  }
}

TEST(TopViewTest, ANarrowTerminalKeepsWhatMattersMost) {
  EXPECT_THAT(
      RenderTop(AState(), {.columns = 30}),
      ElementsAre("quire top   127.0.0.1:50051", "", "quire-135m   busy",
                  "  requests  3 of 256 running", "  kv memory 25.0 % used",
                  "  tokens/s  512 read", "  last min  first token 0.31 s",
                  "  backlog   1.50 s", "  cached    40.0 % of prompt t",
                  "  saved     75.0 % of attentio", "  measured  1.50x as fast as d"));
}

TEST(TopViewTest, ALowTerminalSaysThatThereIsMore) {
  const auto lines = RenderTop(AState(), {.columns = 80, .rows = 4});
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[3], "... 8 more lines");
  EXPECT_EQ(RenderTop(AState(), {.columns = 80, .rows = 1}),
            std::vector<std::string>{"... 11 more lines"});
}

TEST(TopViewTest, ManyModelsGetALineEach) {
  TopState state = AState();
  state.models.push_back(AModel("quire-19m"));
  state.models[1].load.set_draining(true);
  EXPECT_EQ(RenderTop(state, {.columns = 80, .rows = 24}).size(), 21u);
  EXPECT_THAT(
      RenderTop(state, {.columns = 100, .rows = 12}),
      ElementsAre("quire top   127.0.0.1:50051   2 models", "",
                  "quire-135m  3 running, 2 waiting, 25.0 % memory, 571 tok/s, 75.0 % "
                  "saved",
                  "quire-19m  3 running, 2 waiting, 25.0 % memory, 571 tok/s, 75.0 % "
                  "saved, draining"));
}

TEST(TopViewTest, AServerThatIsGoneIsSaidWithTheAgeOfWhatIsShown) {
  TopState state = AState();
  state.trouble = "connection refused";
  state.stale_seconds = 12;
  const auto lines = RenderTop(state, {.columns = 80});
  EXPECT_EQ(lines[1], "no answer, still trying   what follows is 12.0 s old");
  EXPECT_EQ(lines[2], "  connection refused");
  state.models.clear();
  EXPECT_THAT(RenderTop(state, {.columns = 80}),
              ElementsAre("quire top   127.0.0.1:50051", "no answer, still trying",
                          "  connection refused"));
}

TEST(TopViewTest, AnIdleServerThatHasDoneNothing) {
  TopState state;
  state.models.resize(1);
  state.models[0].load.set_model("m");
  const auto lines = RenderTop(state, {.columns = 80});
  EXPECT_THAT(lines, Contains("m   idle"));
  EXPECT_THAT(lines, Contains("  last min  no tokens written"));
  EXPECT_THAT(lines, Contains("  cached    0.0 % of prompt tokens   0 read   0 written"));
  EXPECT_THAT(lines, Contains("  saved     nothing computed yet"));
  EXPECT_THAT(lines, Contains("  measured  no request was repeated densely yet"));
}

TEST(TopViewTest, MoreWorkThanDenseIsALossAndNotHidden) {
  TopState state = AState();
  state.models[0].load.set_attention_macs(15e12);
  EXPECT_THAT(RenderTop(state, {.columns = 80}),
              Contains("  saved     -25.0 % of attention's work   30.0 TFLOP instead of "
                       "24.0 TFLOP"));
}

TEST(TopViewTest, DrainingIsRedOnlyWhereThereIsColour) {
  TopState state = AState();
  state.models[0].load.set_draining(true);
  EXPECT_THAT(RenderTop(state, {.columns = 80, .colour = true})[2],
              HasSubstr("\x1b[1;31mdraining: takes no new requests\x1b[0m"));
  EXPECT_THAT(RenderTop(state, {.columns = 80})[2], Not(HasSubstr("\x1b")));
}

TEST(TopViewTest, ANameCannotDriveTheTerminal) {
  TopState state = AState();
  state.models[0].load.set_model("m\x1b[2J");
  EXPECT_THAT(RenderTop(state, {.columns = 80})[2], HasSubstr("m\u241b[2J"));
}

TEST(SparklineTest, TheHighestRateIsFull) {
  EXPECT_EQ(Sparkline({0, 7, 3.5}, 10, false), "_#=");
  EXPECT_EQ(Sparkline({0, 7, 3.5}, 10, true), "\u2581\u2588\u2585");
}

TEST(SparklineTest, KeepsTheLatest) {
  EXPECT_EQ(Sparkline({9, 9, 9, 0, 1}, 2, false), "_#");
  EXPECT_EQ(Sparkline({9, 9}, 0, false), "");
  EXPECT_EQ(Sparkline({}, 5, false), "");
}

TEST(SparklineTest, NothingButZeroIsFlat) {
  EXPECT_EQ(Sparkline({0, 0, 0}, 5, false), "___");
}

}  // namespace
}  // namespace quire::cli
