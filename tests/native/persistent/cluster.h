// The state of a cluster of thread blocks: shared memory as bytes that start as NaN, barriers, copies under way.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/compact_encoder/tiles.h"
#include "fibers.h"

namespace emulated {

using cofi::compact_encoder::kLanes;
using cofi::compact_encoder::kThreads;
using cofi::compact_encoder::kWarps;

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

// All threads of a group wait for one another; the last to come does the work of all.
struct Meeting {
  int arrived = 0;
  int64_t round = 0;
};

struct Barrier {
  int expected = 0;
  int pending = 0;
  int64_t bytes = 0;
  int64_t phase = 0;

  void settle() {
    if (pending < 0) fail("more arrivals at a barrier than it counts");
    if (pending != 0 || bytes != 0) return;
    pending = expected;
    ++phase;
  }
};

struct Warp {
  Meeting meeting;
  uint32_t in[kLanes][4];
  uint32_t out[kLanes][4];  // written by the last to come alone
  uint32_t second[kLanes][2];
  float sums[kLanes][4];
};

struct Block {
  std::vector<unsigned char> shared;
  std::map<int, Barrier> barriers;
  Meeting meeting;
  Meeting groups[kWarps / cofi::compact_encoder::kGroupWarps];
  Warp warps[kWarps];
};

struct Copy {
  int block;
  int to;
  const char* from;
  int bytes;
  int barrier;  // -1: none
};

struct Cluster {
  std::vector<Block> blocks;
  std::vector<Copy> copies;
  Meeting meeting;
  Fibers fibers;
  int number = 0;
  std::mt19937 random;

  void finish(const Copy& copy) {
    Block& block = blocks[copy.block];
    if (copy.to < 0 || copy.to + copy.bytes > static_cast<int>(block.shared.size()))
      fail("a copy outside shared memory");
    std::memcpy(block.shared.data() + copy.to, copy.from, copy.bytes);
    if (copy.barrier < 0) return;
    Barrier& barrier = block.barriers.at(copy.barrier);
    barrier.bytes -= copy.bytes;
    barrier.settle();
  }

  // Some of the copies under way.
  bool progress() {
    bool any = false;
    for (std::size_t i = 0; i < copies.size();) {
      if (random() % 3 != 0) {
        ++i;
        continue;
      }
      finish(copies[i]);
      copies.erase(copies.begin() + i);
      any = true;
    }
    return any || !copies.empty();
  }
};

}  // namespace emulated
