#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/to_absl.h"
#include "core/weights/gguf.h"

namespace quire {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr std::array<Pair, 3> kModelNames = {{
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
}};

constexpr std::array<Pair, 11> kLayerNames = {{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
}};

template <size_t kSize>
std::string_view Lookup(const std::array<Pair, kSize>& pairs, std::string_view name) {
  const auto found = std::find_if(pairs.begin(), pairs.end(),
                                  [&](const Pair& pair) { return pair.first == name; });
  return found == pairs.end() ? std::string_view() : found->second;
}

bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isdigit(c);
  });
}

// "blk.12.attn_q" -> "model.layers.12.self_attn.q_proj"; empty if there is no
// counterpart.
std::string LayerStem(std::string_view stem) {
  constexpr std::string_view kPrefix = "blk.";
  if (stem.substr(0, kPrefix.size()) != kPrefix) return "";
  stem.remove_prefix(kPrefix.size());
  const size_t dot = stem.find('.');
  if (dot == std::string_view::npos || !IsNumber(stem.substr(0, dot))) return "";
  const std::string_view known = Lookup(kLayerNames, stem.substr(dot + 1));
  if (known.empty()) return "";
  return absl::StrCat("model.layers.", ToAbsl(stem.substr(0, dot)), ".", ToAbsl(known));
}

}  // namespace

std::string HuggingFaceName(std::string_view gguf_name) {
  const size_t dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return std::string(gguf_name);
  const std::string_view kind = gguf_name.substr(dot);
  const std::string_view stem = gguf_name.substr(0, dot);
  if (kind != ".weight" && kind != ".bias") return std::string(gguf_name);
  std::string found(Lookup(kModelNames, stem));
  if (found.empty()) found = LayerStem(stem);
  return found.empty() ? std::string(gguf_name) : absl::StrCat(found, ToAbsl(kind));
}

}  // namespace quire
