#include <chrono>

#include "tests/client/fake_server.h"

namespace quire::client::testing {
namespace {

void SetUsage(v1::Usage& usage) {
  usage.set_prompt_tokens(6000);
  usage.set_generated_tokens(3);
}

void SetTimings(v1::Timings& timings) {
  timings.set_prefill_seconds(4.0);
  timings.set_decode_seconds(0.1);
  timings.set_total_seconds(4.2);
  timings.set_time_to_first_token_seconds(4.05);
}

void SetProgress(v1::Progress& progress, v1::Phase phase, int64_t done, int64_t total) {
  progress.set_phase(phase);
  progress.set_done_tokens(done);
  progress.set_total_tokens(total);
  progress.set_pass(1);
  progress.set_passes(1);
}

grpc::Status Summarize(grpc::ServerContext* context, const v1::SummarizeRequest& request,
                       grpc::ServerWriter<v1::SummarizeResponse>* writer) {
  context->AddInitialMetadata("x-request-id", "req-1");
  v1::SummarizeResponse event;
  event.mutable_plan()->set_strategy(v1::SUMMARY_STRATEGY_ABSTRACTIVE);
  event.mutable_plan()->set_document_tokens(5980);
  event.mutable_plan()->set_passes(1);
  auto* part = event.mutable_plan()->add_parts();
  part->set_end(request.input().text().size());
  writer->Write(event);
  for (int64_t done : {0, 2048, 4096, 6000}) {
    SetProgress(*event.mutable_progress(), v1::PHASE_PREFILL, done, 6000);
    if (done > 0) event.mutable_progress()->set_eta_seconds((6000 - done) / 1500.0);
    writer->Write(event);
  }
  event.mutable_text()->set_text("Three ");
  event.mutable_text()->add_sources()->set_end(request.input().text().size());
  writer->Write(event);
  event.mutable_text()->Clear();
  event.mutable_text()->set_text("caf\xC3\xA9 words.");
  writer->Write(event);
  auto& final = *event.mutable_final();
  final.set_finish_reason(v1::FINISH_REASON_EOS);
  SetUsage(*final.mutable_usage());
  SetTimings(*final.mutable_timings());
  final.set_model("fake");
  final.set_seed(7);
  writer->Write(event);
  return grpc::Status::OK;
}

grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest& request,
                      grpc::ServerWriter<v1::GenerateResponse>* writer) {
  v1::GenerateResponse event;
  SetProgress(*event.mutable_progress(), v1::PHASE_PREFILL, 4, 4);
  writer->Write(event);
  event.mutable_text()->set_text(" there");
  if (request.logprobs()) {
    auto* token = event.mutable_text()->add_tokens();
    token->set_token_id(612);
    token->set_logprob(-0.1f);
    for (int i = 0; i < request.top_logprobs(); ++i) {
      token->add_top()->set_token_id(612 + i);
    }
  }
  writer->Write(event);
  auto& final = *event.mutable_final();
  final.set_finish_reason(v1::FINISH_REASON_STOP);
  final.set_stop("\n");
  SetUsage(*final.mutable_usage());
  SetTimings(*final.mutable_timings());
  final.set_model("fake");
  final.set_seed(request.sampling().seed());
  writer->Write(event);
  return grpc::Status::OK;
}

// Every byte is a token; the first has no logprob, the others -0.5.
template <class Event>
void FillScores(Event& event, size_t bytes, const v1::ScoreOptions& options) {
  auto& scores = *event.mutable_scores();
  for (size_t i = 0; i < bytes; ++i) {
    scores.add_token_ids(static_cast<int32_t>(i));
    scores.add_logprobs(i == 0 ? std::numeric_limits<float>::quiet_NaN() : -0.5f);
    scores.add_byte_offsets(static_cast<int64_t>(i));
    if (options.ranks()) scores.add_ranks(i == 0 ? 0 : 2);
    for (int k = 0; i > 0 && k < options.top_logprobs(); ++k) {
      auto* top = scores.add_top();
      top->set_token_id(100 + k);
      top->set_logprob(-0.25f * static_cast<float>(k + 1));
    }
  }
}

template <class Event>
void FillScoreFinal(Event& event, size_t bytes, const v1::ScoreOptions& options) {
  auto& final = *event.mutable_final();
  final.set_scored_tokens(static_cast<int64_t>(bytes) - 1);
  final.set_logprob(-0.5 * (static_cast<double>(bytes) - 1));
  final.set_perplexity(1.6487212707);
  for (const auto& span : options.spans()) {
    auto* score = final.add_spans();
    *score->mutable_span() = span;
    score->set_tokens(span.end() - span.begin());
    score->set_logprob(-0.5 * static_cast<double>(span.end() - span.begin()));
  }
  final.set_windows(1);
  SetUsage(*final.mutable_usage());
  SetTimings(*final.mutable_timings());
  final.set_model("fake");
}

grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest& request,
                   grpc::ServerWriter<v1::ScoreResponse>* writer) {
  const size_t bytes = request.input().text().size();
  v1::ScoreResponse event;
  FillScores(event, bytes, request.options());
  writer->Write(event);
  FillScoreFinal(event, bytes, request.options());
  writer->Write(event);
  return grpc::Status::OK;
}

