// Depthwise convolution of tensors in any layout, one channel of one image at a time: its plane is copied with its
// padding (source.h), and vectors run along the lines of the copy, past their ends into the next line, so that narrow
// planes fill them too.
#pragma once

#include "core/parallel.h"
#include "cpu/conv/correlate.h"

namespace nnart::cpu {
namespace {

constexpr int kPlaneVectors = 8;
// Elements of a copy, in the L1 cache unless one line needs more.
constexpr int64_t kPlaneElements = int64_t{1} << 13;

// c[j] = sum over k of w[k] * x[offset[k] + j], for j < vectors * Vec<T>::size.
template <class T, int vectors>
void plane_tile(const T* x, const int64_t* offset, const T* w, int64_t n, T* c) {
  Vec<T> sum[vectors];
  for (auto& s : sum) s = Vec<T>(0);
  for (int64_t k = 0; k < n; ++k) {
    Vec<T> weight(typename Vec<T>::Raw(typename Vec<T>::Raw{} + w[k]));
    for (int v = 0; v < vectors; ++v) sum[v] = sum[v] + weight * load(x + offset[k] + v * Vec<T>::size);
  }
  for (int v = 0; v < vectors; ++v) store(c + v * Vec<T>::size, sum[v]);
}

template <class T, int... i>
NNART_HD void plane_tiles(std::integer_sequence<int, i...>, int64_t vectors, const T* x, const int64_t* offset,
                          const T* w, int64_t n, T* c) {
  ((vectors == i + 1 ? plane_tile<T, i + 1>(x, offset, w, n, c) : void()), ...);
}

// What both passes share: how a plane is cut and copied.
template <class S>
struct DepthwisePlane {
  using T = ComputeType<S>;
  static constexpr int64_t width = Vec<T>::size;

  const ConvArgs& args;
  ConvOperand source;
  Walk walk[3];
  Bands bands;
  SourceLayout layout;
  int64_t taps;

  NNART_HD explicit DepthwisePlane(const ConvArgs& args, bool transposed)
      : args(args), source(transposed ? args.y : args.x) {
    taps = args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
    for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], transposed);
    bands = {args.batch, walk[0].count, walk[1].count, 1, walk[0].count, walk[1].count};
    if (elements_of_image(walk, 1, bands.d_count, bands.h_count) > kPlaneElements) {
      bands.d_count = most(1, least(walk[0].count, kPlaneElements / elements_of_image(walk, 1, 1, walk[1].count)));
      if (bands.d_count == 1) {
        int64_t base = elements_of_image(walk, 1, 1, 0), line = elements_of_image(walk, 1, 1, 1) - base;
        // At least twice the lines that it shares with its neighbours, which are copied again.
        bands.h_count = least(walk[1].count, most(2 * walk[1].spread + 1, (kPlaneElements - base) / line));
        bands.h_count = ceil_div(walk[1].count, ceil_div(walk[1].count, bands.h_count));
      }
    }
    layout = layout_of(walk, 1, bands, true);
  }

  NNART_HD int64_t copy_elements() const { return layout.image_stride + kPlaneVectors * width; }
  NNART_HD bool is_whole() const { return bands.d_count == walk[0].count && bands.h_count == walk[1].count; }

  // The copy of a whole plane has its zeros in the same places every time.
  NNART_HD void fill(const Band& band, int64_t channel, bool zeroed, T* copy) const {
    const S* from = static_cast<const S*>(source.data) + channel * source.channel + band.image * source.batch;
    if (!zeroed) zero_run(copy, copy_elements());
    fill_image(layout, 1, source, from, band, copy);
  }
};

// Forward and dgrad.
template <class S>
struct DepthwisePlanes : DepthwisePlane<S> {
  using Base = DepthwisePlane<S>;
  using typename Base::T;
  using Base::args, Base::walk, Base::bands, Base::layout, Base::taps, Base::width;

  ConvOperand target;
  int64_t phase_count;
  OutputPhase* phases;
  int64_t *source_offset, *weight_offset;
  T *weight, *bias;

  NNART_HD explicit DepthwisePlanes(const ConvArgs& args) : Base(args, args.pass == ConvPass::Dgrad) {
    target = args.pass == ConvPass::Dgrad ? args.x : args.y;
    phase_count = 1;
    for (int a = 0; a < 3; ++a) phase_count *= least(walk[a].out_step, extent(a));
  }

