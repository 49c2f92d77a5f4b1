// The machine of encoder.h on a GPU. Shared memory is named by offsets into the block's own, as ldmatrix, bulk copies
// and addresses in other blocks of a cluster need them. Instructions as the PTX manual (8.0) has them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

// wgmma.m64n96k16: its lanes hold the first factor as those of mma.m16n8k16 do, a warp for each 16 rows, and the sums
// too.
#define COFI_WGMMA_96(TYPE)                                                                                            \
  asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32." TYPE "." TYPE                                             \
               " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "                    \
               "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "                      \
               "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "                               \
               "{%48, %49, %50, %51}, %52, 1, 1, 1, 0;"                                                                \
               : COFI_FOUR(0, 0), COFI_FOUR(0, 1), COFI_FOUR(1, 0), COFI_FOUR(1, 1), COFI_FOUR(2, 0), COFI_FOUR(2, 1), \
                 COFI_FOUR(3, 0), COFI_FOUR(3, 1), COFI_FOUR(4, 0), COFI_FOUR(4, 1), COFI_FOUR(5, 0), COFI_FOUR(5, 1)  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define COFI_FOUR(J, N) "+f"(d[J][N][0]), "+f"(d[J][N][1]), "+f"(d[J][N][2]), "+f"(d[J][N][3])

struct Bf16 {
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
  static __device__ __forceinline__ float2 unpack(uint32_t pair) {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
  }
  static __device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  static __device__ __forceinline__ void multiply_add_wide(float (*d)[2][4], const uint32_t (&a)[4], uint64_t b) {
    COFI_WGMMA_96("bf16");
  }
};

struct Fp16 {
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
  static __device__ __forceinline__ float2 unpack(uint32_t pair) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
  }
  static __device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  static __device__ __forceinline__ void multiply_add_wide(float (*d)[2][4], const uint32_t (&a)[4], uint64_t b) {
    COFI_WGMMA_96("f16");
  }
};

// What every GPU from sm_80 on has.
template <class T>
class Gpu80 {
 public:
  static __device__ __forceinline__ float infinity() { return __int_as_float(0x7F800000); }

  explicit __device__ __forceinline__ Gpu80(const void* shared)
      : base_(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        warp_(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / kLanes, 0)) {}

  __device__ __forceinline__ int thread() const { return threadIdx.x; }
  __device__ __forceinline__ int warp() const { return warp_; }
  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ __forceinline__ void sync_warp() { __syncwarp(); }
  __device__ __forceinline__ void sync_block() { __syncthreads(); }

  __device__ __forceinline__ uint16_t load2(int at) {
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(base_ + at) : "memory");
    return v;
  }
  __device__ __forceinline__ uint32_t load4(int at) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(base_ + at) : "memory");
    return v;
  }
  __device__ __forceinline__ uint64_t load8(int at) {
    uint64_t v;
    asm volatile("ld.shared.u64 %0, [%1];" : "=l"(v) : "r"(base_ + at) : "memory");
    return v;
  }
  __device__ __forceinline__ void load16(uint32_t (&v)[4], int at) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(base_ + at)
                 : "memory");
  }
  __device__ __forceinline__ void store2(int at, uint16_t v) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(base_ + at), "h"(v) : "memory");
  }
  __device__ __forceinline__ void store4(int at, uint32_t v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(base_ + at), "r"(v) : "memory");
  }
  __device__ __forceinline__ void store8(int at, uint64_t v) {
    asm volatile("st.shared.u64 [%0], %1;" ::"r"(base_ + at), "l"(v) : "memory");
  }
  __device__ __forceinline__ void load_matrix(uint32_t (&r)[4], int at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(base_ + at)
                 : "memory");
  }
  __device__ __forceinline__ void load_transposed(uint32_t (&r)[4], int at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(base_ + at)
                 : "memory");
  }
  // Volatile: the compiler would fetch all of a sublayer's at once, and keep them in registers it does not have.
  __device__ __forceinline__ void load_pair(float (&v)[2], const float* at) {
    asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(v[0]), "=f"(v[1]) : "l"(at));
  }
  __device__ __forceinline__ uint64_t load_global8(const void* x, int64_t element) {
    return *reinterpret_cast<const uint64_t*>(static_cast<const uint16_t*>(x) + element);
  }
  __device__ __forceinline__ uint16_t load_global2(const void* x, int64_t element) {
    return static_cast<const uint16_t*>(x)[element];
  }
  __device__ __forceinline__ void store_global8(void* x, int64_t element, uint64_t v) {
    *reinterpret_cast<uint64_t*>(static_cast<uint16_t*>(x) + element) = v;
  }
  __device__ __forceinline__ void store_global2(void* x, int64_t element, uint16_t v) {
    static_cast<uint16_t*>(x)[element] = v;
  }

  __device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    T::multiply_add(d, a, b0, b1);
  }
  __device__ __forceinline__ float shuffle_xor(float v, int mask) { return __shfl_xor_sync(~0u, v, mask); }
  __device__ __forceinline__ uint32_t pack(float low, float high) { return T::pack(low, high); }
  __device__ __forceinline__ void unpack(uint32_t pair, float* low, float* high) {
    const float2 v = T::unpack(pair);
    *low = v.x;
    *high = v.y;
  }
  __device__ __forceinline__ float as_float(uint32_t word) { return __uint_as_float(word); }
  __device__ __forceinline__ uint32_t as_word(float v) { return __float_as_uint(v); }
  __device__ __forceinline__ float exp2(float v) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));  // 2 units of fp32, far below a rounding of bf16 or fp16
    return y;
  }
  __device__ __forceinline__ float reciprocal(float v) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));
    return y;
  }
  __device__ __forceinline__ float absolute(float v) { return fabsf(v); }
  __device__ __forceinline__ float rsqrt(float v) { return ::rsqrtf(v); }
  __device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }

 protected:
  const uint32_t base_;
  const int warp_;  // from a shuffle: the same for all lanes, and the compiler knows it
};