void FillModel(v1::Model& model) {
  model.set_name("fake");
  model.set_architecture("llama");
  model.set_parameters(134'515'008);
  model.set_context_tokens(32768);
  model.set_vocab_size(49152);
  model.set_compute_type("bfloat16");
  model.set_weight_bytes(269'030'016);
  model.set_kv_cache_bytes(754'974'720);
  model.set_kv_cache_tokens(32768);
  model.set_instruction_tuned(true);
  model.set_auto_sparse_from(4096);
}

void FillLoad(v1::Load& load) {
  load.set_model("fake");
  load.set_running(3);
  load.set_max_running(256);
  load.set_waiting(2);
  load.set_max_waiting(64);
  load.set_waiting_tokens(1234);
  load.set_max_waiting_tokens(1 << 20);
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
  load.set_preemptions(1);
  load.set_tenants(2);
  load.set_attention_macs(3e12);
  load.set_dense_attention_macs(12e12);
  v1::LatencyPercentiles& first = *load.mutable_first_token();
  first.set_count(9);
  first.set_p50(0.31);
  first.set_p95(1.2);
  first.set_p99(1.5);
}

grpc::Status EstimateCost(grpc::ServerContext*, const v1::EstimateCostRequest& request,
                          v1::EstimateCostResponse* response) {
  response->set_model("fake");
  const bool text = request.has_input();
  response->set_prompt_tokens(text ? static_cast<int64_t>(request.input().text().size())
                                   : request.prompt_tokens());
  response->set_max_new_tokens(512);
  response->set_passes(1);
  v1::CostEstimate& dense = *response->mutable_dense();
  dense.set_mode(v1::ATTENTION_MODE_DENSE);
  dense.set_flops(1.5e12);
  dense.set_attention_flops(5e11);
  dense.set_first_token_seconds(20);
  dense.set_end_seconds(36);
  v1::CostEstimate& asked = *response->mutable_requested();
  asked.set_mode(v1::ATTENTION_MODE_AUTO);
  asked.set_flops(1.25e12);
  asked.set_attention_flops(5e10);
  asked.set_selection_flops(2e11);
  asked.set_first_token_seconds(10);
  asked.set_end_seconds(18);
  response->set_first_token_seconds_now(12);
  response->set_end_seconds_now(75);
  response->set_admissible(true);
  return grpc::Status::OK;
}

void AddTokens(Script& script) {
  script.tokenize = [](auto*, const v1::TokenizeRequest& request, auto* response) {
    for (size_t i = 0; i < request.text().size(); ++i) response->add_token_ids(i + 10);
    return grpc::Status::OK;
  };
  script.detokenize = [](auto*, const v1::DetokenizeRequest& request, auto* response) {
    for (int32_t id : request.token_ids())
      *response->mutable_text() += static_cast<char>(id);
    return grpc::Status::OK;
  };
  script.count_tokens = [](auto*, const v1::CountTokensRequest& request, auto* response) {
    response->set_tokens(static_cast<int64_t>(request.input().text().size()));
    response->set_context_tokens(32768);
    return grpc::Status::OK;
  };
}

}  // namespace

Script HappyScript() {
  Script script;
  script.summarize = Summarize;
  script.generate = Generate;
  script.score = Score;
  AddTokens(script);
  script.get_model = [](auto*, const v1::GetModelRequest& request, auto* response) {
    if (!request.name().empty() && request.name() != "fake") {
      return grpc::Status(grpc::StatusCode::NOT_FOUND,
                          "no model \"" + request.name() + "\"");
    }
    FillModel(*response->mutable_model());
    return grpc::Status::OK;
  };
  script.estimate_cost = EstimateCost;
  script.get_load = [](auto*, const v1::GetLoadRequest&, auto* response) {
    FillLoad(*response->mutable_load());
    return grpc::Status::OK;
  };
  script.list_models = [](auto*, const auto&, v1::ListModelsResponse* response) {
    FillModel(*response->add_models());
    return grpc::Status::OK;
  };
  return script;
}

}  // namespace quire::client::testing
