#pragma once

#include <cstdint>

#include "core/kernels/cuda/tuning.h"
#include "core/kernels/cuda/warp.cuh"

// How work over pages of many sequences is cut in equal parts. A unit is a page of one
// key/value head. The units of all sequences and heads stand in one line, and each block
// takes a part of it, in their order or another; what lies in its part of one head is a
// segment.
namespace quire::kernels::cuda {

struct Segment {
  int sequence;
  int head;         // key/value head
  int first, last;  // pages, from the sequence's first in the line
  int pages;        // of the sequence in the line
  int index;        // of (sequence, head)
  int begin;        // unit of the head's first page
};

// a / b of whole numbers below 2^22, b > 0: a line has no more units.
__device__ inline int Quotient(int a, int b) {
  const int q = __float2int_rz(__fdividef(static_cast<float>(a), static_cast<float>(b)));
  const int rest = a - q * b;  // rounding makes it one off at most
  return rest < 0 ? q - 1 : rest >= b ? q + 1 : q;
}

// first_page [sequences + 1]: pages of the sequences before, of one head.
struct WorkLine {
  const int32_t* first_page;
  int sequences;
  int kv_heads;
  int blocks;  // that have a part of it
  int block;   // which one is this
  int per_block = 0;
  int begin = 0, end = 0;  // units of this block
  int head_units = 0;      // from a head's first unit to the next one's, see BeginAtHeads
  int unused = 0;          // units before this block's that are nobody's

  __device__ WorkLine(const int32_t* first_page, int sequences, int kv_heads, int blocks,
                      int block)
      : first_page(first_page),
        sequences(sequences),
        kv_heads(kv_heads),
        blocks(blocks),
        block(block) {
    const int total = first_page[sequences] * kv_heads;
    per_block = Quotient(total + blocks - 1, blocks);
    begin = min(total, block * per_block);
    end = min(total, begin + per_block);
  }
  __device__ WorkLine(const int32_t* first_page, int sequences, int kv_heads)
      : WorkLine(first_page, sequences, kv_heads, static_cast<int>(gridDim.x),
                 static_cast<int>(blockIdx.x)) {}

  // Blocks begin where heads do, if all sequences have as many pages and no block gets
  // much more by it: a block with parts of two heads does twice what does not depend on
  // how much it reads. All lanes of a warp call it. Sequences without pages come last.
  // pages: PagesOfLane.
  __device__ void BeginAtHeads(int pages) {
    if (sequences > kWarp) return;
    const int each = __shfl_sync(kAll, pages, 0);
    const bool differs = __any_sync(kAll, pages != 0 && pages != each);
    const int heads = HeadsWith(pages, kv_heads);
    if (differs || each == 0) return;
    int size = Quotient(heads + blocks - 1, blocks) * each, units = each;
    if (heads <= blocks) {
      const int parts = min(each, Quotient(blocks, heads));
      size = Quotient(each + parts - 1, parts);
      units = Quotient(each + size - 1, size) * size;
    }
    if (size > per_block + per_block / 16 + tuning::kSparePages) return;
    const int total = heads * units;
    per_block = size;
    head_units = units;
    begin = min(total, block * size);
    end = min(total, begin + size);
    const int head = Quotient(begin, units);
    if (units > each) end = min(end, head * units + each);
    unused = head * (units - each);
  }

  // Of the lane-th sequence, one head's.
  __device__ static int PagesOfLane(const int32_t* first_page, int sequences) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    return lane < sequences ? first_page[lane + 1] - first_page[lane] : 0;
  }
  // Heads of those of at most kWarp sequences that have pages. All lanes of a warp call
  // it; pages: PagesOfLane.
  __device__ static int HeadsWith(int pages, int kv_heads) {
    return __popc(__ballot_sync(kAll, pages != 0)) * kv_heads;
  }

  // The segment that begins at a unit of this block.
  __device__ Segment At(int unit) const {
    if (head_units > 0) {
      const int index = Quotient(unit, head_units);
      const int sequence = Quotient(index, kv_heads);
      Segment s = Head(sequence, index - sequence * kv_heads);
      s.first = unit - s.begin;
      s.last = min(s.pages, s.first + end - unit);
      return s;
    }
    int low = 0, high = sequences;  // the sequence is in [low, high)
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_page[middle] * kv_heads <= unit ? low : high) = middle;
    }
    Segment s;
    s.sequence = low;
    s.pages = first_page[low + 1] - first_page[low];
    const int local = unit - first_page[low] * kv_heads;
    s.head = Quotient(local, s.pages);
    s.first = local - s.head * s.pages;
    s.last = min(s.pages, s.first + end - unit);
    s.index = low * kv_heads + s.head;
    s.begin = unit - s.first;
    return s;
  }

  // All of a head.
  __device__ Segment Head(int sequence, int head) const {
    Segment s;
    s.sequence = sequence;
    s.head = head;
    s.pages = first_page[sequence + 1] - first_page[sequence];
    s.first = 0;
    s.last = s.pages;
    s.index = sequence * kv_heads + head;
    s.begin = head_units > 0 ? s.index * head_units
                             : first_page[sequence] * kv_heads + head * s.pages;
    return s;
  }

  // Blocks that have a part of a head, from the first on.
  __device__ int FirstBlock(const Segment& s) const {
    return Quotient(s.begin, per_block);
  }
  __device__ int Parts(const Segment& s) const {
    return Quotient(s.begin + s.pages - 1, per_block) - FirstBlock(s) + 1;
  }
  // Partial results lie in slots: block + index has one writer.
  __device__ int64_t Slot(const Segment& s) const { return block + s.index; }
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
  __syncthreads();
  if (threadIdx.x == 0) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;\n"
                 : "=r"(before)
                 : "l"(arrived)
                 : "memory");
    last = before == parts - 1;
    if (last) *arrived = 0;
  }
  __syncthreads();
  return last;
}

}  // namespace quire::kernels::cuda