// Thread blocks of their own, each thread copies what it will read.
template <class T>
class SingleBlock : public Gpu80<T> {
 public:
  static constexpr bool kBulk = false;
  using Gpu80<T>::Gpu80;

  __device__ __forceinline__ int rank() const { return 0; }
  __device__ __forceinline__ int cluster() const { return blockIdx.x; }
  __device__ __forceinline__ void sync_cluster() { __syncthreads(); }
  __device__ __forceinline__ uint32_t block_of(int) const { return this->base_; }
  __device__ __forceinline__ void store4_in(uint32_t, int at, uint32_t v) { this->store4(at, v); }

  __device__ __forceinline__ void copy_16_bytes(int to, const char* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(this->base_ + to), "l"(from) : "memory");
  }
  __device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int kPending>
  __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  }

  // Of the other machine; never called here.
  __device__ __forceinline__ void barrier_init(int, int) {}
  __device__ __forceinline__ void barrier_init_fence() {}
  __device__ __forceinline__ void fence_copies() {}
  __device__ __forceinline__ void barrier_arrive(int, int) {}
  __device__ __forceinline__ void barrier_expect(int, int) {}
  __device__ __forceinline__ void barrier_wait(int, int) {}
  __device__ __forceinline__ void copy_to_all(int, const char*, int, int, int) {}
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// A cluster, its weights multicast to all of its thread blocks.
template <class T>
class ClusterOfBlocks : public Gpu80<T> {
 public:
  static constexpr bool kBulk = true;
  using Gpu80<T>::Gpu80;

  __device__ __forceinline__ int rank() const {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
  }
  __device__ __forceinline__ int cluster() const {
    uint32_t number;
    asm("mov.u32 %0, %%clusterid.x;" : "=r"(number));
    return static_cast<int>(number);
  }
  __device__ __forceinline__ void sync_cluster() {
    __syncwarp();  // .aligned: a warp's lanes come together
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n"
        "barrier.cluster.wait.acquire.aligned;" ::
            : "memory");
  }
  // What offsets into the shared memory of another thread block are added to.
  __device__ __forceinline__ uint32_t block_of(int rank) const {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(this->base_), "r"(rank));
    return address;
  }
  __device__ __forceinline__ void store4_in(uint32_t block, int at, uint32_t v) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(block + at), "r"(v) : "memory");
  }

  // Of a warpgroup: products from begin_wide to end_wide go on side by side; sums and first factors are in registers,
  // and theirs until the end.
  __device__ __forceinline__ void begin_wide() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
  __device__ __forceinline__ void multiply_add_wide(float (*sums)[2][4], const uint32_t (&a)[4], int blocks) {
    const uint64_t from = ((this->base_ + blocks) & 0x3FFFF) >> 4;  // addresses and steps in 16 bytes; no swizzle
    constexpr uint64_t kSteps =
        static_cast<uint64_t>(kWideInputStep / 16) << 16 | static_cast<uint64_t>(kWideOutputStep / 16) << 32;
    T::multiply_add_wide(sums, a, kSteps | from);
  }
  __device__ __forceinline__ void end_wide() {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  }

  __device__ __forceinline__ void barrier_init(int at, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(this->base_ + at), "r"(count) : "memory");
  }
  __device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  // What this thread wrote to shared memory comes before bulk copies to the same place.
  __device__ __forceinline__ void fence_copies() { asm volatile("fence.proxy.async;" ::: "memory"); }
  __device__ __forceinline__ void barrier_arrive(int rank, int at) {
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(block_of(rank) + at) : "memory");
  }
  __device__ __forceinline__ void barrier_expect(int at, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(this->base_ + at), "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ void barrier_wait(int at, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(this->base_ + at),
        "r"(parity)
        : "memory");
  }
  __device__ __forceinline__ void copy_to_all(int to, const char* from, int bytes, int barrier, int n_blocks) {
    if (n_blocks == 1) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       this->base_ + to),
                   "l"(from), "r"(bytes), "r"(this->base_ + barrier)
                   : "memory");
      return;
    }
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(this->base_ + to),
        "l"(from), "r"(bytes), "r"(this->base_ + barrier), "h"(static_cast<uint16_t>((1u << n_blocks) - 1))
        : "memory");
  }

  // Of the other machine; never called here.
  __device__ __forceinline__ void copy_16_bytes(int, const char*) {}
  __device__ __forceinline__ void commit_copies() {}
  template <int kPending>
  __device__ __forceinline__ void wait_copies() {}
};
#endif

}  // namespace cofi::compact_encoder
