// Division by a number that a launch knows, without the 20 instructions that a division of 32 bits takes, or the 70 of
// one of 64 bits.
#pragma once

#include <cstdint>

namespace nnart::cuda {

// n / divisor for both below 2^31 is the upper half of a product, shifted (Granlund and Montgomery 1994, "Division by
// Invariant Integers using Multiplication").
inline void find_multiplier(uint32_t divisor, uint32_t& multiplier, uint32_t& shift) {
  shift = 0;
  while ((uint64_t{1} << shift) < divisor) ++shift;
  multiplier = divisor == 0 ? 0 : uint32_t((((uint64_t{1} << shift) - divisor) << 32) / divisor + 1);
}
__device__ __forceinline__ uint32_t quotient(uint32_t n, uint32_t multiplier, uint32_t shift) {
  return (__umulhi(n, multiplier) + n) >> shift;
}

// n / divisor for 0 <= n <= largest.
class Divisor {
 public:
  Divisor(int64_t divisor, int64_t largest)
      : divisor_(divisor), is_short_(largest < (int64_t{1} << 31) && divisor < (int64_t{1} << 31)) {
    if (is_short_) find_multiplier(uint32_t(divisor), multiplier_, shift_);
  }

  __device__ __forceinline__ int64_t divide(int64_t n) const {
    return is_short_ ? int64_t(quotient(uint32_t(n), multiplier_, shift_)) : n / divisor_;
  }
  __device__ __forceinline__ int64_t rest(int64_t n, int64_t quotient) const {
    return is_short_ ? int64_t(uint32_t(n) - uint32_t(quotient) * uint32_t(divisor_)) : n - quotient * divisor_;
  }
  __host__ __device__ __forceinline__ int64_t number() const { return divisor_; }

 private:
  int64_t divisor_;
  uint32_t multiplier_ = 0, shift_ = 0;
  bool is_short_;
};

// Both results of a division.
struct Division {
  int64_t quotient, rest;
};
__device__ __forceinline__ Division divide(int64_t n, const Divisor& by) {
  int64_t quotient = by.divide(n);
  return {quotient, by.rest(n, quotient)};
}

}  // namespace nnart::cuda
