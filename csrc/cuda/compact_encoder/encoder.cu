#include "cuda/compact_encoder/device.cuh"
#include "cuda/compact_encoder/encoder.cuh"
#include "cuda/compact_encoder/encoder.h"

namespace cofi::compact_encoder {
namespace {

template <class T, int kGroups>
__global__ void __launch_bounds__(kThreads, 1) encoder_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ __align__(128) unsigned char shared[];
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  ClusterOfBlocks<T> machine(shared);
#else
  SingleBlock<T> machine(shared);
#endif
  encode<kGroups>(machine, a);
}

using Kernel = void (*)(Arguments);

Kernel kernel_of(bool is_fp16, int row_groups) {
  if (row_groups == 2) return is_fp16 ? encoder_kernel<Fp16, 2> : encoder_kernel<Bf16, 2>;
  if (row_groups == 4) return is_fp16 ? encoder_kernel<Fp16, 4> : encoder_kernel<Bf16, 4>;
  return nullptr;
}

// The launch; `cluster` must outlive it.
cudaLaunchConfig_t launch_of(const Arguments& a, cudaStream_t stream, cudaLaunchAttribute* cluster) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(a.clusters * a.tile.cluster);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = a.tile.bytes;
  config.stream = stream;
  cluster->id = cudaLaunchAttributeClusterDimension;
  cluster->val.clusterDim = {static_cast<unsigned>(a.tile.cluster), 1, 1};
  config.attrs = cluster;
  config.numAttrs = a.tile.cluster > 1 ? 1 : 0;
  return config;
}

}  // namespace

cudaError_t launch_encoder(const Arguments& a, bool is_fp16, cudaStream_t stream) {
  const Kernel kernel = kernel_of(is_fp16, a.tile.row_groups);
  if (kernel == nullptr) return cudaErrorInvalidValue;
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, a.tile.bytes);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = launch_of(a, stream, &cluster);
  return cudaLaunchKernelEx(&config, kernel, a);
}

cudaError_t most_cluster(int* blocks) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel_of(false, 2));
  if (status == cudaSuccess) *blocks = attributes.ptxVersion >= 90 ? kMaxCluster : 1;
  return status;
}

}  // namespace cofi::compact_encoder
