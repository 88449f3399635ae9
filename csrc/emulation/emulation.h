// Runs the kernels of csrc/cuda on the CPU, for tests: their own sources, compiled as C++ with the headers of
// emulation/include for CUDA's. Every thread of a block is a fiber, which runs until it waits for others.
//
// What goes wrong stops the launch, and its text is what launch() returns: a barrier that some threads never reach or
// that they reach at different places, a warp function with lanes missing, a failed assertion and, where accesses are
// watched (emulation/accesses.h), a race. Neither the GPU's weak order of memory nor its timing is emulated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace nnart::emulation {

constexpr int kWarp = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Where the running thread is. Blocks have one dimension, as all launches have.
struct Position {
  Index thread, block, threads, blocks;
};
extern Position position;

// In which order ready threads run.
enum class Schedule {
  Forward,  // blocks and threads from the first to the last
  Reverse,  // from the last to the first
  Warps,    // a warp for as long as any of its threads can, then the next: one warp is far ahead of the others
};

// Calls run once for every thread. Null, or what went wrong; the text is overwritten by the next launch.
const char* launch(const void* kernel, int64_t blocks, int threads, void (*run)(void*), void* context);

// Ends the launch.
void stop(const char* what);

void block_barrier(const char* where);
void warp_barrier(const char* where);

// Between the lanes of a warp. Not in templates, which would be compiled where accesses are watched.
uint64_t exchange_xor(uint32_t mask, uint64_t value, int lane_mask, const char* where);
void exchange_all(uint64_t value, uint64_t (&of_lanes)[kWarp], const char* where);
uint32_t match_any_bits(uint32_t mask, uint64_t value, const char* where);

template <class T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T shuffle_xor(uint32_t mask, T value, int lane_mask, const char* where) {
  uint64_t bits = exchange_xor(mask, bits_of(value), lane_mask, where);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
uint32_t match_any(uint32_t mask, T value, const char* where) {
  return match_any_bits(mask, bits_of(value), where);
}

// An asynchronous copy, or of zeros where from is null.
struct Copy {
  void* to;
  const void* from;
  int bytes;
};

// Copies of the running thread, by groups in the order in which it ended them. next_copy hands out those of all groups
// but the latest `pending` ones, once: the thread makes them when it waits for them, and not earlier.
void begin_copy(Copy copy);
void end_group_of_copies();
bool next_copy(int pending, Copy& copy);

// A static array in a block's shared memory. It is NaN when a block first asks for it, and lies on the heap, where
// AddressSanitizer sees an index past its end.
class SharedArray {
 public:
  explicit SharedArray(size_t bytes) : bytes_(bytes), data_(::operator new(bytes, std::align_val_t{16})) {}
  void* of_block();
  bool holds(uintptr_t address) const { return address - reinterpret_cast<uintptr_t>(data_) < bytes_; }

 private:
  size_t bytes_;
  void* data_;
  int64_t block_ = -1;  // the last one that asked for it
};

template <class T, int n, class Tag>
inline SharedArray shared_array{n * sizeof(T)};

// kernel(arguments...) in every thread.
template <class... Parameters, class... Arguments>
const char* launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, const Arguments&... arguments) {
  auto run = [&] { kernel(arguments...); };
  return launch(
      reinterpret_cast<const void*>(kernel), blocks, threads,
      [](void* context) { (*static_cast<decltype(run)*>(context))(); }, &run);
}

}  // namespace nnart::emulation
