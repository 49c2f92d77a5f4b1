// How long a plan may take. It ranks plans; nothing of it was held against a clock. README.md has the sums.
#pragma once

#include "cuda/compact_encoder/plan.h"

namespace cofi::compact_encoder {

double predict_us(const Plan& plan, const Gpu& gpu, const Batch& batch);

}  // namespace cofi::compact_encoder
