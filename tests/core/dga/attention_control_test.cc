#include "core/dga/attention_control.h"

#include <gtest/gtest.h>

namespace quire {
namespace {

AttentionStats Audited(double mean_error, int64_t audits = 2) {
  return {.audits = audits,
          .audit_error = mean_error * static_cast<double>(audits),
          .max_audit_error = 2 * mean_error};
}

AttentionOptions Refined(float eps, float max_error) {
  return {.mode = AttentionMode::kRefined, .eps = eps, .max_error = max_error};
}

TEST(AttentionControlTest, BeginsAsAskedFor) {
  const AttentionControl control(Refined(0.25f, 0.5f));
  EXPECT_EQ(control.options().eps, 0.25f);
  EXPECT_EQ(control.receipt().mode, AttentionMode::kRefined);
  EXPECT_EQ(control.receipt().eps, 0.25f);
  EXPECT_EQ(control.receipt().eps_lowered, 0);
  EXPECT_FALSE(control.receipt().fell_back);
}

TEST(AttentionControlTest, AddsUpByPhase) {
  AttentionControl control(Refined(0.25f, 1));
  AttentionStats step;
  step.work = {.attention_macs = 1,
               .selection_macs = 2,
               .statistics_macs = 3,
               .audit_macs = 4,
               .dense_macs = 5,
               .attention_bytes = 6,
               .selection_bytes = 7,
               .statistics_bytes = 8,
               .audit_bytes = 9,
               .dense_bytes = 10,
               .columns = 11,
               .dense_columns = 12};
  step.seconds = 0.5;
  step.selection_seconds = 0.25;
  step.sparse_rows = 4;
  step.coverage = 3;
  step.tail_risk = 0.125;
  step.audits = 1;
  step.audit_error = 0.5;
  step.max_audit_error = 0.5;
  control.Add(step, true);
  control.Add(step, true);
  step.max_audit_error = 0.25;
  control.Add(step, false);
  control.AddDropped(100);
  control.AddDropped(20);
  const AttentionReceipt& receipt = control.receipt();
  EXPECT_EQ(receipt.prefill.work, (AttentionWork{.attention_macs = 2,
                                                 .selection_macs = 4,
                                                 .statistics_macs = 6,
                                                 .audit_macs = 8,
                                                 .dense_macs = 10,
                                                 .attention_bytes = 12,
                                                 .selection_bytes = 14,
                                                 .statistics_bytes = 16,
                                                 .audit_bytes = 18,
                                                 .dense_bytes = 20,
                                                 .columns = 22,
                                                 .dense_columns = 24}));
  EXPECT_EQ(receipt.prefill.work.executed_macs(), 2 + 4 + 6 + 8);
  EXPECT_EQ(receipt.prefill.work.executed_bytes(), 12 + 14 + 16 + 18);
  EXPECT_EQ(receipt.prefill.seconds, 1);
  EXPECT_EQ(receipt.prefill.selection_seconds, 0.5);
  EXPECT_EQ(receipt.prefill.sparse_rows, 8);
  EXPECT_EQ(receipt.prefill.coverage, 6);
  EXPECT_EQ(receipt.prefill.tail_risk, 0.25);
  EXPECT_EQ(receipt.prefill.audits, 2);
  EXPECT_EQ(receipt.prefill.audit_error, 1);
  EXPECT_EQ(receipt.prefill.max_audit_error, 0.5);
  EXPECT_EQ(receipt.decode.work, step.work);
  EXPECT_EQ(receipt.decode.max_audit_error, 0.25);
  EXPECT_EQ(receipt.kv_bytes_dropped, 120);
}

TEST(AttentionControlTest, HalvesEpsThreeTimesThenGoesDense) {
  AttentionControl control(Refined(0.5f, 0.125f));
  for (const float eps : {0.25f, 0.125f, 0.0625f}) {
    control.Add(Audited(0.25), true);
    EXPECT_EQ(control.options().eps, eps);
    EXPECT_EQ(control.receipt().eps, eps);
    EXPECT_EQ(control.options().mode, AttentionMode::kRefined);
    EXPECT_FALSE(control.receipt().fell_back);
  }
  control.Add(Audited(0.25), false);
  EXPECT_EQ(control.options().mode, AttentionMode::kDense);
  EXPECT_TRUE(control.receipt().fell_back);
  control.Add(Audited(0.25), false);
  EXPECT_EQ(control.receipt().eps_lowered, kMaxEpsLowered);
  EXPECT_EQ(control.receipt().eps, 0.0625f);
  EXPECT_EQ(control.receipt().mode, AttentionMode::kRefined);  // as asked for
}

TEST(AttentionControlTest, KeepsAnEpsThatHelped) {
  AttentionControl control(Refined(0.5f, 0.125f));
  control.Add(Audited(0.25), true);
  control.Add(Audited(0.125), true);  // the limit itself is allowed
  control.Add(Audited(0.0625), true);
  EXPECT_EQ(control.options().eps, 0.25f);
  EXPECT_EQ(control.receipt().eps_lowered, 1);
  EXPECT_FALSE(control.receipt().fell_back);
}

TEST(AttentionControlTest, TheMeanCountsNotTheLargest) {
  AttentionControl control(Refined(0.5f, 0.125f));
  control.Add({.audits = 4, .audit_error = 0.5, .max_audit_error = 0.5}, true);
  EXPECT_EQ(control.receipt().eps_lowered, 0);
}

TEST(AttentionControlTest, FaithfulHasNoKnobAndGoesDenseAtOnce) {
  AttentionControl control({.mode = AttentionMode::kFaithful, .max_error = 0.125f});
  control.Add(Audited(0.25), true);
  EXPECT_EQ(control.options().mode, AttentionMode::kDense);
  EXPECT_TRUE(control.receipt().fell_back);
  EXPECT_EQ(control.receipt().eps_lowered, 0);
}

TEST(AttentionControlTest, WithoutAuditsOrWithMaxErrorOneNothingChanges) {
  AttentionControl silent(Refined(0.5f, 0.125f));
  silent.Add(AttentionStats{}, true);
  EXPECT_EQ(silent.options().eps, 0.5f);
  AttentionControl careless(Refined(0.5f, 1));
  careless.Add(Audited(7), true);
  EXPECT_EQ(careless.options().eps, 0.5f);
}

TEST(AttentionReceiptTest, PassesOfOneRequestAddUp) {
  AttentionReceipt sum;
  AttentionReceipt pass{.mode = AttentionMode::kRefined,
                        .eps = 0.25f,
                        .eps_lowered = 1,
                        .kv_bytes_dropped = 5};
  pass.prefill.work.columns = 3;
  pass.decode.work.columns = 4;
  sum += pass;
  pass.eps = 0.125f;
  pass.fell_back = true;
  sum += pass;
  EXPECT_EQ(sum.mode, AttentionMode::kRefined);
  EXPECT_EQ(sum.eps, 0.125f);
  EXPECT_EQ(sum.eps_lowered, 2);
  EXPECT_TRUE(sum.fell_back);
  EXPECT_EQ(sum.prefill.work.columns, 6);
  EXPECT_EQ(sum.decode.work.columns, 8);
  EXPECT_EQ(sum.kv_bytes_dropped, 10);
}

}  // namespace
}  // namespace quire
