#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/rpc/convert.h"
#include "server/rpc/handlers.h"
#include "server/rpc/status.h"

// Tokenize, Detokenize, CountTokens, GetModel, ListModels, GetLoad: no work for an
// engine, answered at once.
namespace quire::server {
namespace {

constexpr int64_t kMaxTokenizeBytes = 1 << 20;
constexpr int64_t kMaxDetokenizeIds = 1'000'000;

}  // namespace

absl::Status HandleTokenize(const v1::TokenizeRequest& request,
                            v1::TokenizeResponse& response, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  QUIRE_RETURN_IF_ERROR(CheckText("text", request.text(), kMaxTokenizeBytes));
  QUIRE_ASSIGN_OR_RETURN(
      const Encoding encoding,
      model->text.tokenizer.EncodeWithSpans(request.text(), request.add_special_tokens(),
                                            request.parse_special_tokens()));
  response.mutable_token_ids()->Add(encoding.ids.begin(), encoding.ids.end());
  for (const ByteSpan& span : encoding.spans) *response.add_spans() = ToProto(span);
  return absl::OkStatus();
}

absl::Status HandleDetokenize(const v1::DetokenizeRequest& request,
                              v1::DetokenizeResponse& response, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  QUIRE_RETURN_IF_ERROR(CheckTokenIds("token_ids", request.token_ids(), kMaxDetokenizeIds,
                                      model->text.tokenizer.vocab_size()));
  QUIRE_ASSIGN_OR_RETURN(
      std::string text,
      model->text.tokenizer.Decode(request.token_ids(), request.skip_special_tokens()));
  response.set_text(std::move(text));
  return absl::OkStatus();
}

absl::Status HandleCountTokens(const v1::CountTokensRequest& request,
                               v1::CountTokensResponse& response, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  QUIRE_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                         PromptTokens(*model, request.input(), call.limits));
  response.set_tokens(static_cast<int64_t>(tokens.size()));
  response.set_context_tokens(model->text.context_tokens());
  return absl::OkStatus();
}

absl::Status HandleGetModel(const v1::GetModelRequest& request,
                            v1::GetModelResponse& response, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.name()));
  *response.mutable_model() = ToProto(*model);
  return absl::OkStatus();
}

absl::Status HandleGetLoad(const v1::GetLoadRequest& request,
                           v1::GetLoadResponse& response, CallContext& call) {
  QUIRE_ASSIGN_OR_RETURN(const ServedModel* model, FindModel(call, request.model()));
  *response.mutable_load() = ToProto(model->text.engine->stats(), *model, call.draining);
  return absl::OkStatus();
}

absl::Status HandleListModels(const v1::ListModelsRequest&,
                              v1::ListModelsResponse& response, CallContext& call) {
  for (const auto& model : call.models->models())
    *response.add_models() = ToProto(*model);
  return absl::OkStatus();
}

}  // namespace quire::server
