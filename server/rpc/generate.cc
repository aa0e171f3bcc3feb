#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/request_stream.h"
#include "core/tokenizer/stream_decoder.h"
#include "server/rpc/admission.h"
#include "server/rpc/attention.h"
#include "server/rpc/convert.h"
#include "server/rpc/handlers.h"
#include "server/rpc/progress.h"
#include "server/rpc/status.h"

namespace quire::server {
namespace {

constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;

// ----------------------------------------------------------------------------- refusals

absl::Status CheckCount(absl::string_view field, int count, int max) {
  if (count <= max) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat(field, " has ", count, " entries; it must have at most ", max));
}

absl::Status CheckStops(const v1::GenerateRequest& request, int32_t vocab_size) {
  QUIRE_RETURN_IF_ERROR(CheckCount("stop", request.stop_size(), kMaxStops));
  for (int i = 0; i < request.stop_size(); ++i) {
    const size_t bytes = request.stop(i).size();
    if (bytes >= 1 && bytes <= kMaxStopBytes) continue;
    const std::string field = absl::StrCat("stop[", i, "]");
    return InvalidField(field, absl::StrCat(field, " has ", bytes,
                                            " bytes; it must have 1 to ", kMaxStopBytes));
  }
  if (request.stop_token_ids().empty()) return absl::OkStatus();
  return CheckTokenIds("stop_token_ids", request.stop_token_ids(), kMaxStops, vocab_size);
}

std::optional<int32_t> WantedNewTokens(const v1::GenerateRequest& request) {
  return request.has_max_new_tokens() ? std::optional(request.max_new_tokens())
                                      : std::nullopt;
}

// Before the prompt is tokenised; what does not fit the context is refused after.
absl::Status CheckRoom(const v1::GenerateRequest& request, const ServedModel& model,
                       const AttentionOptions& attention, const Scheduling& scheduling,
                       CallContext& call) {
  const int64_t context = model.text.context_tokens();
  const int64_t prompt = std::min(LeastTokens(request.input()), context - 1);
  const int64_t wanted =
      WantedNewTokens(request).value_or(model.text.defaults.max_new_tokens);
  const PassShape pass{.prompt_tokens = prompt,
                       .new_tokens = std::clamp<int64_t>(wanted, 1, context - prompt)};
  return CheckAdmission(*model.text.engine, {&pass, 1}, attention, scheduling, call);
}

// Stop tokens of the request are not the engine's to stop at: it would not tell which of
// them, or of the model's own, ended the answer.
absl::StatusOr<EngineRequest> ToEngineRequest(const v1::GenerateRequest& request,
                                              const ServedModel& model,
                                              CallContext& call) {
  QUIRE_RETURN_IF_ERROR(CheckStops(request, model.text.config.vocab_size));
  QUIRE_RETURN_IF_ERROR(
      CheckRange("top_logprobs", request.top_logprobs(), 0, kMaxTopLogprobs));
  GenerateRequest work;
  work.top_logprobs = request.top_logprobs();
  if (!request.ignore_eos()) work.stop_tokens = model.text.stop_tokens;
  QUIRE_ASSIGN_OR_RETURN(work.sampling, MergeSampling(model.text.defaults.sampling,
                                                      request.sampling(), call));
  QUIRE_ASSIGN_OR_RETURN(
      work.attention,
      MergeAttention(call.AttentionDefaults(model), request.attention(), "attention"));
  QUIRE_ASSIGN_OR_RETURN(Scheduling scheduling,
                         SchedulingOf(call, "priority", request.priority()));
  QUIRE_RETURN_IF_ERROR(CheckRoom(request, model, work.attention, scheduling, call));
  QUIRE_ASSIGN_OR_RETURN(work.prompt, PromptTokens(model, request.input(), call.limits));
  const auto prompt_tokens = static_cast<int64_t>(work.prompt.size());
  QUIRE_ASSIGN_OR_RETURN(work.max_new_tokens,
                         MaxNewTokens(WantedNewTokens(request), model, prompt_tokens));
  QUIRE_RETURN_IF_ERROR(CheckTextSuits(work.attention, prompt_tokens,
                                       model.text.context_tokens(), "attention"));
  return EngineRequest{std::move(work), call.deadline, std::move(scheduling)};
}

// ------------------------------------------------------------------------------ the
// answer

// From the engine's events to the protocol's. Lives for one call, on its thread.
class Answer {
 public:
  Answer(const v1::GenerateRequest& request, const ServedModel& model,
         int32_t max_new_tokens, EventWriter<v1::GenerateResponse>& events,
         CallContext& call)
      : request_(request),
        model_(model),
        max_new_tokens_(max_new_tokens),
        events_(events),
        call_(call),
        throttle_(*call.clock),
        decoder_(model.text.tokenizer),
        matcher_({request.stop().begin(), request.stop().end()}) {}

