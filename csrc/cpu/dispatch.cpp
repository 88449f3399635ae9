// Picks the instruction set, once. Compiled for the baseline alone.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "cpu/kernels.h"

namespace nnart::cpu {
namespace {

// The largest set that was compiled; CMake names it.
constexpr Isa kCompiled = Isa::NNART_ISA;

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512cd");
  if (kCompiled >= Isa::avx512 && has_avx512) return Isa::avx512;
  // Every CPU with AVX2 has F16C, which GCC 12 cannot ask for by name.
  if (kCompiled >= Isa::avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

// A set the CPU lacks would crash, so the environment can only ask for less; bindings.cpp reports what was picked.
Isa choose() {
  Isa available = best();
  const char* wanted = std::getenv("NNART_CPU_ISA");
  for (Isa candidate : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (wanted && candidate <= available && std::strcmp(wanted, name_of(candidate)) == 0) return candidate;
  return available;
}

template <class Args>
void launch_on_chosen(const Args& args) {
  switch (isa()) {
    case Isa::baseline:
      return Kernels<Isa::baseline>::launch(args);
    case Isa::avx2:
      if constexpr (kCompiled >= Isa::avx2) return Kernels<Isa::avx2>::launch(args);
      break;
    case Isa::avx512:
      if constexpr (kCompiled >= Isa::avx512) return Kernels<Isa::avx512>::launch(args);
      break;
  }
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

bool multiplies_pairs() {
#if defined(__x86_64__)
  static const bool does = isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd");
  return does;
#else
  return false;
#endif
}

bool halves_vectors() {
#if defined(__x86_64__)
  static const bool does = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (isa() != Isa::avx512 || !__builtin_cpu_is("amd") || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
    return (eax >> 8 & 0xf) + (eax >> 20 & 0xff) == 0x19;  // the family; its other members have no AVX-512
  }();
  return does;
#else
  return false;
#endif
}

int64_t past_caches_bytes() {
  static const int64_t bytes = [] {
    const char* given = std::getenv("NNART_PAST_CACHES_BYTES");
    return given ? int64_t(std::atoll(given)) : int64_t{8} << 20;
  }();
  return bytes;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return "baseline";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "";
}

void launch(const ActivationArgs& args) { launch_on_chosen(args); }
void launch(const MaskedActivationArgs& args) { launch_on_chosen(args); }
void launch(const ConvArgs& args) { launch_on_chosen(args); }
void launch(const MaxPoolArgs& args) { launch_on_chosen(args); }
void launch(const MaxPoolBackwardArgs& args) { launch_on_chosen(args); }
void launch(const MaxPoolIndicesArgs& args) { launch_on_chosen(args); }
void launch(const MaxUnpoolArgs& args) { launch_on_chosen(args); }
void launch(const AvgPoolArgs& args) { launch_on_chosen(args); }
void launch(const PReluArgs& args) { launch_on_chosen(args); }
void launch(const RReluArgs& args) { launch_on_chosen(args); }
void launch(const BiasActivationArgs& args) { launch_on_chosen(args); }
void launch(const BatchNormArgs& args) { launch_on_chosen(args); }
void launch(const DropoutArgs& args) { launch_on_chosen(args); }
void launch(const GatedArgs& args) { launch_on_chosen(args); }
void launch(const SoftmaxArgs& args) { launch_on_chosen(args); }
void launch(const CrossEntropyArgs& args) { launch_on_chosen(args); }
void launch(const OptimizerArgs& args) { launch_on_chosen(args); }

}  // namespace nnart::cpu