  NNART_HD int64_t extent(int a) const { return walk[a].transposed ? walk[a].axis.in : walk[a].axis.out; }

  NNART_HD void fill_tables(int64_t* table) {
    source_offset = table;
    weight_offset = table + taps;
    phases = reinterpret_cast<OutputPhase*>(table + 2 * taps);
    OutputPhase* phase = phases;
    int64_t begin = 0;
    for (int64_t d = 0; d < least(walk[0].out_step, extent(0)); ++d)
      for (int64_t h = 0; h < least(walk[1].out_step, extent(1)); ++h)
        for (int64_t w = 0; w < least(walk[2].out_step, extent(2)); ++w, ++phase) {
          *phase = {{d, h, w}, {}, begin, 0};
          for (int a = 0; a < 3; ++a) phase->count[a] = ceil_div(extent(a) - phase->first[a], walk[a].out_step);
          phase->n = fill_taps(layout, phase->first, args.weight, 0, source_offset + begin, weight_offset + begin);
          begin += phase->n;
        }
  }

  void run_band(const Band& band, int64_t channel, const T* copy, T* c) const {
    Vec<T> added(bias ? double(bias[channel]) : 0.0);
    const T* filter = weight + channel * taps;
    for (int64_t p = 0; p < phase_count; ++p) {
      const OutputPhase& phase = phases[p];
      int64_t d_count = least(band.d_count, phase.count[0] - band.d);
      int64_t h_count = least(band.h_count, phase.count[1] - band.h), line = phase.count[2];
      if (h_count <= 0) continue;
      int64_t columns = (h_count - 1) * layout.width + line;
      int64_t step_h = walk[1].out_step * target.space[1], step_w = walk[2].out_step * target.space[2];
      for (int64_t d = 0; d < d_count; ++d) {
        S* to = static_cast<S*>(target.data) + band.image * target.batch + channel * target.channel +
                (phase.first[0] + (band.d + d) * walk[0].out_step) * target.space[0] +
                (phase.first[1] + band.h * walk[1].out_step) * target.space[1] + phase.first[2] * target.space[2];
        for (int64_t j = 0; j < columns; j += kPlaneVectors * width) {
          int64_t n = least(kPlaneVectors * width, columns - j);
          plane_tiles(std::make_integer_sequence<int, kPlaneVectors>{}, ceil_div(n, width),
                      copy + d * layout.d_stride + j, source_offset + phase.begin, filter + phase.begin, phase.n, c);
          int64_t h = j / layout.width, w = j % layout.width;
          for (int64_t i = 0; i < n; i += layout.width - w, w = 0, ++h)
            if (int64_t run = least(n - i, line - w); run > 0)
              narrow_run(to + h * step_h + w * step_w, step_w, c + i, run, OneBias<T>{added});
        }
      }
    }
  }

  NNART_HD void run() {
    Scratch<int64_t> table(Use::tables, 2 * taps + phase_count * int64_t(sizeof(OutputPhase) / sizeof(int64_t)));
    fill_tables(table.data());
    Scratch<T> filters(Use::weight, args.groups * taps);
    weight = filters.data();
    for (int64_t channel = 0; channel < args.groups; ++channel)
      for (int64_t k = 0; k < taps; ++k)
        weight[channel * taps + k] =
            widen_one<T>(static_cast<const S*>(args.weight.data) + channel * args.weight.batch + weight_offset[k]);
    Scratch<T> widened(Use::bias, args.bias ? args.groups : 0);
    if (args.bias) widen_run(widened.data(), static_cast<const S*>(args.bias), 1, args.groups);
    bias = args.bias ? widened.data() : nullptr;

    int64_t units = bands.pieces() * args.groups, work = extent(0) * extent(1) * extent(2) * taps;
    parallel_for(units, most(1, kGrainWork / most(1, work)), [this](int64_t begin, int64_t end) {
      Scratch<T> copy(Use::source, this->copy_elements());
      Scratch<T> c(Use::tile, (kPlaneVectors + 1) * width);
      int64_t pieces = bands.pieces() / args.batch;
      for (int64_t unit = begin; unit < end; ++unit) {
        int64_t piece = unit % pieces, channel = unit / pieces % args.groups, image = unit / pieces / args.groups;
        Band band = bands.at(image * pieces + piece);
        this->fill(band, channel, this->is_whole() && unit > begin, copy.data());
        run_band(band, channel, copy.data(), c.data());
      }
    });
  }
};

