// Forward and dgrad: each output pixel is a sum over taps and channels of source times weight.
//
// Two ways to fill a tile. Across pixels: the vectors run along a line of the output and the rows are output channels;
// the sources of neighbouring pixels are neighbours in a channels-first copy, and most weights are read where they lie.
// Across channels: the vectors run along output channels in a packed weight and the rows are pixels.
#pragma once

#include "core/parallel.h"
#include "cpu/conv/fetch_ahead.h"
#include "cpu/conv/finish.h"
#include "cpu/conv/source.h"
#include "cpu/streaming.h"

namespace nnart::cpu {
namespace {

// Length of a sum between two visits of its tile: the operands of 256 steps fit the L1 and L2 caches.
constexpr int64_t kSumBlock = 256;
// Rows whose tiles wait together for the next block, 64 x 48 floats of scratch.
constexpr int64_t kRowChunk = 64;
// Elements of the copied source of one unit of work (256 KB of float, in the L2 cache), unless one line of output needs
// more.
constexpr int64_t kSourceElements = int64_t{1} << 16;
// Units of work that even a single image is cut into, where it has the pixels or channels for it.
constexpr int64_t kWantedUnits = 8;
// Multiply-adds below which a thread does not pay for its wake-up.
constexpr int64_t kGrainWork = int64_t{1} << 18;
// Outputs from which on it pays to copy each line once for each of its taps: Note [lines of taps]. The copies cost as
// much as a few sums, the gaps between lines cost their share of all.
constexpr int64_t kTapLineOutputs = 8;
// Pixels that keep the tiles of one unit busy, if the vectors run along channels; and those that are worth a pass over
// the weight, or over its gradient, even if their source is larger than the cache.
constexpr int64_t kWantedPixels = 256, kLeastPixels = 64;

// The outputs first + step * i of each axis, which share their taps: Note [phases].
struct OutputPhase {
  int64_t first[3], count[3], begin, n;  // taps [begin, begin + n) of the tables
};

// The operands are copied as E, in the compute type or in pairs of channels.
template <class S, class E = ComputeType<S>>
struct Correlation {
  using T = ComputeType<S>;
  static constexpr int64_t width = Vec<T>::size;

  const ConvArgs& args;
  bool transposed, across_pixels;
  bool direct;                  // whether tiles are stored as they are: a row of a tile is one run of the target
  const ActivationArgs* after;  // what is done to each band when it is written; null for nothing
  ConvOperand source, target;
  int64_t sums, outputs;              // channels of a group that are summed over, that are written
  int64_t elements;                   // that the former are copied as
  int64_t weight_output, weight_sum;  // strides of the weight between those
  Walk walk[3];
  Bands bands;
  SourceLayout layout;
  int64_t output_pieces, phase_count;
  int64_t taps;                   // of all phases; an input smaller than the stride leaves some out
  int64_t panel_vectors, panels;  // across channels: the packed weight's panels
  OutputPhase* phases;
  int64_t *source_offset, *weight_offset, *ramp;
  const E* weight;
  const T* bias;

  NNART_HD explicit Correlation(const ConvArgs& args) : args(args), transposed(args.pass == ConvPass::Dgrad) {
    source = transposed ? args.y : args.x;
    target = transposed ? args.x : args.y;
    int64_t in = args.in_channels / args.groups, out = args.out_channels / args.groups;
    sums = transposed ? out : in;
    outputs = transposed ? in : out;
    elements = ceil_div(sums, kTermsOf<E>);
    weight_output = transposed ? args.weight.channel : args.weight.batch;
    weight_sum = transposed ? args.weight.batch : args.weight.channel;
    for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], transposed, Order::phases);
    taps = elements * args.axis[0].kernel * args.axis[1].kernel * args.axis[2].kernel;
    choose_direction();
    if (across_pixels && outputs >= kTapLineOutputs && writes_lines() && walk[1].count > 1)
      walk[2] = walk_of(args.axis[2], transposed, Order::taps);
    if (!across_pixels)
      for (int a = 0; a < 3; ++a) walk[a] = walk_of(args.axis[a], transposed, Order::plain);
    choose_bands();
    layout = layout_of(walk, elements, bands, across_pixels || source.channel != 1);
    int64_t vectors = ceil_div(outputs, width);
    panels = ceil_div(vectors, kTileVectors);
    panel_vectors = ceil_div(vectors, panels);
    phase_count = 1;
    for (int a = 0; a < 3; ++a) phase_count *= least(walk[a].out_step, extent(a));
    bool no_gaps = writes_lines() && (layout.width == walk[2].count || walk[1].count == 1);
    direct = across_pixels ? no_gaps : target.channel == 1;
    after = args.finish && !(direct && is_clamp(*args.finish)) ? args.finish : nullptr;
  }

