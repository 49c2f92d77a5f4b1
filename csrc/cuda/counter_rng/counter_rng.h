// Launchers of counter-based uniforms and dropout. Asynchronous on `stream`; all addresses are on its device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace cofi::counter_rng {

enum class Storage { float32, float16, bfloat16, float64 };

// state: [seed, offset], read on the device. u: n contiguous floats.
cudaError_t uniform(const int64_t* state, float* u, int64_t n, cudaStream_t stream);

// x, y: n contiguous elements. Keeps an element where its uniform's step number is at least `threshold`, and multiplies
// it by `scale`.
cudaError_t dropout(Storage storage, const void* x, void* y, const int64_t* state, int64_t n, int32_t threshold,
                    double scale, cudaStream_t stream);

}  // namespace cofi::counter_rng
