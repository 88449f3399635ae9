// The forward of csrc/cuda/conv/gemm.cu, as test_emulation.py has changed it, on one problem: 3x3 with padding,
// bfloat16, channels last, with the moments of the result.
#include "cuda/conv/gemm.cu"

extern "C" __attribute__((visibility("default"))) const char* run(void* x, void* weight, void* y, void* sums,
                                                                  void* moments, int64_t batch, int64_t channels,
                                                                  int64_t out_channels, int64_t size) {
  using namespace nnart;
  using cuda::GemmAxis;
  ConvArgs args{};
  args.pass = ConvPass::Forward;
  args.strategy = ConvStrategy::Gemm;
  args.channels_last = true;
  args.dtype = DType::BFloat16;
  args.batch = batch;
  args.groups = 1;
  args.in_channels = channels;
  args.out_channels = out_channels;
  args.axis[0] = {1, 1, 1, 1, 0, 1};
  args.axis[1] = args.axis[2] = {size, size, 3, 1, 1, 1};
  args.x = {x, size * size * channels, 1, {0, size * channels, channels}};
  args.weight = {weight, 9 * channels, 1, {0, 3 * channels, channels}};
  args.y = {y, size * size * out_channels, 1, {0, size * out_channels, out_channels}};
  BatchNormArgs norm{};
  norm.of_batch = true;
  norm.mean = moments;
  norm.var = static_cast<float*>(moments) + out_channels;
  args.norm = &norm;
  args.partial_sums = static_cast<double*>(sums);
  const GemmAxis axes[3] = {GemmAxis(args.axis[0]), GemmAxis(args.axis[1]), GemmAxis(args.axis[2])};
  constexpr auto packs = cuda::Packs::OfTerms;
  const char* error = cuda::launch_gemm<BFloat16, cuda::Multiply::TensorCores, ConvPass::Forward, packs, packs>(
      cuda::GemmArgs(args), axes, nullptr);
  return error ? error : cuda::moments_of_tiles<BFloat16>(cuda::GemmArgs(args), axes, nullptr);
}
