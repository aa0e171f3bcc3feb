#include "core/model/cuda_graphs.h"

#include <algorithm>
#include <utility>

#include "ATen/ops/mm.h"
#include "ATen/ops/zeros.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAGuard.h"
#include "c10/util/Exception.h"

namespace quire {
namespace {

// Times that a key is launched after its capture failed before it is tried again.
constexpr int32_t kPatience = 1000;

// cuBLAS makes its handle of a thread, and ATen its workspace of a stream, when they are
// first used: they must not be made within a capture.
void PrepareCublas(const c10::cuda::CUDAStream& stream) {
  const at::Tensor x =
      at::zeros({8, 8}, at::TensorOptions(at::kBFloat16).device(stream.device()));
  at::mm(x, x);
}

// Ends a capture that went wrong, so that nothing is left under way, neither on the
// stream nor in the allocator.
void Abandon(at::cuda::CUDAGraph& graph, const c10::cuda::CUDAStream& stream,
             c10::MempoolId_t pool) {
  try {
    graph.capture_end();
  } catch (const c10::Error&) {
    try {
      namespace allocator = c10::cuda::CUDACachingAllocator;
      allocator::endAllocateToPool(stream.device_index(), pool);
      allocator::releasePool(stream.device_index(), pool);
    } catch (const c10::Error&) {
      // It had ended before something else failed; the graph gives the memory back.
    }
  }
  cudaGetLastError();  // a failed capture is no fault of the device
}

}  // namespace

CudaGraphs::Entry& CudaGraphs::Find(const Key& key) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.key == key; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
  } else {
    if (entries_.size() == kMaxGraphs) entries_.pop_back();
    entries_.push_front({.key = key});
  }
  return entries_.front();
}

void CudaGraphs::Capture(Entry& entry, const std::function<Outputs()>& launch) {
  if (!stream_.has_value()) stream_ = c10::cuda::getStreamFromPool();
  // A pool dies with the last graph that uses it.
  if (captured() == 0) pool_ = at::cuda::graph_pool_handle();
  const c10::cuda::CUDAStreamGuard guard(*stream_);
  PrepareCublas(*stream_);
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  try {
    // Other threads may do with the device what they like.
    graph->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    entry.outputs = launch();
    graph->capture_end();
  } catch (...) {
    entry.outputs.clear();
    Abandon(*graph, *stream_, pool_);
    throw;
  }
  entry.graph = std::move(graph);
}

CudaGraphs::Outputs CudaGraphs::Run(const Key& key,
                                    const std::function<Outputs()>& launch) {
  Entry& entry = Find(key);
  if (entry.graph == nullptr && ++entry.seen > 1) {
    try {
      Capture(entry, launch);
    } catch (const c10::Error&) {
      // If it was more than the capture, launching will say so.
      entry.seen = 1 - kPatience;
    }
  }
  if (entry.graph == nullptr) return launch();
  entry.graph->replay();
  return entry.outputs;
}

void CudaGraphs::Clear() { entries_.clear(); }

size_t CudaGraphs::captured() const {
  return static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(),
                    [](const Entry& entry) { return entry.graph != nullptr; }));
}

}  // namespace quire
