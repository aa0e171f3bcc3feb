#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "core/base/mapped_file.h"
#include "core/base/types.h"
#include "core/weights/safetensors.h"

namespace quire::testing {

// Numbers of a golden file (all F32, see tests/golden/README.md). Throws if they are
// missing.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path)
      : file_(MappedFile::Open(path).value()),
        table_(ParseSafetensors(file_.bytes()).value()) {}

  std::vector<float> Floats(const std::string& name) const {
    const TensorView view = table_.Find(name).value();
    std::vector<float> values(view.num_elements());
    std::memcpy(values.data(), view.data.data(), view.data.size());
    return values;
  }
  std::vector<TokenId> Ids(const std::string& name) const {
    const std::vector<float> values = Floats(name);
    return {values.begin(), values.end()};
  }

 private:
  MappedFile file_;
  TensorTable table_;
};

}  // namespace quire::testing
