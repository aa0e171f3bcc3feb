#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"

namespace quire::cli {
namespace {

absl::StatusOr<std::vector<v1::Model>> Fetch(const Session& session,
                                             const std::string& name) {
  if (!name.empty()) {
    absl::StatusOr<v1::Model> model = session.client().GetModel(name, session.NewCall());
    if (!model.ok()) return model.status();
    return std::vector<v1::Model>{*std::move(model)};
  }
  const absl::StatusOr<v1::ListModelsResponse> response =
      session.client().ListModels(session.NewCall());
  if (!response.ok()) return response.status();
  return std::vector<v1::Model>(response->models().begin(), response->models().end());
}

std::string Table(const std::vector<v1::Model>& models) {
  size_t width = 4;
  for (const v1::Model& model : models) width = std::max(width, model.name().size());
  const int column = static_cast<int>(width);
  std::string lines = absl::StrFormat("%-*s  %-8s  %6s  %8s  %-8s  %7s  %8s  %s\n",
                                      column, "NAME", "ARCH", "PARAMS", "CONTEXT",
                                      "COMPUTE", "WEIGHTS", "KV CACHE", "WRITES");
  for (const v1::Model& model : models) {
    absl::StrAppend(
        &lines,
        absl::StrFormat("%-*s  %-8s  %6s  %8s  %-8s  %7s  %8s  %s\n", column,
                        model.name(), model.architecture(), Count(model.parameters()),
                        WithCommas(model.context_tokens()), model.compute_type(),
                        Bytes(model.weight_bytes()), Bytes(model.kv_cache_bytes()),
                        model.instruction_tuned() ? "yes" : "no"));
  }
  return lines;
}

}  // namespace

absl::Status RunCommand(const Session& session, const ModelsFlags& flags) {
  const auto models = Fetch(session, flags.name);
  if (!models.ok()) return models.status();
  if (!session.flags().json) {
    const absl::Status status = session.screen().Print(Table(*models));
    if (status.ok() && models->size() > 1)
      session.screen().Note("the first is the default");
    return status;
  }
  Json list = Json::array();
  for (const v1::Model& model : *models) list.push_back(ToJson(model));
  return session.PrintJson({{"models", std::move(list)}}, "");
}

}  // namespace quire::cli
