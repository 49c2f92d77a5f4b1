#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/compact_encoder/device.cuh"
#include "cuda/compact_encoder/encoder.cuh"
#include "cuda/compact_encoder/encoder.h"

namespace cofi::compact_encoder {
namespace {

template <class T, int kRowGroups>
__global__ void __launch_bounds__(kThreads, 1) encoder_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ __align__(128) unsigned char shared[];
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  ClusterOfBlocks<T> machine(shared);
  encode<Cut<kRowGroups, is_wide(kRowGroups, true)>>(machine, a);
#else
  SingleBlock<T> machine(shared);
  encode<Cut<kRowGroups, false>>(machine, a);
#endif
}

using Kernel = void (*)(Arguments);

Kernel kernel_of(bool is_fp16, int row_groups) {
  if (row_groups == 2) return is_fp16 ? encoder_kernel<Fp16, 2> : encoder_kernel<Bf16, 2>;
  if (row_groups == 4) return is_fp16 ? encoder_kernel<Fp16, 4> : encoder_kernel<Bf16, 4>;
  return nullptr;
}

constexpr std::array<std::pair<bool, int>, 4> kKernels{{{false, 2}, {false, 4}, {true, 2}, {true, 4}}};

// Calls f(kernel) for all until one fails.
template <class F>
cudaError_t for_kernels(F f) {
  for (const auto& [is_fp16, row_groups] : kKernels) {
    const cudaError_t status = f(kernel_of(is_fp16, row_groups));
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

struct Device {
  int number = -1;
  int shared_bytes = 0;  // that a thread block may have
  bool has_clusters = false;
};

cudaError_t prepare(Device* device) {
  cudaError_t status =
      cudaDeviceGetAttribute(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device->number);
  if (status != cudaSuccess) return status;
  cudaFuncAttributes attributes;
  status = cudaFuncGetAttributes(&attributes, kernel_of(false, 2));
  if (status != cudaSuccess) return status;
  device->has_clusters = attributes.ptxVersion >= 90;
  return for_kernels([&](Kernel kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device->shared_bytes);
  });
}

// The current device, prepared at the first call. Its kernels may have all the shared memory there is from then on: a
// limit set for each launch could be lowered by another thread before the launch is made.
cudaError_t current_device(Device* found) {
  static std::mutex mutex;
  static std::map<int, Device> known;
  int number = 0;
  cudaError_t status = cudaGetDevice(&number);
  if (status != cudaSuccess) return status;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto at = known.find(number);
  if (at != known.end()) {
    *found = at->second;
    return cudaSuccess;
  }
  found->number = number;
  status = prepare(found);
  if (status == cudaSuccess) known[number] = *found;
  return status;
}

// A launch of `clusters` of `size` thread blocks; `attribute` must outlive it. Where there are clusters one is named
// even for single thread blocks, since the kernel asks for its number.
cudaLaunchConfig_t launch_of(const Device& device, int clusters, int size, int shared_bytes, cudaStream_t stream,
                             cudaLaunchAttribute* attribute) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(clusters * size);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  config.attrs = attribute;
  config.numAttrs = device.has_clusters ? 1 : 0;
  return config;
}

// How many clusters of `size` thread blocks run at once, of the kernel of which fewest do.
cudaError_t count_resident(const Device& device, int size, int* resident) {
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = launch_of(device, 1, size, device.shared_bytes, nullptr, &attribute);
  *resident = std::numeric_limits<int>::max();
  return for_kernels([&](Kernel kernel) {
    int found = 0;
    const cudaError_t status = cudaOccupancyMaxActiveClusters(&found, kernel, &config);
    *resident = std::min(*resident, found);
    return status;
  });
}

}  // namespace

cudaError_t launch_encoder(const Arguments& a, bool is_fp16, cudaStream_t stream) {
  const Kernel kernel = kernel_of(is_fp16, a.tile.row_groups);
  Device device;
  const cudaError_t status = current_device(&device);
  if (status != cudaSuccess) return status;
  const bool wide = is_wide(a.tile.row_groups, device.has_clusters);  // as the kernel was compiled
  if (kernel == nullptr || (a.tile.cluster > 1 && !device.has_clusters) || a.tile.teams != teams_of(wide)) {
    return cudaErrorInvalidValue;
  }
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = launch_of(device, a.clusters, a.tile.cluster, a.tile.bytes, stream, &attribute);
  return cudaLaunchKernelEx(&config, kernel, a);
}

cudaError_t describe_gpu(Gpu* gpu) {
  Device device;
  cudaError_t status = current_device(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&gpu->multiprocessors, cudaDevAttrMultiProcessorCount, device.number);
  gpu->shared_bytes = device.shared_bytes;
  gpu->max_cluster = device.has_clusters ? kMaxCluster : 1;
  gpu->resident = {gpu->multiprocessors};  // alone, one on each: registers allow no second one
  for (int i = 0; status == cudaSuccess && device.has_clusters && i < kClusterSizes; ++i) {
    status = count_resident(device, 1 << i, &gpu->resident[i]);
  }
  return status;
}

}  // namespace cofi::compact_encoder
