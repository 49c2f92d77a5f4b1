// The weights on their way to the tensor cores: stages pass through kStages slots of shared memory, in the one order in
// which all warps read them, from the first tile of a cluster to its last.
//
// With bulk copies each thread block of a cluster fetches its share of a stage and sends it to all. A slot is full when
// all its bytes have come, and empty when every warp of the cluster has read it. Without, each thread copies exactly
// the 16 bytes of each block that it will read itself: nothing needs to be awaited but its own copies.
#pragma once

#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

template <class M>
class Ring {
 public:
  // Call in all threads, before sync_cluster.
  static COFI_KERNEL void initialize(M& m, const Tile& tile) {
    if (!M::kBulk) return;
    m.fence_copies();  // the ring's place was written to before
    if (m.thread() != 0) return;
    for (int slot = 0; slot < kStages; ++slot) {
      m.barrier_init(full(tile, slot), 1);
      m.barrier_init(empty(tile, slot), kWarps * tile.cluster);
    }
    m.barrier_init_fence();
  }

  // After sync_cluster.
  COFI_KERNEL Ring(M& m, const Arguments& a, int n_tiles) : m_(m), a_(a), n_(n_tiles * a.model.n_stages) {
    if (n_ > 0 && is_producer()) next_ = a_.stages[0];
    for (int i = 0; i + 1 < kStages; ++i) produce(i);
  }

  // The offset of the next stage in shared memory, when it is there.
  COFI_KERNEL int acquire() {
    produce(used_ + kStages - 1);
    const int slot = used_ % kStages;
    if (M::kBulk) {
      m_.barrier_wait(full(a_.tile, slot), used_ / kStages & 1);
      m_.sync_warp();  // one lane was busy with the copies: what follows is for warps that are together
    } else {
      m_.template wait_copies<kStages - 1>();
    }
    return offset(slot);
  }

  // The calling warp has read the stage.
  COFI_KERNEL void release() {
    if (M::kBulk) {
      m_.sync_warp();
      if (m_.lane() < a_.tile.cluster) m_.barrier_arrive(m_.lane(), empty(a_.tile, used_ % kStages));
    }
    ++used_;
  }

 private:
  static COFI_KERNEL int full(const Tile& tile, int slot) { return tile.barriers + 8 * slot; }
  static COFI_KERNEL int empty(const Tile& tile, int slot) { return tile.barriers + 8 * (kStages + slot); }
  COFI_KERNEL int offset(int slot) const { return a_.tile.ring + slot * a_.tile.stage_blocks * kBlockBytes; }

  COFI_KERNEL bool is_producer() const { return !M::kBulk || m_.thread() == 0; }

  // Starts to copy stage i of all into the slot that was read longest ago.
  COFI_KERNEL void produce(int i) {
    if (i < n_ && is_producer()) {
      if (M::kBulk) {
        copy_share(i % kStages, i / kStages);
      } else {
        copy_own(offset(i % kStages));
      }
      at_ = at_ + 1 == a_.model.n_stages ? 0 : at_ + 1;
      if (i + 1 < n_) next_ = a_.stages[at_];
    }
    if (!M::kBulk) m_.commit_copies();
  }

  COFI_KERNEL void copy_share(int slot, int round) {
    const int bytes = next_.count * kBlockBytes, share = bytes / a_.tile.cluster, begin = m_.rank() * share;
    if (round > 0) m_.barrier_wait(empty(a_.tile, slot), (round - 1) & 1);
    m_.barrier_expect(full(a_.tile, slot), bytes);
    m_.copy_to_all(offset(slot) + begin, weights() + begin, share, full(a_.tile, slot), a_.tile.cluster);
  }

  COFI_KERNEL void copy_own(int slot) {
    const int warp_blocks = ceil_div(next_.row, kWarps), warp = m_.warp();
    if (warp < next_.first_team || warp >= next_.end_team) return;
    const bool is_whole = next_.first_team == 0 && next_.end_team == kWarps;
    const int row = is_whole ? next_.row : next_.count, skipped = next_.first_team * warp_blocks;
    const int first = warp * warp_blocks - skipped, end = least(row, first + warp_blocks);
    for (int base = 0; base < next_.count; base += row) {
      for (int block = base + first; block < base + end; ++block) {
        const int byte = block * kBlockBytes + m_.lane() * 16;
        m_.copy_16_bytes(slot + byte, weights() + byte);
      }
    }
  }

  COFI_KERNEL const char* weights() const {
    return static_cast<const char*>(a_.weights) + static_cast<int64_t>(next_.first) * kBlockBytes;
  }

  M& m_;
  const Arguments& a_;
  int n_;         // stages in all
  int used_ = 0;  // stages that this warp has read
  int at_ = 0;    // the next one to be copied, of a pass over the weights
  Stage next_{};
};

}  // namespace cofi::compact_encoder
