// What the kernel asks of a GPU, lane by lane on the host. Copies are late on purpose: those of a thread's own are done
// when it waits for them, others some random time after they were started.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cluster.h"
#include "numbers.h"

namespace emulated {

template <class T, bool kWithBulk>
class Machine {
 public:
  static constexpr bool kBulk = kWithBulk;
  static float infinity() { return std::numeric_limits<float>::infinity(); }

  Machine(Cluster& cluster, int index) : cluster_(cluster), rank_(index / kThreads), thread_(index % kThreads) {}

  int thread() const { return thread_; }
  int warp() const { return thread_ / kLanes; }
  int lane() const { return thread_ % kLanes; }
  int rank() const { return rank_; }
  int cluster() const { return cluster_.number; }

  void sync_warp() {
    meet(my_warp().meeting, kLanes, [] {});
  }
  void sync_block() {
    meet(block().meeting, kThreads, [] {});
  }
  void sync_cluster() {
    meet(cluster_.meeting, kThreads * static_cast<int>(cluster_.blocks.size()), [] {});
  }

  uint32_t load4(int at) { return load<uint32_t>(at); }
  uint64_t load8(int at) { return load<uint64_t>(at); }
  uint16_t load2(int at) { return load<uint16_t>(at); }
  void load16(uint32_t (&words)[4], int at) {
    check(rank_, at, 16, 16);
    std::memcpy(words, block().shared.data() + at, 16);
  }
  void store4(int at, uint32_t v) { store(rank_, at, v); }
  void store8(int at, uint64_t v) { store(rank_, at, v); }
  void store2(int at, uint16_t v) { store(rank_, at, v); }
  int block_of(int rank) const { return rank; }
  void store4_in(int block, int at, uint32_t v) { store(block, at, v); }
  void load_pair(float (&v)[2], const float* at) { std::memcpy(v, at, 8); }
  uint64_t load_global8(const void* x, int64_t element) { return global<uint64_t>(x, element); }
  uint16_t load_global2(const void* x, int64_t element) { return global<uint16_t>(x, element); }
  void store_global8(void* x, int64_t element, uint64_t v) { std::memcpy(static_cast<char*>(x) + 2 * element, &v, 8); }
  void store_global2(void* x, int64_t element, uint16_t v) { std::memcpy(static_cast<char*>(x) + 2 * element, &v, 2); }

  // ldmatrix.x4: lane 8 i + r names row r of matrix i; lane l gets elements 2 (l % 4), + 1 of row l / 4 of each.
  void load_matrix(uint32_t (&r)[4], int at) { load_matrices(r, at, false); }
  // The same of the transposed matrices.
  void load_transposed(uint32_t (&r)[4], int at) { load_matrices(r, at, true); }

  // mma.m16n8k16, as the PTX manual lays its fragments out.
  void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Warp& w = my_warp();
    std::memcpy(w.in[lane()], a, 16);
    w.second[lane()][0] = b0;
    w.second[lane()][1] = b1;
    std::memcpy(w.sums[lane()], sum, 16);
    meet(w.meeting, kLanes, [&w] { multiply(w); });
    std::memcpy(sum, w.sums[lane()], 16);
  }

  // wgmma of a warp's 16 rows. All is read when it is waited for: what was overwritten until then is wrong.
  void begin_wide() {
    if (!wide_.empty()) fail("products were begun before others had ended");
  }
  void multiply_add_wide(float (*sums)[2][4], const uint32_t (&a)[4], int blocks) {
    wide_.push_back({sums, &a, blocks});
  }
  void end_wide() {
    meet(block().groups[warp() / cofi::compact_encoder::kGroupWarps], cofi::compact_encoder::kGroupWarps * kLanes,
         [] {});
    for (const Wide& w : wide_) {
      for (int i = 0; i < 2 * cofi::compact_encoder::kWideBlocks; ++i) {  // 8 columns each
        const int at = w.blocks + i * cofi::compact_encoder::kWideOutputStep + lane() / 4 * 16 + lane() % 4 * 4;
        multiply_add(w.sums[i / 2][i % 2], *w.a, load4(at), load4(at + cofi::compact_encoder::kWideInputStep));
      }
    }
    wide_.clear();
  }

  float shuffle_xor(float v, int mask) {
    Warp& w = my_warp();
    std::memcpy(&w.in[lane()][0], &v, 4);
    meet(w.meeting, kLanes, [&w] { std::memcpy(w.out, w.in, sizeof w.in); });
    float other;
    std::memcpy(&other, &w.out[lane() ^ mask][0], 4);
    return other;
  }

  uint32_t pack(float low, float high) { return T::bits(low) | static_cast<uint32_t>(T::bits(high)) << 16; }
  void unpack(uint32_t pair, float* low, float* high) {
    *low = T::value(pair & 0xFFFF);
    *high = T::value(pair >> 16);
  }
  float as_float(uint32_t word) {
    float v;
    std::memcpy(&v, &word, 4);
    return v;
  }
  uint32_t as_word(float v) {
    uint32_t word;
    std::memcpy(&word, &v, 4);
    return word;
  }
  float exp2(float v) { return std::exp2(v); }
  float reciprocal(float v) { return 1.0f / v; }
  float absolute(float v) { return std::fabs(v); }
  float rsqrt(float v) { return 1.0f / std::sqrt(v); }
  float larger(float a, float b) { return std::fmax(a, b); }

