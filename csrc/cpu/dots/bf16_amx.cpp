// bf16 on AMX. Numbers below the smallest normal one count as 0.
#define COFI_PIECES 1
#define COFI_PAIRS {{0, 0}}
#include "cpu/dots/bf16_amx.inl"

namespace cofi::dots {

extern const Kernels kBf16Amx = {convert, multiply};

}  // namespace cofi::dots
