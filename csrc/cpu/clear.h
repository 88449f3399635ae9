// Setting memory to zero.
#pragma once

#include "cpu/streaming.h"

namespace nnart::cpu {
namespace {

// From so many bytes on, glibc's memset is one string instruction.
constexpr int64_t kStringBytes = 2048;

// p[i] = 0 for i < n. By vectors where memset would use the string instruction: on AMD's Zen 4 they are 1.3 to 3 times
// as fast in the caches, and 1.5 times in memory.
template <class T>
NNART_HD void clear(T* p, int64_t n) {
  char* to = reinterpret_cast<char*>(p);
  int64_t bytes = n * int64_t(sizeof(T));
  if (bytes >= kStringBytes) {
    Vec<float> zero(0);
    keep_in_register(zero);  // a zero that the compiler knows makes the loop a call of memset
    for (; bytes >= 4 * kVectorBytes; bytes -= 4 * kVectorBytes)
      for (int k = 0; k < 4; ++k, to += kVectorBytes) store_streaming(reinterpret_cast<float*>(to), zero);
  }
  std::memset(to, 0, size_t(bytes));
}

}  // namespace
}  // namespace nnart::cpu
