#include "client/cli/calibrate_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "client/cli/document.h"
#include "tests/support/temp_path.h"

namespace quire::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CalibrationStoreTest : public ::testing::Test {
 protected:
  ~CalibrationStoreTest() override { fs::remove_all(folder_); }

  std::unique_ptr<CalibrationStore> Open(const CalibrationSetup& setup = {"m", "AUTO"},
                                         bool fresh = false) {
    auto store = CalibrationStore::Open(folder_, setup, fresh);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  std::string State() const { return *ReadFileBytes(folder_ + "/state.jsonl"); }
  void WriteState(const std::string& text) {
    std::ofstream(folder_ + "/state.jsonl", std::ios::binary) << text;
  }

  const std::string folder_ = TempPath("calibration_store");
};

const Measurement kMeasurement = {.document = "0123",
                                  .eps = 0.04,
                                  .tokens = 100,
                                  .agreed = 99,
                                  .abs_delta = 0.1,
                                  .logprob = -201.3,
                                  .dense_logprob = -200.7,
                                  .columns = 7e12,
                                  .dense_columns = 1e14,
                                  .macs = 3e15,
                                  .dense_macs = 1e17,
                                  .seconds = 1.5,
                                  .dense_seconds = 2.5,
                                  .sparse = true,
                                  .audited_tokens = 16,
                                  .audited_error = 0.02,
                                  .max_audited_error = 0.05};

TEST_F(CalibrationStoreTest, WhatWasMeasuredIsThereAgain) {
  ASSERT_TRUE(Open()->Add(kMeasurement).ok());
  const auto store = Open();
  const Measurement* found = store->Find("0123", 0.04);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->agreed, 99);
  EXPECT_EQ(found->abs_delta, 0.1);
  EXPECT_EQ(found->dense_logprob, -200.7);
  EXPECT_EQ(found->columns, 7e12);
  EXPECT_EQ(found->dense_macs, 1e17);
  EXPECT_EQ(found->dense_seconds, 2.5);
  EXPECT_TRUE(found->sparse);
  EXPECT_EQ(found->audited_tokens, 16);
  EXPECT_EQ(found->max_audited_error, 0.05);
  EXPECT_EQ(store->Find("0123", 0.08), nullptr);
  EXPECT_EQ(store->Find("0124", 0.04), nullptr);
  EXPECT_EQ(store->of_other_setups(), 0);
  EXPECT_EQ(store->damaged_lines(), 0);
}

TEST_F(CalibrationStoreTest, AnotherModelOrReadingIsNoticedAndKept) {
  ASSERT_TRUE(Open()->Add(kMeasurement).ok());
  for (const CalibrationSetup& setup :
       {CalibrationSetup{"other", "AUTO"}, CalibrationSetup{"m", "REFINED"}}) {
    const auto store = Open(setup);
    EXPECT_EQ(store->Find("0123", 0.04), nullptr);
    EXPECT_EQ(store->of_other_setups(), 1);
  }
  EXPECT_NE(Open()->Find("0123", 0.04), nullptr);
}

TEST_F(CalibrationStoreTest, HalfALastLineCostsThatLineOnly) {
  ASSERT_TRUE(Open()->Add(kMeasurement).ok());
  const std::string whole = State();
  WriteState(whole + whole.substr(0, whole.size() / 2));
  Measurement second = kMeasurement;
  second.eps = 0.08;
  {
    const auto store = Open();
    EXPECT_EQ(store->damaged_lines(), 1);
    EXPECT_NE(store->Find("0123", 0.04), nullptr);
    ASSERT_TRUE(store->Add(second).ok());
  }
  const auto store = Open();
  EXPECT_NE(store->Find("0123", 0.04), nullptr);
  EXPECT_NE(store->Find("0123", 0.08), nullptr);
  EXPECT_EQ(store->damaged_lines(), 1);
}

