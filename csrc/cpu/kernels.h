// What every instruction set offers: one launch a family. A file of csrc/cpu defines Kernels<Isa::NNART_ISA>::launch
// and is compiled once per instruction set, NNART_ISA naming it; dispatch.cpp picks one set when the library is loaded.
#pragma once

#include "core/args.h"

namespace nnart {
struct OptimizerArgs;
}  // namespace nnart

namespace nnart::cpu {

enum class Isa { baseline, avx2, avx512 };

template <Isa isa>
struct Kernels {
  static void launch(const ActivationArgs&);
  static void launch(const MaskedActivationArgs&);
  static void launch(const ConvArgs&);
  static void launch(const MaxPoolArgs&);
  static void launch(const MaxPoolBackwardArgs&);
  static void launch(const MaxPoolIndicesArgs&);
  static void launch(const MaxUnpoolArgs&);
  static void launch(const AvgPoolArgs&);
  static void launch(const PReluArgs&);
  static void launch(const RReluArgs&);
  static void launch(const BiasActivationArgs&);
  static void launch(const BatchNormArgs&);
  static void launch(const DropoutArgs&);
  static void launch(const GatedArgs&);
  static void launch(const SoftmaxArgs&);
  static void launch(const CrossEntropyArgs&);
  static void launch(const OptimizerArgs&);
};

// The instruction set in use: the best this CPU has, unless the environment variable NNART_CPU_ISA names a lesser one.
Isa isa();
const char* name_of(Isa);

// Whether products of pairs of bfloat16 (conv/pairs.h) are there and worth their copies: they do twice the
// multiply-adds of float on AMD's processors, half of them on Intel's, where torch multiplies tiles.
bool multiplies_pairs();

// Whether the CPU works through vectors of 64 bytes by halves, as Zen 4 does.
bool halves_vectors();

// Results of this many bytes a thread and more are stored past the caches, from which they would be gone before anyone
// read them: 8 MB, unless the environment variable NNART_PAST_CACHES_BYTES has another number. Alone such a store is
// faster from 2 MB on; within a network the next layer finds smaller results in the third-level cache: on Zen 5 with
// 32 MB of it a U-Net's step (activations of 2 MB) is 2 % faster than with 2 MB here, and larger images (6 to 25 MB)
// are as fast with 8 MB as with any more.
int64_t past_caches_bytes();

void launch(const ActivationArgs&);
void launch(const MaskedActivationArgs&);
void launch(const ConvArgs&);
void launch(const MaxPoolArgs&);
void launch(const MaxPoolBackwardArgs&);
void launch(const MaxPoolIndicesArgs&);
void launch(const MaxUnpoolArgs&);
void launch(const AvgPoolArgs&);
void launch(const PReluArgs&);
void launch(const RReluArgs&);
void launch(const BiasActivationArgs&);
void launch(const BatchNormArgs&);
void launch(const DropoutArgs&);
void launch(const GatedArgs&);
void launch(const SoftmaxArgs&);
void launch(const CrossEntropyArgs&);
void launch(const OptimizerArgs&);

}  // namespace nnart::cpu
