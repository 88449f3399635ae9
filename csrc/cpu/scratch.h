// Working memory of a kernel: one buffer for each use and thread, kept between calls because fresh pages cost more than
// the copies made in them. A request above kKeptBytes is allocated for the call and freed after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "math/portable.h"

namespace nnart::cpu {
namespace {

enum class Use { tables, weight, bias, partial, source, gradient, pixels, tile, decisions, count };

constexpr int64_t kKeptBytes = int64_t{8} << 20;
constexpr std::align_val_t kCacheLine{64};

struct KeptBuffer {
  void* data = nullptr;
  int64_t bytes = 0;
  ~KeptBuffer() { ::operator delete(data, kCacheLine); }
};

thread_local KeptBuffer kept_buffers[int(Use::count)];

// n elements of T, uninitialized. At most one Scratch for each use may live in a thread.
template <class T>
class Scratch {
 public:
  NNART_HD Scratch(Use use, int64_t n) {
    int64_t bytes = n * int64_t(sizeof(T));
    if (bytes > kKeptBytes) {
      data_ = owned_ = ::operator new(size_t(bytes), kCacheLine);
      return;
    }
    KeptBuffer& kept = kept_buffers[int(use)];
    if (kept.bytes < bytes) {
      ::operator delete(kept.data, kCacheLine);
      kept.data = nullptr;
      kept.bytes = 0;
      kept.data = ::operator new(size_t(bytes), kCacheLine);
      kept.bytes = bytes;
    }
    data_ = kept.data;
  }
  NNART_HD ~Scratch() {
    if (owned_) ::operator delete(owned_, kCacheLine);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  NNART_HD T* data() const { return static_cast<T*>(data_); }

 private:
  void* data_ = nullptr;
  void* owned_ = nullptr;
};

}  // namespace
}  // namespace nnart::cpu