  // Whether the lines of the target follow each other without a gap.
  NNART_HD bool writes_lines() const {
    return walk[2].out_step * target.space[2] == 1 &&
           (walk[1].count == 1 || walk[1].out_step * target.space[1] == walk[2].count);
  }

  NNART_HD int64_t extent(int a) const { return transposed ? walk[a].axis.in : walk[a].axis.out; }

  // The output's own order decides, unless it would leave most lanes idle: few channels, or few pixels in a plane.
  NNART_HD void choose_direction() {
    int64_t line = walk[2].count + walk[2].spread;
    int64_t columns = (walk[1].count - 1) * line + walk[2].count, pixels = walk[1].count * walk[2].count;
    int64_t pixel_lanes = ceil_div(columns, width) * width, channel_lanes = ceil_div(outputs, width) * width;
    // Lanes for each useful one, as fractions.
    double across = double(pixel_lanes) / double(pixels), along = double(channel_lanes) / double(outputs);
    across_pixels = target.channel != 1 || target.space[2] == 1 ? across < 4 * along : 2 * across < along;
  }

  NNART_HD void choose_bands() {
    bands = {args.batch, walk[0].count, walk[1].count, 1, walk[0].count, walk[1].count};
    int64_t pixels = walk[0].count * walk[1].count * walk[2].count;
    int64_t image = elements_of_image(walk, elements, bands.d_count, bands.h_count), wanted = kSourceElements;
    if (!across_pixels) wanted = most(wanted, kLeastPixels * image / most(1, pixels));
    if (image > wanted) {
      // As many whole slices as fit, else as many lines of one; the lines shared with the next band are copied again.
      int64_t slice = elements_of_image(walk, elements, 1, walk[1].count);
      bands.d_count = most(1, least(walk[0].count, wanted / slice));
      if (bands.d_count == 1) {
        int64_t base = elements_of_image(walk, elements, 1, 0), line = elements_of_image(walk, elements, 1, 1) - base;
        bands.h_count = most(1, least(walk[1].count, (wanted - base) / line));
        bands.h_count = ceil_div(walk[1].count, ceil_div(walk[1].count, bands.h_count));
      }
    } else if (!across_pixels) {
      bands.images = most(1, least(least(args.batch, ceil_div(kWantedPixels, pixels)), wanted / most(1, image)));
    }
    output_pieces = 1;
    int64_t units = bands.pieces() * args.groups;
    if (units < kWantedUnits) {
      int64_t piece = kTileColumns<T>;
      output_pieces = most(1, least(ceil_div(kWantedUnits, units), outputs / piece));
    }
  }

  // Whether the weight cannot be read where it lies: its taps in order, in the compute type.
  NNART_HD bool packs() const {
    return !across_pixels || transposed || sizeof(S) != sizeof(T) || args.weight.space[2] != 1;
  }
  NNART_HD int64_t packed_outputs() const { return across_pixels ? outputs : panels * panel_vectors * width; }
  NNART_HD int64_t table_entries() const {
    return 3 * taps + phase_count * int64_t(sizeof(OutputPhase) / sizeof(int64_t));
  }

  NNART_HD void fill_tables(int64_t* table) {
    source_offset = table;
    weight_offset = table + taps;
    ramp = table + 2 * taps;
    phases = reinterpret_cast<OutputPhase*>(table + 3 * taps);
    int64_t step = across_pixels ? 1 : panel_vectors * width;
    for (int64_t k = 0; k < taps; ++k) ramp[k] = k * step;
    OutputPhase* phase = phases;
    int64_t begin = 0;
    for (int64_t d = 0; d < least(walk[0].out_step, extent(0)); ++d)
      for (int64_t h = 0; h < least(walk[1].out_step, extent(1)); ++h)
        for (int64_t w = 0; w < least(walk[2].out_step, extent(2)); ++w, ++phase) {
          *phase = {{d, h, w}, {}, begin, 0};
          for (int a = 0; a < 3; ++a) phase->count[a] = ceil_div(extent(a) - phase->first[a], walk[a].out_step);
          phase->n = fill_taps(layout, phase->first, args.weight, kTermsOf<E> * weight_sum, source_offset + begin,
                               weight_offset + begin);
          begin += phase->n;
        }
  }

