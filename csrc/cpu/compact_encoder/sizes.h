// Block sizes of the encoder.
#pragma once

#include <cstdint>

namespace cofi::compact_encoder {

constexpr int64_t kFfnBlock = 512;   // intermediate dims at a time; whole panels
constexpr int64_t kQueryBlock = 48;  // queries at a time: their scores for 512 keys are 96 KB

// Rows a thread takes through all layers at a time. Every pass reads all weights once, from the last-level cache
// where they fit it and from memory where they do not.
constexpr int64_t kRowsFew = 128, kRowsMany = 512;
constexpr int64_t kManyWeightBytes = 32 << 20;

// Tokens of a chunk for each thread, up to which threads share columns rather than rows: all weights are then read once
// and not by every thread, for a meeting after each product.
constexpr int64_t kShareColumnsBelow = 32;

// Tokens of a call from which on fp32 products are made by AMX where there is one, and about the least of its chunks
// then: three pieces of a weight are half as many bytes again to read, which few rows do not make good. BERT-base at
// 60 %, two threads, ms by AMX and by AVX-512: 64 tokens 31 and 24, 128 tokens 36 and 37 or 66 and 51, 256 tokens 55
// and 70; README.md has more. Of a call, since the size of a chunk depends on threads, and no bit may.
constexpr int64_t kFewestForPieces = 192;

constexpr int64_t kLeastWork = 1 << 20;  // multiplications that are worth a thread

}  // namespace cofi::compact_encoder
