// Launcher of the persistent encoder. Asynchronous on `stream`; all addresses are on its device.
#pragma once

#include <cuda_runtime.h>

#include "cuda/compact_encoder/sizes.h"

namespace cofi::compact_encoder {

cudaError_t launch_encoder(const Arguments& arguments, bool is_fp16, cudaStream_t stream);

// Most thread blocks of a cluster that the code loaded on the current device can use: 1 where it is that of sm_80.
cudaError_t most_cluster(int* blocks);

}  // namespace cofi::compact_encoder
