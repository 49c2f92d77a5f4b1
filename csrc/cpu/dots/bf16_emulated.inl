// bf16 on processors without its instructions: two fp32 products from the halves of 32 bits, after shifts.
#include <cstdint>

namespace cofi::dots {

struct Rows;
struct Columns;

namespace {

typedef int32_t Bits __attribute__((vector_size(COFI_LANES * 4)));
typedef float Sums __attribute__((vector_size(COFI_LANES * 4)));
typedef float Vector __attribute__((vector_size(COFI_LANES * 4), aligned(4), may_alias));

inline Sums lower(Bits pair) { return reinterpret_cast<Sums>(pair << 16); }
inline Sums upper(Bits pair) { return reinterpret_cast<Sums>(pair & static_cast<int32_t>(0xffff0000)); }

inline Sums dot(Sums sum, Bits a, Bits w) { return sum + lower(a) * lower(w) + upper(a) * upper(w); }

inline Vector finish(Sums sum, const Rows&, int, const Columns&, int64_t, Vector start) { return start + sum; }

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/bf16.inl"
