#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/counter_rng/counter_rng.h"
#include "cuda/counter_rng/philox.cuh"

namespace cofi::counter_rng {
namespace {

constexpr int kThreads = 256;
constexpr int kPackBytes = 16;  // the widest load a thread has

template <typename T>
struct alignas(kPackBytes) Pack {
  static constexpr int kSize = kPackBytes / sizeof(T);
  T values[kSize];
};

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ __forceinline__ void narrow(float v, float* out) { *out = v; }
__device__ __forceinline__ void narrow(double v, double* out) { *out = v; }
__device__ __forceinline__ void narrow(float v, __half* out) { *out = __float2half_rn(v); }
__device__ __forceinline__ void narrow(float v, __nv_bfloat16* out) { *out = __float2bfloat16_rn(v); }

template <typename T>
using Wide = decltype(widen(T{}));

template <typename T>
__device__ __forceinline__ T drop_one(T x, const int64_t* state, int64_t index, int32_t threshold, Wide<T> scale) {
  const uint32_t word = first_word(state[0], state[1], index);
  T y;
  narrow(uniform_steps(word) >= threshold ? widen(x) * scale : Wide<T>{0}, &y);
  return y;
}

__global__ void uniform_kernel(const int64_t* __restrict__ state, float* __restrict__ u, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) u[i] = uniform(first_word(state[0], state[1], i));
}

// `packed`: both addresses allow 16-byte access. The last pack may be short in either case.
template <typename T>
__global__ void dropout_kernel(const T* __restrict__ x, T* __restrict__ y, const int64_t* __restrict__ state, int64_t n,
                               int32_t threshold, Wide<T> scale, bool packed) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kSize;
  if (packed && first + kSize <= n) {
    Pack<T> pack = *reinterpret_cast<const Pack<T>*>(x + first);
#pragma unroll
    for (int i = 0; i < kSize; ++i) pack.values[i] = drop_one(pack.values[i], state, first + i, threshold, scale);
    *reinterpret_cast<Pack<T>*>(y + first) = pack;
  } else {
    const int64_t end = first + kSize < n ? first + kSize : n;
    for (int64_t i = first; i < end; ++i) y[i] = drop_one(x[i], state, i, threshold, scale);
  }
}

unsigned blocks(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

template <typename T>
cudaError_t launch(const void* x, void* y, const int64_t* state, int64_t n, int32_t threshold, double scale,
                   cudaStream_t stream) {
  const bool packed = (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % kPackBytes == 0;
  dropout_kernel<T><<<blocks(n, kThreads * Pack<T>::kSize), kThreads, 0, stream>>>(
      static_cast<const T*>(x), static_cast<T*>(y), state, n, threshold, static_cast<Wide<T>>(scale), packed);
  return cudaGetLastError();
}

}  // namespace

cudaError_t uniform(const int64_t* state, float* u, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  uniform_kernel<<<blocks(n, kThreads), kThreads, 0, stream>>>(state, u, n);
  return cudaGetLastError();
}

cudaError_t dropout(Storage storage, const void* x, void* y, const int64_t* state, int64_t n, int32_t threshold,
                    double scale, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  switch (storage) {
    case Storage::float32:
      return launch<float>(x, y, state, n, threshold, scale, stream);
    case Storage::float16:
      return launch<__half>(x, y, state, n, threshold, scale, stream);
    case Storage::bfloat16:
      return launch<__nv_bfloat16>(x, y, state, n, threshold, scale, stream);
    case Storage::float64:
      return launch<double>(x, y, state, n, threshold, scale, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cofi::counter_rng