  NNART_HD const S* weight_of(int64_t group) const {
    return static_cast<const S*>(args.weight.data) + group * (args.out_channels / args.groups) * args.weight.batch;
  }

  // From the first term of a phase's element k to its second.
  NNART_HD int64_t next_term(const OutputPhase& phase, int64_t k) const {
    if (sums % kTermsOf<E> == 0) return weight_sum;
    int64_t element = layout.channels_first ? k / (phase.n / elements) : k % elements;
    return element + 1 < elements ? weight_sum : kNoTerm;
  }

  // How many of a phase's taps from k on lie a constant `step` apart in the weight, their second terms likewise.
  struct TapRun {
    int64_t n, step, next;
  };
  NNART_HD TapRun run_at(const OutputPhase& phase, int64_t k) const {
    const int64_t* offset = weight_offset + phase.begin;
    TapRun run{1, 0, next_term(phase, k)};
    if (k + 1 < phase.n) run.step = offset[k + 1] - offset[k];
    while (k + run.n < phase.n && offset[k + run.n] - offset[k + run.n - 1] == run.step &&
           next_term(phase, k + run.n) == run.next)
      ++run.n;
    return run;
  }

  // Across pixels: packed[group][output][tap]. Across channels: packed[group][phase][panel][tap][column].
  NNART_HD void pack(E* packed) const {
    int64_t panel_columns = panel_vectors * width;
    for (int64_t group = 0; group < args.groups; ++group, packed += packed_outputs() * taps) {
      const S* from = weight_of(group);
      for (const OutputPhase* phase = phases; phase < phases + phase_count; ++phase) {
        const int64_t* offset = weight_offset + phase->begin;
        for (int64_t k = 0; k < phase->n;) {
          TapRun run = run_at(*phase, k);
          for (int64_t o = 0; across_pixels && o < outputs; ++o)
            element_run(packed + o * taps + phase->begin + k, from + o * weight_output + offset[k], run.next, run.step,
                        run.n);
          for (int64_t panel = 0; !across_pixels && panel < panels; ++panel) {
            E* to = packed + phase->begin * packed_outputs() + panel_columns * (panel * phase->n + k);
            int64_t first = panel * panel_columns, columns = most(0, least(panel_columns, outputs - first));
            element_columns(to, panel_columns, from + first * weight_output + offset[k], run.next, run.step, run.n,
                            weight_output, columns);
            for (int64_t i = 0; columns < panel_columns && i < run.n; ++i)
              zero_run(to + i * panel_columns + columns, panel_columns - columns);
          }
          k += run.n;
        }
      }
    }
  }

  NNART_HD S* target_of(int64_t image, int64_t group) const {
    return static_cast<S*>(target.data) + image * target.batch + group * outputs * target.channel;
  }

  // c holds `rows` output channels of `columns` places along lines of layout.width, from place j on.
  NNART_HD void store_lines(const T* c, int64_t c_stride, S* to, int64_t rows, int64_t j, int64_t columns, int64_t line,
                            int64_t step_h, int64_t step_w, const T* row_bias) const {
    int64_t h = j / layout.width, w = j % layout.width;
    for (int64_t r = 0; r < rows; ++r, c += c_stride, to += target.channel) {
      OneBias<T> added{Vec<T>(row_bias ? double(row_bias[r]) : 0.0)};
      int64_t at_h = h, at_w = w;
      for (int64_t i = 0; i < columns;) {
        int64_t n = least(columns - i, line - at_w);
        if (n > 0) narrow_run(to + at_h * step_h + at_w * step_w, step_w, c + i, n, added);
        i += layout.width - at_w;
        at_w = 0;
        ++at_h;
      }
    }
  }

  // Whether tiles write whole cache lines, so that they may go past the caches.
  NNART_HD bool writes_cache_lines() const {
    constexpr int64_t cache_line = 64 / sizeof(S);
    int64_t run = across_pixels ? width : panel_vectors * width;
    bool whole = (across_pixels ? walk[2].count : outputs) % cache_line == 0 && run % cache_line == 0;
    int64_t steps[] = {target.batch, across_pixels ? target.channel : target.space[2], target.space[1],
                       target.space[0]};
    for (int64_t step : steps) whole = whole && step % cache_line == 0;
    return direct && whole && !after && reinterpret_cast<uintptr_t>(target.data) % 64 == 0;
  }

