#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/counter_rng/counter_rng.h"
#include "cuda/counter_rng/philox.cuh"

namespace cofi::counter_rng {
namespace {

constexpr int kThreads = 256;
constexpr int kAccessBytes = 16;  // the widest load a thread has

// What a thread works on: the elements of whole Philox blocks, in whole accesses.
template <typename T>
struct alignas(kAccessBytes) Pack {
  static constexpr int kAccess = kAccessBytes / sizeof(T);
  static constexpr int kSize = kAccess > kBlockWords ? kAccess : kBlockWords;
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

// `packed`: the address allows access by kAccessBytes. The last pack may be short in either case.
template <typename T>
__device__ __forceinline__ Pack<T> load(const T* x, int64_t first, int64_t n, bool packed) {
  if (packed && first + Pack<T>::kSize <= n) return *reinterpret_cast<const Pack<T>*>(x + first);
  Pack<T> pack{};
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    if (first + i < n) pack.values[i] = x[first + i];
  }
  return pack;
}

template <typename T>
__device__ __forceinline__ void store(const Pack<T>& pack, T* y, int64_t first, int64_t n, bool packed) {
  if (packed && first + Pack<T>::kSize <= n) {
    *reinterpret_cast<Pack<T>*>(y + first) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) {
    if (first + i < n) y[first + i] = pack.values[i];
  }
}

template <typename T>
__device__ __forceinline__ int64_t first_of_thread() {
  return (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * Pack<T>::kSize;
}

__global__ void uniform_kernel(const int64_t* __restrict__ state, float* __restrict__ u, int64_t n, bool packed) {
  const int64_t first = first_of_thread<float>();
  const Words words = element_words(state[0], state[1], first / kBlockWords);
  Pack<float> pack;
#pragma unroll
  for (int i = 0; i < kBlockWords; ++i) pack.values[i] = uniform(words.of[i]);
  store(pack, u, first, n, packed);
}

template <typename T>
__global__ void dropout_kernel(const T* __restrict__ x, T* __restrict__ y, const int64_t* __restrict__ state, int64_t n,
                               int32_t threshold, Wide<T> scale, bool packed) {
  const int64_t first = first_of_thread<T>();
  Pack<T> pack = load(x, first, n, packed);
#pragma unroll
  for (int block = 0; block < Pack<T>::kSize / kBlockWords; ++block) {
    const Words words = element_words(state[0], state[1], first / kBlockWords + block);
#pragma unroll
    for (int i = 0; i < kBlockWords; ++i) {
      T& value = pack.values[block * kBlockWords + i];
      narrow(uniform_steps(words.of[i]) >= threshold ? widen(value) * scale : Wide<T>{0}, &value);
    }
  }
  store(pack, y, first, n, packed);
}

bool accessible(const void* address) { return reinterpret_cast<uintptr_t>(address) % kAccessBytes == 0; }

unsigned blocks(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

template <typename T>
cudaError_t launch(const void* x, void* y, const int64_t* state, int64_t n, int32_t threshold, double scale,
                   cudaStream_t stream) {
  const bool packed = accessible(x) && accessible(y);
  dropout_kernel<T><<<blocks(n, kThreads * Pack<T>::kSize), kThreads, 0, stream>>>(
      static_cast<const T*>(x), static_cast<T*>(y), state, n, threshold, static_cast<Wide<T>>(scale), packed);
  return cudaGetLastError();
}

}  // namespace

cudaError_t uniform(const int64_t* state, float* u, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  uniform_kernel<<<blocks(n, kThreads * Pack<float>::kSize), kThreads, 0, stream>>>(state, u, n, accessible(u));
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