TEST_F(CalibrationStoreTest, GarbageIsDamageAndNoCrash) {
  Open();
  WriteState(std::string("[]\n{}\n\xff\xfe\n") + std::string(1000, '\0') +
             "\n{\"model\":\"m\",\"reading\":\"AUTO\",\"document\":7}\n\n");
  EXPECT_EQ(Open()->damaged_lines(), 5);
}

TEST_F(CalibrationStoreTest, FreshForgets) {
  ASSERT_TRUE(Open()->Add(kMeasurement).ok());
  ASSERT_TRUE(Open()->AddDense("0123", {.logprobs = {-1}, .top = {1}}).ok());
  const auto store = Open({"m", "AUTO"}, /*fresh=*/true);
  EXPECT_EQ(store->Find("0123", 0.04), nullptr);
  EXPECT_FALSE(store->FindDense("0123").has_value());
  EXPECT_EQ(State(), "");
}

TEST_F(CalibrationStoreTest, DenseScoresAreThereAgain) {
  const DenseRun run = {.logprobs = {std::numeric_limits<float>::quiet_NaN(), -1.25f, 0},
                        .top = {-1, 7, 8191},
                        .macs = 12,
                        .columns = 5,
                        .seconds = 0.5};
  ASSERT_TRUE(Open()->AddDense("0123", run).ok());
  // They depend on the model only.
  const auto found = Open({"m", "REFINED"})->FindDense("0123");
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(std::isnan(found->logprobs[0]));
  EXPECT_EQ(found->logprobs[1], -1.25f);
  EXPECT_EQ(found->top, run.top);
  EXPECT_EQ(found->macs, 12);
  EXPECT_EQ(found->seconds, 0.5);
  EXPECT_FALSE(Open()->FindDense("0124").has_value());
  EXPECT_FALSE(Open({"other", "AUTO"})->FindDense("0123").has_value());
}

TEST_F(CalibrationStoreTest, DamagedDenseScoresAreMeasuredAgain) {
  const DenseRun run = {.logprobs = {-1, -2}, .top = {1, 2}};
  ASSERT_TRUE(Open()->AddDense("0123", run).ok());
  const fs::path file = fs::directory_iterator(folder_ + "/dense")->path();
  const std::string bytes = *ReadFileBytes(file.string());
  for (size_t size = 0; size < bytes.size(); ++size) {
    std::ofstream(file, std::ios::binary) << bytes.substr(0, size);
    EXPECT_FALSE(Open()->FindDense("0123").has_value()) << size;
  }
  std::string flipped = bytes;
  flipped.back() ^= 1;
  std::ofstream(file, std::ios::binary) << flipped;
  EXPECT_FALSE(Open()->FindDense("0123").has_value());
}

TEST_F(CalibrationStoreTest, TwoAtATimeAreRefused) {
  const auto first = Open();
  const auto second = CalibrationStore::Open(folder_, {"m", "AUTO"}, false);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("another calibration works in \"" + folder_ + "\""));
}

TEST_F(CalibrationStoreTest, AFileInTheWayIsNamed) {
  std::ofstream(folder_) << "x";
  const auto store = CalibrationStore::Open(folder_, {"m", "AUTO"}, false);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(store.status().message()),
              HasSubstr("cannot write \"" + folder_ + "\": "));
}

TEST_F(CalibrationStoreTest, AFileIsOldOrNewAndNeverHalf) {
  const auto store = Open();
  ASSERT_TRUE(store->WriteFile("a.txt", "one").ok());
  ASSERT_TRUE(store->WriteFile("a.txt", "two").ok());
  EXPECT_EQ(*ReadFileBytes(folder_ + "/a.txt"), "two");
  EXPECT_FALSE(fs::exists(folder_ + "/a.txt.part"));
  fs::create_directory(folder_ + "/b.txt");
  EXPECT_EQ(store->WriteFile("b.txt", "x").code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quire::cli
