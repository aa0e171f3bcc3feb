#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/cuda/CUDAGraph.h"
#include "c10/cuda/CUDAStream.h"

namespace quire {

// Launches that come again with the same addresses and sizes, captured in CUDA graphs:
// the host then launches one thing instead of hundreds. At most kMaxGraphs are kept, the
// least recently used goes; they share their memory, which is that of the largest one
// beside the outputs of each. Not thread-safe.
class CudaGraphs {
 public:
  static constexpr size_t kMaxGraphs = 16;

  // Launches with equal keys are the same but for what lies at their addresses.
  using Key = std::tuple<int64_t, bool, bool>;
  using Outputs = std::vector<at::Tensor>;

  // Does on the current stream what `launch` does on it. The first time of a key it is
  // called, the second time it is captured, then its graph is launched. A capture that
  // fails (no memory for it, say) is tried again much later; until then, `launch` is
  // called each time, and what it throws is thrown. It must neither wait for the device
  // nor copy to or from the host. Outputs are valid until the next Run or Clear.
  Outputs Run(const Key& key, const std::function<Outputs()>& launch);

  // To be called before anything whose address was captured goes.
  void Clear();

  size_t captured() const;  // graphs that there are

 private:
  struct Entry {
    Key key;
    int32_t seen = 0;  // without a graph
    std::unique_ptr<at::cuda::CUDAGraph> graph;
    Outputs outputs;  // of the graph
  };
  Entry& Find(const Key& key);
  void Capture(Entry& entry, const std::function<Outputs()>& launch);

  std::list<Entry> entries_;                     // the last used one first
  std::optional<c10::cuda::CUDAStream> stream_;  // for captures
  c10::MempoolId_t pool_ = {0, 0};
};

}  // namespace quire
