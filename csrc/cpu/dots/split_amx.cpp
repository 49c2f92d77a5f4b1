// fp32 on AMX. Neighbours in the list share a side.
#define COFI_PIECES 3
#define COFI_PAIRS                                    \
  {                                                   \
      {0, 2}, {0, 1}, {1, 1}, {1, 0}, {0, 0}, {2, 0}, \
  }
#include "cpu/dots/bf16_amx.inl"

namespace cofi::dots {

extern const Kernels kSplitAmx = {convert, multiply};

}  // namespace cofi::dots
