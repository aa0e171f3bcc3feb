#include "core/runner/runner.h"

namespace quire {

std::string_view ComputeTypeName(ComputeType type) {
  switch (type) {
    case ComputeType::kAuto:
      return "auto";
    case ComputeType::kFloat32:
      return "float32";
    case ComputeType::kBFloat16:
      return "bfloat16";
  }
  return "";
}

}  // namespace quire
