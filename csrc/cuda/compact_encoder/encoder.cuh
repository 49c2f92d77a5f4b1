// Launcher of the persistent encoder. Asynchronous on `stream`; all addresses are on its device.
#pragma once

#include <cuda_runtime.h>

#include "cuda/compact_encoder/plan.h"

namespace cofi::compact_encoder {

cudaError_t launch_encoder(const Arguments& arguments, bool is_fp16, cudaStream_t stream);

// What the planner is to know of the current device and of the code that was loaded there: that of sm_80 knows no
// clusters.
cudaError_t describe_gpu(Gpu* gpu);

}  // namespace cofi::compact_encoder
