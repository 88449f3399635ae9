// Gradients gather: each input adds what the windows that reach it have for it, in the order of the outputs, and is
// written once. A thread takes `width` channels of a pixel, or `width` pixels of a line where an image has one channel.
//
// Body has gather(sums, output, tap, window, windows) for a pixel, gather_line(sums, output, tap of the line's first,
// place of the window relative to the first pixel, window, windows) for pixels of a line.
#pragma once

#include "cuda/pooling/forward.cuh"

namespace nnart::cuda {

template <class C, int width>
struct Gathered {
  C lanes[width] = {};
};

template <class Body, class I, int width, bool along_line>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    gather_kernel(Body body, Windows<I> windows, Places<I> places) {
  using S = typename Body::S;
  int64_t thread = int64_t(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (thread >= places.count) return;
  auto rest = I(thread);
  I c = take(rest, places.packs) * (along_line ? 1 : width);
  I iw = take(rest, places.columns) * (along_line ? width : 1), ih = take(rest, places.rows);
  I id = take(rest, places.depth), image = rest;
  const auto &d = windows.d, &h = windows.h, &w = windows.w;
  I first_h = h.first_output(ih), end_h = h.end_output(ih), end_d = d.end_output(id);
  I first_w = w.first_output(iw), end_w = w.end_output(along_line ? iw + width - 1 : iw);
  Gathered<ComputeType<S>, width> sums;
  for (I od = d.first_output(id); od < end_d; ++od) {
    I kd = d.tap(id, od);
    for (I oh = first_h; oh < end_h; ++oh) {
      I kh = h.tap(ih, oh);
      if (kd < 0 || kh < 0) continue;
      I tap = (kd * h.kernel + kh) * w.kernel;
      int64_t line = windows.output(image, od, oh, 0) + c;
      for (I ow = first_w; ow < end_w; ++ow) {
        int64_t output = line + int64_t(ow) * windows.channels;
        if constexpr (along_line) {
          body.gather_line(sums, output, int32_t(tap), int32_t(w.start(ow) - iw), windows, Window<I>{od, oh, ow});
        } else {
          I kw = w.tap(iw, ow);
          if (kw >= 0) body.gather(sums, output, int32_t(tap + kw), windows, Window<I>{od, oh, ow});
        }
      }
    }
  }
  Pack<S, width> out;
#pragma unroll
  for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, sums.lanes[k]);
  store(body.grad_x + windows.input(image, id, ih, iw) + c, out);
}

template <class I, int width, bool along_line>
Places<I> input_places(const Windows<I>& windows) {
  using N = Number<I>;
  int64_t packs = windows.channels / (along_line ? 1 : width), columns = I(windows.w.in) / (along_line ? width : 1);
  int64_t lines = I(windows.h.in), depth = I(windows.d.in);
  return {N(packs), N(columns), N(lines), N(depth), windows.images * depth * lines * columns * packs};
}

// MakeBody(width) makes the body; aligned says that its tensors are.
template <class S, class MakeBody>
const char* gather(const PoolShape& shape, bool aligned, const MakeBody& make_body, cudaStream_t stream) {
  const char* error = nullptr;
  with_positions(shape, [&](auto position) {
    using I = typename decltype(position)::type;
    Windows<I> windows(shape);
    auto run = [&](auto width, auto along_line) {
      constexpr bool line = decltype(along_line)::value == 1;
      auto body = make_body(width);
      auto places = input_places<I, width.value, line>(windows);
      return launch_kernel(gather_kernel<decltype(body), I, width.value, line>, ceil_div(places.count, kPoolThreads),
                           kPoolThreads, stream, body, windows, places);
    };
    if (shape.channels_last) {
      error = with_channels<S>(shape, aligned, [&](auto width) { return run(width, Count<0>{}); });
      return;
    }
    int64_t line = shape.axis[2].in;
    if (aligned && line % kPackWidth<S> == 0)
      error = run(Count<kPackWidth<S>>{}, Count<1>{});
    else if (aligned && line % 2 == 0)
      error = run(Count<2>{}, Count<1>{});
    else
      error = run(Count<1>{}, Count<1>{});
  });
  return error;
}

}  // namespace nnart::cuda
