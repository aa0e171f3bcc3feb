#pragma once

#include <cstdint>

// How work over pages of many sequences is cut in equal parts. A unit is a page of one
// key/value head. The units of all sequences and heads stand in one line, and block c of
// n takes the c-th part of it; what lies in its part of one head is a segment.
namespace quire::kernels::cuda {

struct Segment {
  int sequence;
  int head;         // key/value head
  int first, last;  // pages, from the sequence's first in the line
  int pages;        // of the sequence in the line
  int index;        // of (sequence, head)
  int begin;        // unit of the head's first page
};

// first_page [sequences + 1]: pages of the sequences before, of one head.
struct WorkLine {
  const int32_t* first_page;
  int sequences;
  int kv_heads;
  int per_block = 0;
  int begin = 0, end = 0;  // units of this block

  __device__ WorkLine(const int32_t* first_page, int sequences, int kv_heads)
      : first_page(first_page), sequences(sequences), kv_heads(kv_heads) {
    const int total = first_page[sequences] * kv_heads;
    const int blocks = static_cast<int>(gridDim.x);
    per_block = (total + blocks - 1) / blocks;
    begin = min(total, static_cast<int>(blockIdx.x) * per_block);
    end = min(total, begin + per_block);
  }

  // The segment that begins at a unit of this block.
  __device__ Segment At(int unit) const {
    int low = 0, high = sequences;  // the sequence is in [low, high)
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_page[middle] * kv_heads <= unit ? low : high) = middle;
    }
    Segment s;
    s.sequence = low;
    s.pages = first_page[low + 1] - first_page[low];
    const int local = unit - first_page[low] * kv_heads;
    s.head = local / s.pages;
    s.first = local % s.pages;
    s.last = min(s.pages, s.first + end - unit);
    s.index = low * kv_heads + s.head;
    s.begin = unit - s.first;
    return s;
  }

  // Blocks that have a part of a head, from the first on.
  __device__ int FirstBlock(const Segment& s) const { return s.begin / per_block; }
  __device__ int Parts(const Segment& s) const {
    return (s.begin + s.pages - 1) / per_block - FirstBlock(s) + 1;
  }
  // Partial results lie in slots: block + index has one writer.
  __device__ int64_t Slot(const Segment& s) const { return blockIdx.x + s.index; }
  __device__ int64_t FirstSlot(const Segment& s) const { return FirstBlock(s) + s.index; }
};

__host__ __device__ inline int64_t Slots(int64_t blocks, int64_t sequences,
                                         int64_t kv_heads) {
  return blocks + sequences * kv_heads;
}
__host__ __device__ inline int64_t Align(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// True in every thread of the block that brings the last of a head's parts, which then
// sees all of them. The counter is zero again afterwards, for the next launch.
__device__ inline bool BroughtTheLast(int* arrived, int parts) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrived, 1) == parts - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

}  // namespace quire::kernels::cuda