  NNART_HD FinalTile<S> final_tile(bool past_caches) const {
    FinalTile<S> end{};
    end.past_caches = past_caches;
    if (args.finish && !after) {
      end.clamps = true;
      end.interval = Interval<T>(*args.finish);
    }
    return end;
  }

  void run_across_pixels(const Band& band, int64_t group, int64_t output, int64_t output_end, const E* from,
                         bool past_caches, FetchAhead& ahead) const {
    int64_t most_vectors = tile_vectors(least(output_end - output, kTileRows)), tile_columns = most_vectors * width;
    Scratch<T> tiles(Use::tile, kRowChunk * tile_columns + width);
    T* c = tiles.data();
    const E* group_weight = weight + group * outputs * taps;
    int64_t row_stride = taps;
    if constexpr (std::is_same_v<S, E>)
      if (!packs()) {
        group_weight = weight_of(group);
        row_stride = weight_output;
      }
    FinalTile<S> end = final_tile(past_caches);
    for (int64_t p = 0; p < phase_count; ++p) {
      const OutputPhase& phase = phases[p];
      const int64_t* from_offset = source_offset + phase.begin;
      const int64_t* by_offset = (packs() ? ramp : weight_offset) + phase.begin;
      int64_t d_count = least(band.d_count, phase.count[0] - band.d);
      int64_t h_count = least(band.h_count, phase.count[1] - band.h), line = phase.count[2];
      if (h_count <= 0) continue;
      int64_t columns = (h_count - 1) * layout.width + line;
      Even strips(ceil_div(columns, width), most_vectors);
      int64_t step_h = walk[1].out_step * target.space[1], step_w = walk[2].out_step * target.space[2];
      for (int64_t d = 0; d < d_count; ++d) {
        const E* slice = from + d * layout.d_stride;
        S* to = target_of(band.image, group) + (phase.first[0] + (band.d + d) * walk[0].out_step) * target.space[0] +
                (phase.first[1] + band.h * walk[1].out_step) * target.space[1] + phase.first[2] * target.space[2];
        for (int64_t strip = 0; strip < strips.pieces; ++strip) {
          int64_t j = strips.begin(strip) * width, vectors = strips.begin(strip + 1) - strips.begin(strip);
          int64_t wide = least(vectors * width, columns - j);
          ahead.step();
          end.last = wide - (vectors - 1) * width;
          for (int64_t first = output; first < output_end; first += kRowChunk) {
            int64_t rows = least(kRowChunk, output_end - first);
            const T* row_bias = bias ? bias + group * outputs + first : nullptr;
            Even cuts(rows, kTileRows);
            for (int64_t k = 0; k == 0 || k < phase.n; k += kSumBlock)
              for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
                int64_t r = cuts.begin(cut), high = cuts.begin(cut + 1) - r;
                TileOperands<E> operands{{}, by_offset + k, slice + j, from_offset + k, least(kSumBlock, phase.n - k)};
                for (int64_t i = 0; i < high; ++i) operands.row[i] = group_weight + (first + r + i) * row_stride;
                PartialTile<T> partial{c + r * tile_columns, tile_columns, k > 0};
                if (!direct || k + kSumBlock < phase.n) {
                  run_tile(high, vectors, operands, partial);
                  continue;
                }
                for (int64_t i = 0; i < high; ++i) end.to[i] = to + (first + r + i) * target.channel + j;
                end.c = k > 0 ? partial.c : nullptr;
                end.stride = tile_columns;
                end.row_bias = row_bias ? row_bias + r : nullptr;
                run_tile(high, vectors, operands, end);
              }
            if (!direct)
              store_lines(c, tile_columns, to + first * target.channel, rows, j, wide, line, step_h, step_w, row_bias);
          }
        }
      }
    }
  }

  // Fills where each pixel of the band starts in the source's copy and in the target; returns how many there are.
  NNART_HD int64_t fill_pixels_of(const Band& band, const OutputPhase& phase, int64_t* from, int64_t* to) const {
    int64_t n = 0, d_count = least(band.d_count, phase.count[0] - band.d);
    int64_t h_count = least(band.h_count, phase.count[1] - band.h);
    for (int64_t image = 0; image < band.images; ++image)
      for (int64_t d = 0; d < d_count; ++d)
        for (int64_t h = 0; h < h_count; ++h) {
          int64_t source_pixel = layout.line_offset(image, d, h), source_step = layout.pixel_stride();
          int64_t target_pixel =
              image * target.batch + (phase.first[0] + (band.d + d) * walk[0].out_step) * target.space[0] +
              (phase.first[1] + (band.h + h) * walk[1].out_step) * target.space[1] + phase.first[2] * target.space[2];
          int64_t target_step = walk[2].out_step * target.space[2], line = phase.count[2];
          for (int64_t w = 0; w < line; ++w) {
            from[n + w] = source_pixel + w * source_step;
            to[n + w] = target_pixel + w * target_step;
          }
          n += line;
        }
    return n;
  }

  void run_across_channels(const Band& band, int64_t group, int64_t panel_begin, int64_t panel_end, const E* from,
                           bool past_caches, FetchAhead& ahead) const {
    constexpr int64_t tile_columns = kTileColumns<T>;
    Scratch<T> tiles(Use::tile, kRowChunk * tile_columns + width);
    int64_t most_pixels = band.images * band.d_count * band.h_count * walk[2].count;
    Scratch<int64_t> places(Use::pixels, 2 * most_pixels);
    T* c = tiles.data();
    int64_t *from_pixel = places.data(), *to_pixel = from_pixel + most_pixels;
    int64_t panel_columns = panel_vectors * width;
    const E* group_weight = weight + group * packed_outputs() * taps;
    S* to = target_of(band.image, group);
    FinalTile<S> end = final_tile(past_caches);
    for (int64_t p = 0; p < phase_count; ++p) {
      const OutputPhase& phase = phases[p];
      const int64_t* from_offset = source_offset + phase.begin;
      int64_t pixels = fill_pixels_of(band, phase, from_pixel, to_pixel);
      for (int64_t first = 0; first < pixels; first += kRowChunk) {
        int64_t rows = least(kRowChunk, pixels - first);
        Even cuts(rows, kTileRows);
        ahead.step();
        for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
          int64_t output = panel * panel_columns, wide = least(panel_columns, outputs - output);
          int64_t vectors = ceil_div(wide, width);
          const E* by = group_weight + phase.begin * packed_outputs() + panel * panel_columns * phase.n;
          S* columns = to + output * target.channel;
          end.last = wide - (vectors - 1) * width;
          end.column_bias = bias ? bias + group * outputs + output : nullptr;
          for (int64_t k = 0; k == 0 || k < phase.n; k += kSumBlock)
            for (int64_t cut = 0; cut < cuts.pieces; ++cut) {
              int64_t r = cuts.begin(cut), high = cuts.begin(cut + 1) - r;
              TileOperands<E> operands{{}, from_offset + k, by, ramp + k, least(kSumBlock, phase.n - k)};
              for (int64_t i = 0; i < high; ++i) operands.row[i] = from + from_pixel[first + r + i];
              PartialTile<T> partial{c + r * tile_columns, tile_columns, k > 0};
              if (!direct || k + kSumBlock < phase.n) {
                run_tile(high, vectors, operands, partial);
                continue;
              }
              for (int64_t i = 0; i < high; ++i) end.to[i] = columns + to_pixel[first + r + i];
              end.c = k > 0 ? partial.c : nullptr;
              end.stride = tile_columns;
              run_tile(high, vectors, operands, end);
            }
          if (direct) continue;
          for (int64_t r = 0; r < rows; ++r) {
            S* pixel = columns + to_pixel[first + r];
            const T* sum = c + r * tile_columns;
            if (bias)
              narrow_run(pixel, target.channel, sum, wide, EachBias<T>{bias + group * outputs + output});
            else
              narrow_run(pixel, target.channel, sum, wide, OneBias<T>{Vec<T>(0)});
          }
        }
      }
    }
  }

  // What a band reads of two-dimensional images.
  NNART_HD LineBox lines_of(const Band& band, int64_t group) const {
    const Walk& h = walk[1];
    bool planes = source.channel != 1;
    constexpr int64_t size = sizeof(S);
    int64_t first = most(0, h.step * (band.h * h.pixel + h.lowest));
    int64_t last = band.h * h.pixel + h.lowest + h.elements(band.h_count);
    int64_t line = (walk[2].extent - 1) * source.space[2] + (planes ? 1 : sums);
    return {static_cast<const char*>(source.data) +
                (band.image * source.batch + group * sums * source.channel + first * source.space[1]) * size,
            planes ? sums : band.images,
            (planes ? source.channel : source.batch) * size,
            least(h.extent, h.step * last) - first,
            source.space[1] * size,
            line * size};
  }
  // How often a unit of work asks for more of it.
  NNART_HD int64_t fetching_steps() const {
    int64_t pixels = bands.images * bands.d_count * bands.h_count * walk[2].count;
    int64_t step = across_pixels ? tile_vectors(least(outputs, kTileRows)) * width : kRowChunk;
    return phase_count * output_pieces * ceil_div(pixels, step);
  }

  // Whether a unit of work writes runs of the output that are worth a call, and what `after` does to them.
  NNART_HD bool finishes_bands() const {
    return args.groups * output_pieces == 1 && (target.channel == 1 || target.space[2] == 1);
  }
  void finish_band(const Band& band) const {
    int64_t lines = 1, first = band.image * target.batch, planes = extent(0) * extent(1);
    bool whole = band.d_count == walk[0].count && band.h_count == walk[1].count;
    if (whole) {
      lines = band.images * planes;
    } else {
      int64_t d = band.d * walk[0].out_step, h = band.h * walk[1].out_step;
      int64_t d_count = least(band.d_count * walk[0].out_step, extent(0) - d);
      int64_t h_count = least(band.h_count * walk[1].out_step, extent(1) - h);
      lines = d_count * h_count;
      first += d * target.space[0] + h * target.space[1];
    }
    bool one_run = whole || target.channel == 1;
    int64_t runs = one_run ? 1 : outputs, n = lines * extent(2) * (one_run ? outputs : 1);
    for (int64_t run = 0; run < runs; ++run) finish_piece<S>(*after, first + run * target.channel, n);
  }

  NNART_HD void run() {
    Scratch<int64_t> table(Use::tables, table_entries());
    fill_tables(table.data());
    Scratch<E> packed(Use::weight, packs() ? args.groups * packed_outputs() * taps : 0);
    if (packs()) pack(packed.data());
    weight = packed.data();
    int64_t channels = args.groups * outputs;
    Scratch<T> widened(Use::bias, args.bias ? channels + kTileColumns<T> : 0);
    if (args.bias) widen_run(widened.data(), static_cast<const S*>(args.bias), 1, channels);
    bias = args.bias ? widened.data() : nullptr;

    int64_t pieces = bands.pieces(), units = pieces * args.groups * output_pieces;
    int64_t work = args.batch * args.groups * outputs * taps * walk[0].count * walk[1].count * walk[2].count;
    int64_t unit_bytes =
        args.batch * args.groups * outputs * extent(0) * extent(1) * extent(2) * int64_t(sizeof(S)) / units;
    parallel_for(units, most(1, kGrainWork * units / most(1, work)), [this, unit_bytes](int64_t begin, int64_t end) {
      Scratch<E> copy(Use::source, bands.images * layout.image_stride + kTileColumns<T>);
      zero_run(copy.data() + bands.images * layout.image_stride, kTileColumns<T>);
      bool past_caches = writes_cache_lines() && (end - begin) * unit_bytes >= past_caches_bytes();
      FetchAhead ahead;
      int64_t filled = -1;
      Band before{};
      before.d = -1;
      for (int64_t unit = begin; unit < end; ++unit) {
        int64_t piece = unit % output_pieces, group = unit / output_pieces % args.groups;
        Band band = bands.at(unit / output_pieces / args.groups);
        if (unit / output_pieces != filled) {
          auto* from = static_cast<const S*>(source.data) + group * sums * source.channel;
          fill_source(layout, sums, source, from, band, copy.data(), before);
          filled = unit / output_pieces;
          if ((filled + 1) * output_pieces < end)
            ahead.start(fetching_steps(), lines_of(bands.at((filled + 1) / args.groups), (filled + 1) % args.groups));
        }
        if (across_pixels)
          run_across_pixels(band, group, outputs * piece / output_pieces, outputs * (piece + 1) / output_pieces,
                            copy.data(), past_caches, ahead);
        else
          run_across_channels(band, group, panels * piece / output_pieces, panels * (piece + 1) / output_pieces,
                              copy.data(), past_caches, ahead);
        if (after && finishes_bands()) finish_band(band);
      }
      if (past_caches) finish_stores();
    });
    if (after && !finishes_bands()) finish_piece<S>(*after, 0, after->n);
  }
};

}  // namespace
}  // namespace nnart::cpu