  absl::Status OnProgress(v1::Phase phase, int64_t done, int64_t total) {
    if (!throttle_.ShouldSend(phase, 1, done >= total)) return absl::OkStatus();
    v1::GenerateResponse response;
    v1::Progress& progress = *response.mutable_progress();
    progress.set_phase(phase);
    progress.set_done_tokens(done);
    progress.set_total_tokens(total);
    progress.set_pass(1);
    progress.set_passes(1);
    if (phase != v1::PHASE_QUEUED) {
      if (const auto eta = throttle_.EtaSeconds(done, total))
        progress.set_eta_seconds(*eta);
    }
    return events_.Write(response);
  }

  // Nothing is written before Flush.
  void OnToken(const TokenScore& token) {
    call_.OnFirstToken();
    call_.stage = CallStage::kDecode;
    ++generated_;
    if (IsRequestedStop(token.token)) {
      stopped_ = true;
      stop_ = TextOf(token.token);
      return;
    }
    v1::GeneratedText& text = *unsaid_.mutable_text();
    if (request_.logprobs() || request_.top_logprobs() > 0) AddToken(token, text);
    StopMatcher::Output shown = matcher_.Push(decoder_.Push(token.token));
    text.mutable_text()->append(shown.text);
    if (shown.stopped) {
      stopped_ = true;
      stop_ = std::move(shown.stop);
    }
  }

  // Writes what the tokens since the last time said.
  absl::Status Flush() {
    if (generated_ == told_) return absl::OkStatus();
    told_ = generated_;
    told_at_ = call_.clock->Now();
    call_.OnProgress(TracePhase::kDecode, 1, generated_, max_new_tokens_);
    QUIRE_RETURN_IF_ERROR(WriteText(std::exchange(unsaid_, {})));
    if (stopped_) return absl::OkStatus();
    return OnProgress(v1::PHASE_DECODE, generated_, max_new_tokens_);
  }

  // Until the next piece of text is due.
  absl::Duration Pause() const {
    return call_.TextInterval() - (call_.clock->Now() - told_at_);
  }

  bool stopped() const { return stopped_; }

  absl::Status OnFinished(const Finished& finished, uint64_t seed,
                          const AttentionOptions& attention) {
    if (!stopped_) QUIRE_RETURN_IF_ERROR(WriteRest());
    v1::GenerateResponse response;
    v1::GenerateFinal& final = *response.mutable_final();
    final.set_finish_reason(ReasonOf(finished));
    final.set_stop(stop_);
    *final.mutable_usage() = ToProto(call_.usage);
    *final.mutable_timings() = ToProto(call_.timings, call_);
    final.set_model(call_.model);
    final.set_seed(seed);
    *final.mutable_receipt() = ToProto(finished.attention, attention, finished.device,
                                       call_.terms.price_per_device_hour);
    return events_.Write(response);
  }

 private:
  bool IsRequestedStop(TokenId token) const {
    const auto& ids = request_.stop_token_ids();
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  }

  std::string TextOf(TokenId token) const {
    absl::StatusOr<std::string> text = model_.text.tokenizer.Decode({token}, false);
    return text.ok() ? *std::move(text) : "";
  }

  static void AddToken(const TokenScore& token, v1::GeneratedText& text) {
    v1::GeneratedToken& out = *text.add_tokens();
    out.set_token_id(token.token);
    out.set_logprob(token.logprob);
    for (const TokenLogprob& top : token.top) *out.add_top() = ToProto(top);
  }

  absl::Status WriteText(const v1::GenerateResponse& response) {
    const bool empty = response.text().text().empty() && response.text().tokens().empty();
    return empty ? absl::OkStatus() : events_.Write(response);
  }

