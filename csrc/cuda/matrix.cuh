// The instructions that C++ has no word for, and the only PTX: copies that a thread does not wait for, and products of
// small matrices by a warp. For other compilers than nvcc each is a function of csrc/emulation.
#pragma once

#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace nnart::cuda {

// copy_async: 4, 8 or 16 bytes from global to shared memory, both at multiples of that, or zeros where nothing is
// `there`.
// The thread has them once it has waited for the group that it ended after them, other threads after a barrier that
// follows.
//
// wait_for_copies: for all groups but the latest `pending`.
//
// load_matrices: four of 8 x 8 two-byte elements. Lane l gives the address of row l % 8 of matrix l / 8, 16 bytes, and
// gets of each matrix the elements 2 (l % 4) and the next of row l / 4; transposed, of column l / 4.
//
// multiply_add: sums += a b, of 16 x 32 and 32 x 8 bytes, of which every lane has its part ("Matrix Fragments for
// mma.m16n8k16" in the PTX ISA; m16n8k8 for float). Of float it takes what to_tf32 leaves, the upper 19 bits, rounded
// to nearest.

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

template <int bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool there) {
  if constexpr (bytes == 16)  // past the first cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(there ? bytes : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(bytes),
                 "r"(there ? bytes : 0)
                 : "memory");
}
__device__ __forceinline__ void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
#define NNART_LOAD_MATRICES(how)                                                         \
  asm volatile("ldmatrix.sync.aligned.m8n8.x4" how ".shared.b16 {%0, %1, %2, %3}, [%4];" \
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])          \
               : "r"(shared_address(row))                                                \
               : "memory")
template <bool transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&parts)[4], const void* row) {
  if constexpr (transposed)
    NNART_LOAD_MATRICES(".trans");
  else
    NNART_LOAD_MATRICES("");
}
#undef NNART_LOAD_MATRICES

#define NNART_MULTIPLY_ADD(k, type)                                                   \
  asm volatile("mma.sync.aligned.m16n8k" k ".row.col.f32." type "." type              \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
template <class S>
__device__ __forceinline__ void multiply_add(Type<S>, float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  if constexpr (std::is_same_v<S, float>)
    NNART_MULTIPLY_ADD("8", "tf32");
  else if constexpr (std::is_same_v<S, BFloat16>)
    NNART_MULTIPLY_ADD("16", "bf16");
  else
    NNART_MULTIPLY_ADD("16", "f16");
}
#undef NNART_MULTIPLY_ADD

__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "r"(bits));
  return rounded;
}

#else

// Until it is waited for, NaN is there.
template <int bytes>
void copy_async(void* shared, const void* global, bool there) {
  auto* words = static_cast<Access<bytes>*>(shared);
  *words = ~Access<bytes>{};
  emulation::begin_copy({shared, there ? global : nullptr, bytes});
}
inline void end_group_of_copies() { emulation::end_group_of_copies(); }
template <int pending>
void wait_for_copies() {
  emulation::Copy copy{};
  auto make = [&](auto access) {
    using A = decltype(access);
    *static_cast<A*>(copy.to) = copy.from ? *static_cast<const A*>(copy.from) : A{};
  };
  while (emulation::next_copy(pending, copy))
    copy.bytes == 16 ? make(uint4{}) : copy.bytes == 8 ? make(uint2{}) : make(uint32_t{});
}

template <bool transposed>
void load_matrices(uint32_t (&parts)[4], const void* row) {
  uint64_t rows[emulation::kWarp];
  emulation::exchange_all(reinterpret_cast<uint64_t>(row), rows, "load_matrices");
  for (int matrix = 0; matrix < 4; ++matrix) {  // a row takes 4 of the 32 banks, and a matrix comes at once
    uint32_t banks = 0;
    for (int r = 0; r < 8; ++r) banks |= 1u << rows[8 * matrix + r] / kAccessBytes % 8;
    if (banks != 0xff) emulation::stop("load_matrices: rows of a matrix in the same banks");
  }
  int lane = int(threadIdx.x % emulation::kWarp), line = lane / 4, first = lane % 4 * 2;
  auto element = [&](int i, int r, int c) { return uint32_t{reinterpret_cast<const uint16_t*>(rows[8 * i + r])[c]}; };
  for (int i = 0; i < 4; ++i)
    parts[i] = transposed ? element(i, first, line) | element(i, first + 1, line) << 16
                          : element(i, line, first) | element(i, line, first + 1) << 16;
}

// To nearest, halves away from zero.
inline uint32_t to_tf32(uint32_t bits) {
  bool is_finite = (bits >> 23 & 0xff) != 0xff;
  return is_finite ? (bits + 0x1000) & ~uint32_t{0x1fff} : bits;
}

template <class S>
void multiply_add(Type<S>, float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  uint64_t of_a[2][emulation::kWarp], of_b[emulation::kWarp];
  for (int half = 0; half < 2; ++half)
    emulation::exchange_all(a[2 * half] | uint64_t{a[2 * half + 1]} << 32, of_a[half], "multiply_add");
  emulation::exchange_all(b0 | uint64_t{b1} << 32, of_b, "multiply_add");
  constexpr int width = int(4 / sizeof(S));  // elements in a register
  auto element = [](uint64_t parts, int i) {
    if constexpr (std::is_same_v<S, float>)
      return __builtin_bit_cast(float, uint32_t(parts >> (32 * i)) & ~uint32_t{0x1fff});
    else
      return widen(S{uint16_t(parts >> (16 * i))});
  };
  int lane = int(threadIdx.x % emulation::kWarp), row = lane / 4, column = lane % 4 * 2;
  for (int k = 0; k < 8 * width; ++k) {
    int half = k / (4 * width), of_lane = k % (4 * width) / width, odd = k % width;
    for (int i = 0; i < 4; ++i) {
      float x = element(of_a[half][4 * row + of_lane], width * (i / 2) + odd);
      float y = element(of_b[4 * (column + i % 2) + of_lane], width * half + odd);
      sums[i] += x * y;
    }
  }
}

#endif

}  // namespace nnart::cuda