// The gradient of the filters. A thread sums a channel over all images, in their order.
template <class S>
struct DepthwisePlanesWgrad : DepthwisePlane<S> {
  using Base = DepthwisePlane<S>;
  using typename Base::T;
  using Base::args, Base::walk, Base::bands, Base::layout, Base::taps, Base::width;
  static constexpr int tile = 8;  // taps

  int64_t *source_offset, *weight_offset;

  NNART_HD explicit DepthwisePlanesWgrad(const ConvArgs& args) : Base(args, false) {}

  // grad_y of the band on lines as long as those of x's copy, zeros between them.
  NNART_HD void fill_gradient(const Band& band, int64_t d, int64_t channel, T* to) const {
    const ConvOperand& y = args.y;
    const S* from = static_cast<const S*>(y.data) + band.image * y.batch + channel * y.channel +
                    (band.d + d) * y.space[0] + band.h * y.space[1];
    for (int64_t h = 0; h < band.h_count; ++h)
      widen_run(to + h * layout.width, from + h * y.space[1], y.space[2], walk[2].count);
  }

  template <int n>
  void add_taps(const T* x, const T* grad_y, const int64_t* offset, int64_t columns, T* sums) const {
    Vec<T> sum[n];
    for (int t = 0; t < n; ++t) sum[t] = load(sums + t * width);
    for (int64_t j = 0; j < columns; j += width) {
      Vec<T> g = load(grad_y + j);
      for (int t = 0; t < n; ++t) sum[t] = sum[t] + g * load(x + offset[t] + j);
    }
    for (int t = 0; t < n; ++t) store(sums + t * width, sum[t]);
  }

  template <int... n>
  NNART_HD void add_some_taps(std::integer_sequence<int, n...>, int64_t count, const T* x, const T* grad_y,
                              const int64_t* offset, int64_t columns, T* sums) const {
    ((count == n + 1 ? add_taps<n + 1>(x, grad_y, offset, columns, sums) : void()), ...);
  }

  void run_channel(int64_t channel, T* copy, T* gradient, int64_t gradient_elements, T* sums) const {
    zero_run(sums, taps * width);
    Even cuts(taps, tile);
    for (int64_t piece = 0; piece < bands.pieces(); ++piece) {
      Band band = bands.at(piece);
      this->fill(band, channel, this->is_whole() && piece > 0, copy);
      if (!this->is_whole()) zero_run(gradient, gradient_elements);
      int64_t columns = (band.h_count - 1) * layout.width + walk[2].count;
      for (int64_t d = 0; d < band.d_count; ++d) {
        fill_gradient(band, d, channel, gradient);
        for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
          int64_t k = cuts.begin(cut);
          add_some_taps(std::make_integer_sequence<int, tile>{}, cuts.begin(cut + 1) - k, copy + d * layout.d_stride,
                        gradient, source_offset + k, columns, sums + k * width);
        }
      }
    }
    auto* to = static_cast<S*>(args.weight.data) + channel * args.weight.batch;
    for (int64_t k = 0; k < taps; ++k) {
      T total = 0;
      for (int64_t lane = 0; lane < width; ++lane) total += sums[k * width + lane];
      store_partial(to + weight_offset[k], Vec<T>(double(total)), 1);
    }
  }

  NNART_HD void run() {
    Scratch<int64_t> table(Use::tables, 2 * taps);
    source_offset = table.data();
    weight_offset = table.data() + taps;
    const int64_t first[3] = {0, 0, 0};
    fill_taps(layout, first, args.weight, 0, source_offset, weight_offset);
    int64_t gradient_elements = ceil_div(bands.h_count * layout.width, width) * width;
    int64_t work = args.batch * walk[0].count * walk[1].count * walk[2].count * taps;
    parallel_for(args.groups, most(1, kGrainWork / most(1, work)), [&](int64_t begin, int64_t end) {
      Scratch<T> copy(Use::source, this->copy_elements());
      Scratch<T> gradient(Use::gradient, gradient_elements);
      Scratch<T> sums(Use::partial, taps * width);
      for (int64_t channel = begin; channel < end; ++channel) {
        if (this->is_whole()) zero_run(gradient.data(), gradient_elements);
        run_channel(channel, copy.data(), gradient.data(), gradient_elements, sums.data());
      }
    });
  }
};

}  // namespace
}  // namespace nnart::cpu