  // The text that was held back, and which may still complete a stop string.
  absl::Status WriteRest() {
    StopMatcher::Output rest = matcher_.Push(decoder_.Finish());
    if (rest.stopped) {
      stopped_ = true;
      stop_ = std::move(rest.stop);
    } else {
      rest.text += matcher_.Finish();
    }
    v1::GenerateResponse response;
    response.mutable_text()->set_text(std::move(rest.text));
    return WriteText(response);
  }

  v1::FinishReason ReasonOf(const Finished& finished) const {
    if (stopped_) return v1::FINISH_REASON_STOP;
    return finished.reason == FinishReason::kLength ? v1::FINISH_REASON_LENGTH
                                                    : v1::FINISH_REASON_EOS;
  }

  const v1::GenerateRequest& request_;
  const ServedModel& model_;
  const int32_t max_new_tokens_;
  EventWriter<v1::GenerateResponse>& events_;
  CallContext& call_;
  ProgressThrottle throttle_;
  StreamDecoder decoder_;
  StopMatcher matcher_;
  v1::GenerateResponse unsaid_;
  int64_t generated_ = 0;
  int64_t told_ = 0;  // of the generated tokens
  absl::Time told_at_ = absl::InfinitePast();
  bool stopped_ = false;
  std::string stop_;
};

// One event of the engine, for the answer. What was chosen after a stop is not part of
// it.
absl::Status OnEvent(const RequestEvent& event, Answer& answer, CallContext& call) {
  if (answer.stopped()) return absl::OkStatus();
  if (const auto* prefill = std::get_if<PrefillProgress>(&event)) {
    if (call.stage == CallStage::kQueue) call.stage = CallStage::kPrefill;
    call.OnProgress(TracePhase::kPrefill, 1, prefill->done_tokens, prefill->total_tokens);
    return answer.OnProgress(v1::PHASE_PREFILL, prefill->done_tokens,
                             prefill->total_tokens);
  }
  if (const auto* token = std::get_if<TokenScore>(&event)) {
    answer.OnToken(*token);
    const bool each = call.TextInterval() == absl::ZeroDuration();
    if (each || answer.stopped()) return answer.Flush();
  }
  return absl::OkStatus();
}

// Hands the engine's events to the answer until the request is finished. `stop` cancels
// the engine's request.
absl::StatusOr<Finished> Pump(RequestStream& stream, Answer& answer, Cancellation& stop,
                              CallContext& call) {
  while (true) {
    for (RequestEvent& event : stream.NextAll(answer.Pause())) {
      if (auto* finished = std::get_if<Finished>(&event)) {
        QUIRE_RETURN_IF_ERROR(answer.Flush());
        return std::move(*finished);
      }
      QUIRE_RETURN_IF_ERROR(OnEvent(event, answer, call));
    }
    if (answer.stopped()) stop.Cancel();
    QUIRE_RETURN_IF_ERROR(answer.Flush());
  }
}

}  // namespace

absl::Status HandleGenerate(const v1::GenerateRequest& request,
                            EventWriter<v1::GenerateResponse>& events,
                            CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  QUIRE_ASSIGN_OR_RETURN(EngineRequest engine_request,
                         ToEngineRequest(request, *model, call));
  const auto& work = std::get<GenerateRequest>(engine_request.work);
  const uint64_t seed = work.sampling.seed;
  const AttentionOptions attention = work.attention;
  const auto prompt_tokens = static_cast<int64_t>(work.prompt.size());
  Answer answer(request, *model, work.max_new_tokens, events, call);

  Cancellation stop;
  const auto forward = call.cancellation->OnCancel([&stop] { stop.Cancel(); });
  Engine& engine = *model->text.engine;
  const auto stream = RequestStream::Open(engine, std::move(engine_request), &stop);
  if (!stream.ok()) return ToldAsRefusal(stream.status(), engine, call);
  QUIRE_RETURN_IF_ERROR(answer.OnProgress(v1::PHASE_QUEUED, 0, prompt_tokens));
  QUIRE_ASSIGN_OR_RETURN(const Finished finished, Pump(**stream, answer, stop, call));
  call.usage = finished.usage;
  call.timings = finished.timings;
  call.attention = finished.attention;
  call.device = finished.device;
  call.head_columns = finished.head_columns;
  const bool cut_by_stop = answer.stopped() && absl::IsCancelled(finished.status);
  if (!cut_by_stop) QUIRE_RETURN_IF_ERROR(finished.status);
  return answer.OnFinished(finished, seed, attention);
}

}  // namespace quire::server
