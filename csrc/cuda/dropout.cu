// Dropout of elements and of channels. Nothing of a mask is kept: the backward draws the same words again.
#include "cuda/divisor.cuh"
#include "cuda/kernels.h"
#include "cuda/map.cuh"
#include "cuda/random.cuh"

namespace nnart::cuda {
namespace {

// How the elements of a part are numbered: ((n pixels + q) channels + c) inner + i goes by decision n channels + c.
enum class Decisions { each, plane, pixel };

template <class S, Decisions decisions>
struct Dropout {
  using C = ComputeType<S>;
  Source<S> x;
  S* y;
  const int64_t* seeds;
  Divisor part;             // its elements
  Divisor inner;            // of a plane
  Divisor channels, image;  // channels of a pixel, elements of an image
  uint32_t threshold;
  C scale, kept, dropped;

  // The words that decide over `width` elements of a part, of which it is the i-th.
  template <int width>
  __device__ __forceinline__ Pack<uint32_t, width> words(int64_t i, uint64_t key) const {
    if constexpr (decisions == Decisions::each) {
      return words_at<width>(uint64_t(i), key);
    } else if constexpr (decisions == Decisions::plane) {
      Division plane = divide(i, inner);
      auto result = fill<width>(word_at(uint64_t(plane.quotient), key));
#pragma unroll
      for (int k = 1; k < width; ++k)
        if (plane.rest + k >= inner.number()) result.lanes[k] = word_at(uint64_t(inner.divide(i + k)), key);
      return result;
    } else {
      Division pixel = divide(i, channels);
      int64_t first = image.divide(i) * channels.number();
      if (pixel.rest + width <= channels.number()) return words_at<width>(uint64_t(first + pixel.rest), key);
      Pack<uint32_t, width> result;
#pragma unroll
      for (int k = 0; k < width; ++k)
        result.lanes[k] =
            word_at(uint64_t(image.divide(i + k) * channels.number() + divide(i + k, channels).rest), key);
      return result;
    }
  }

  template <int width>
  __device__ __forceinline__ auto load(int64_t i) const {
    return x.template at<width>(i);
  }
  template <int width>
  __device__ __forceinline__ void store(int64_t i, const Pack<S, width>& in) const {
    Division of = divide(i, part);
    auto drawn = words<width>(of.rest, uint64_t(seeds[of.quotient]));
    Pack<S, width> out;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      // A dropped NaN or infinity stays NaN and a dropped -1 becomes -0, as in torch, which multiplies by zeros.
      bool is_kept = drawn.lanes[k] >= threshold;
      out.lanes[k] = narrow(Type<S>{}, widen(in.lanes[k]) * (is_kept ? scale : C(0)) + (is_kept ? kept : dropped));
    }
    cuda::store(y + i, out);
  }
};

template <Decisions decisions>
const char* run(const DropoutArgs& args, cudaStream_t stream) {
  const char* error = nullptr;
  int64_t image = args.pixels * args.channels * args.inner, part = args.batch * image, n = args.parts * part;
  with_dtype(args.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    using C = ComputeType<S>;
    Source<S> x{static_cast<const S*>(args.x), args.x_is_one_value};
    auto* y = static_cast<S*>(args.y);
    Dropout<S, decisions> body{x,
                               y,
                               args.seeds,
                               Divisor(part, n),
                               Divisor(args.inner, n),
                               Divisor(args.channels, n),
                               Divisor(image, n),
                               args.threshold,
                               C(args.scale)};
    // Without shifts -0 is added, which changes nothing; 0 would turn -0 into 0.
    bool shifts = args.kept != 0 || args.dropped != 0;
    body.kept = shifts ? C(args.kept) : -C(0);
    body.dropped = shifts ? C(args.dropped) : -C(0);
    bool whole = args.parts == 1 || part % kPackWidth<S> == 0;  // no pack reaches into the next part
    error = map<S>(body, n, whole && are_aligned(x, y), stream);
  });
  return error;
}

}  // namespace

const char* launch(const DropoutArgs& args, cudaStream_t stream) {
  if (args.inner > 1) return run<Decisions::plane>(args, stream);
  if (args.pixels > 1) return run<Decisions::pixel>(args, stream);
  return run<Decisions::each>(args, stream);
}

}  // namespace nnart::cuda