  void barrier_init(int at, int count) {
    check(rank_, at, 8, 8);
    block().barriers[at] = Barrier{count, count, 0, 0};
  }
  void barrier_init_fence() {}
  void fence_copies() {}
  void barrier_arrive(int rank, int at) { arrive(cluster_.blocks[rank].barriers.at(at), 0); }
  void barrier_expect(int at, int bytes) { arrive(block().barriers.at(at), bytes); }
  void barrier_wait(int at, int parity) {
    const Barrier& barrier = block().barriers.at(at);
    cluster_.fibers.wait([&] { return (barrier.phase & 1) != parity; });
  }
  void copy_to_all(int to, const char* from, int bytes, int barrier, int n_blocks) {
    if (bytes <= 0 || bytes % 16 != 0 || to % 16 != 0) fail("bulk copies are of 16 bytes");
    for (int rank = 0; rank < n_blocks; ++rank) cluster_.copies.push_back({rank, to, from, bytes, barrier});
  }

  void copy_16_bytes(int to, const char* from) {
    check(rank_, to, 16, 16);
    group_.push_back({rank_, to, from, 16, -1});
  }
  void commit_copies() {
    groups_.push_back(std::move(group_));
    group_.clear();
  }
  template <int kPending>
  void wait_copies() {
    while (groups_.size() > kPending) {
      for (const Copy& copy : groups_.front()) cluster_.finish(copy);
      groups_.erase(groups_.begin());
    }
  }

 private:
  template <class Work>
  void meet(Meeting& meeting, int n, Work work) {
    const int64_t round = meeting.round;
    if (++meeting.arrived == n) {
      work();
      meeting.arrived = 0;
      ++meeting.round;
    }
    cluster_.fibers.wait([&] { return meeting.round != round; });
  }

  void load_matrices(uint32_t (&r)[4], int at, bool is_transposed) {
    check(rank_, at, 16, 16);
    Warp& w = my_warp();
    std::memcpy(w.in[lane()], block().shared.data() + at, 16);
    meet(w.meeting, kLanes, [&w, is_transposed] {
      uint16_t rows[kLanes][8];
      std::memcpy(rows, w.in, sizeof rows);
      for (int l = 0; l < kLanes; ++l) {
        for (int i = 0; i < 4; ++i) {
          const int g = l / 4, t = l % 4 * 2;
          const uint32_t low = is_transposed ? rows[8 * i + t][g] : rows[8 * i + g][t];
          const uint32_t high = is_transposed ? rows[8 * i + t + 1][g] : rows[8 * i + g][t + 1];
          w.out[l][i] = low | high << 16;
        }
      }
    });
    std::memcpy(r, w.out[lane()], 16);
  }

  static void multiply(Warp& w) {
    float a[16][16], b[16][8];
    for (int l = 0; l < kLanes; ++l) {
      const int g = l / 4, t = l % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 2; ++e) a[g + i % 2 * 8][t + i / 2 * 8 + e] = T::value(w.in[l][i] >> 16 * e & 0xFFFF);
      }
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < 2; ++e) b[t + i * 8 + e][g] = T::value(w.second[l][i] >> 16 * e & 0xFFFF);
      }
    }
    for (int l = 0; l < kLanes; ++l) {
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k) w.sums[l][i] += a[row][k] * b[k][column];
      }
    }
  }

  void arrive(Barrier& barrier, int bytes) {
    barrier.bytes += bytes;
    --barrier.pending;
    barrier.settle();
  }

  template <class V>
  V load(int at) {
    check(rank_, at, sizeof(V), sizeof(V));
    V v;
    std::memcpy(&v, block().shared.data() + at, sizeof v);
    return v;
  }
  template <class V>
  void store(int rank, int at, V v) {
    check(rank, at, sizeof(V), sizeof(V));
    std::memcpy(cluster_.blocks[rank].shared.data() + at, &v, sizeof v);
  }
  template <class V>
  static V global(const void* x, int64_t element) {
    V v;
    std::memcpy(&v, static_cast<const char*>(x) + 2 * element, sizeof v);
    return v;
  }
  void check(int rank, int at, int bytes, int alignment) const {
    const int size = static_cast<int>(cluster_.blocks[rank].shared.size());
    if (at < 0 || at + bytes > size || at % alignment != 0) {
      fail("access of " + std::to_string(bytes) + " bytes at " + std::to_string(at) + " of " + std::to_string(size));
    }
  }
  Block& block() { return cluster_.blocks[rank_]; }
  Warp& my_warp() { return block().warps[warp()]; }

  Cluster& cluster_;
  const int rank_;
  const int thread_;
  struct Wide {
    float (*sums)[2][4];
    const uint32_t (*a)[4];
    int blocks;
  };

  std::vector<Wide> wide_;
  std::vector<Copy> group_;
  std::vector<std::vector<Copy>> groups_;
};

}  // namespace emulated
