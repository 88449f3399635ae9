// What every instruction set offers: one launch a family. A file of csrc/cpu defines Kernels<Isa::NNART_ISA>::launch and
// is compiled once per instruction set, NNART_ISA naming it; dispatch.cpp picks one set when the library is loaded.
#pragma once

#include "core/args.h"

namespace nnart::cpu {

enum class Isa { baseline, avx2, avx512 };

template <Isa isa>
struct Kernels {
  static void launch(const ActivationArgs&);
};

// The instruction set in use: the best this CPU has, unless the environment variable NNART_CPU_ISA names a lesser one.
Isa isa();
const char* name_of(Isa);

void launch(const ActivationArgs&);

}  // namespace nnart::cpu
