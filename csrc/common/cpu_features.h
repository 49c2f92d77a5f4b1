// Which vector instructions a kernel may use. A kernel with several versions asks `isa()` at each call.
#pragma once

namespace cofi {

// Ordered: a machine has all levels up to its own.
enum class Isa { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };

// The best level of this processor up to avx512, or the limit set below where that is lower.
//   avx2:   AVX2, FMA, F16C                  files named *_avx2.cpp
//   avx512: avx2 and AVX-512 F, BW, DQ, VL   files named *_avx512.cpp
Isa isa();

// Whether avx512 is in use and the processor has its 8-bit dot products (VNNI): files named *_vnni.cpp.
bool has_vnni();

// The same of its bf16 dot products: files named *_avx512bf16.cpp.
bool has_bf16();

// Whether it has AMX with tiles of int8 and bf16 (and then VNNI and bf16 dot products), the operating system lets this
// process use it, and the limit is not lower: files named *_amx.cpp.
bool has_amx();

// Use at most `limit` from now on, in every thread: so that tests can run each version of a kernel.
void limit_isa(Isa limit);

}  // namespace cofi
