// Memory for the length of a call, kept by its thread for the next one.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace cofi {

// A buffer of floats on a cache-line boundary that only ever grows. Not initialised.
class Buffer {
 public:
  // At least n elements of T; invalidates what an earlier call returned.
  template <typename T>
  T* at_least(int64_t n) {
    const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64 + 64;
    if (bytes > bytes_) {
      data_.reset();
      bytes_ = 0;
      void* memory = std::aligned_alloc(64, bytes);
      if (memory == nullptr) throw std::bad_alloc();
      data_.reset(memory);
      bytes_ = bytes;
    }
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

// Memory of a vector on a cache-line boundary: malloc's is 16 bytes off one, and every 64-byte load would touch two.
template <typename T>
struct LineAligned {
  using value_type = T;
  LineAligned() = default;
  template <typename U>
  LineAligned(const LineAligned<U>&) {}  // NOLINT: allocators convert
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, std::align_val_t{64}); }
  friend bool operator==(const LineAligned&, const LineAligned&) { return true; }
  friend bool operator!=(const LineAligned&, const LineAligned&) { return false; }
};

}  // namespace cofi
