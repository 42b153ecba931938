// A correlation chunk by chunk: operand rows are transformed once into memory that all threads share,
// then each (group, panel of columns) transforms its weights, multiplies, and transforms back.
#pragma once

#include "direct.h"
#include "transform.h"

namespace hifigan {
namespace HIFIGAN_ISA {

constexpr int64_t kSharedFloats = 1 << 20;  // of transformed operands, a thread

// Floats from one product to the next: the products of one vector are stored together, and shall not
// all lie in the same set of the cache.
inline int64_t staggered(int64_t floats) { return round_up(floats, 1024 / 4) + kWidth; }

// What the elements of a transformed operand are: floats, or, where maps are bfloat16 and the machine
// multiplies pairs of them, two neighbours of the sum in one: positions in a correlation, segments in a
// weight gradient.
enum class Pairing { none, positions, segments };

// A part of a sum: some channels, some blocks of taps, all phases; its positions are ordered
// [tap block][phase][channel].
struct Part {
  int64_t channel, channels, block, blocks;
  int64_t positions;
  int64_t offset, pitch;  // in a transformed row: floats of the parts before it, and its own

  bool has_last_tap(const Correlation &c, const Piece &piece) const {
    return piece.first_tap + (block + blocks) * piece.block_taps >= c.taps;
  }
};

// How the sum over (channel, block of taps, phase) is cut into parts of about kPartTerms positions.
struct Parts {
  int64_t channels, phases, blocks;
  int64_t channel_step, block_step;  // of a part
  int64_t at_once, spill;            // positions in a float; floats that the last vector of a row may spill

  Parts(const Correlation &c, const Piece &piece, Pairing pairing)
      : channels(c.channels),
        phases(c.phases),
        blocks(piece.blocks),
        at_once(pairing == Pairing::positions ? 2 : 1),
        spill(c.channels % kWidth ? kWidth : 0) {
    const int64_t most = greater(kWidth, kPartTerms / phases / kWidth * kWidth);
    channel_step = lesser(channels, lesser(kChannelsAtOnce, most));
    block_step = lesser(blocks, greater(1, kPartTerms / (phases * channel_step)));
  }
  int64_t blocks_of_parts() const { return ceil_div(blocks, block_step); }
  int64_t count() const { return ceil_div(channels, channel_step) * blocks_of_parts(); }
  int64_t row_floats() const { return channels * phases * blocks / at_once + count() * spill; }

  Part at(int64_t index) const {
    const int64_t channel = index / blocks_of_parts() * channel_step;
    const int64_t block = index % blocks_of_parts() * block_step;
    const int64_t own = lesser(channel_step, channels - channel), most = lesser(block_step, blocks - block);
    const int64_t before = phases * (channel * blocks + block * own), positions = phases * own * most;
    return {
        channel, own, block, most, positions, before / at_once + index * spill, positions / at_once + spill};
  }
  int64_t filter_floats(int64_t products) const {
    return products * staggered(channel_step * block_step * phases * kPanel);
  }
};

// Transformed operands of one chunk: [group][product][part][segment or pair of them][position or pair]. A
// part's rows lie one after another, as they are read.
struct Shared {
  float *at;
  int64_t rows, row_floats, products;

  float *group(int64_t g) const { return at + g * products * product_floats(); }
  int64_t product_floats() const { return staggered(rows * row_floats); }
};

// What one vector of channels of a segment meets in one phase and block of taps.
template <class T>
struct Window {
  const T *rows;
  int64_t step, low, high, length;  // rows low ... high - 1 of `length` lie in the sequence

  Window(const Correlation &c, const Piece &piece, const Segment &segment, const T *operand, int64_t part)
      : step(c.phases * c.row_channels), length(piece.size().length) {
    const int64_t block = part / c.phases, phase = part % c.phases;
    const int64_t tap = piece.first_tap + block * piece.block_taps;
    const int64_t start = c.phases * (segment.first + tap) + phase + c.origin;
    const int64_t room = segment.operand_rows - start;
    low = start < 0 ? lesser(length, ceil_div(-start, c.phases)) : 0;
    high = greater(low, room <= 0 ? 0 : lesser(length, ceil_div(room, c.phases)));
    rows = operand + (segment.operand + start) * c.row_channels;
  }
  void read(int64_t channel, int64_t lanes, Vec *x) const {
    for (int64_t i = 0; i < low; ++i) x[i] = Vec{};
    for (int64_t i = high; i < length; ++i) x[i] = Vec{};
    for (int64_t i = low; i < high; ++i) x[i] = load_lanes(rows + i * step + channel, lanes);
  }
};

// Transforms one group of a segment, or of two into pairs (`second` may be null: zeros), to row `row`.
template <Pairing P, class T>
void transform_segment(const Correlation &c, const Piece &piece, const Parts &parts, const Segment &segment,
                       const Segment *second, const T *operand, const Shared &shared, int64_t g,
                       int64_t row) {
  const int64_t products = shared.products, pitch = shared.product_floats();
  const auto left = kTransformers[piece.transform].left;
  Vec x[kLongestTransform];
  float one[kMostProducts * kWidth], other[kMostProducts * kWidth];
  for (int64_t index = 0; index < parts.count(); ++index) {
    const Part part = parts.at(index);
    float *to = shared.group(g) + shared.rows * part.offset + row * part.pitch;
    for (int64_t tap = 0; tap < part.blocks * c.phases; ++tap) {
      const Window<T> window(c, piece, segment, operand, part.block * c.phases + tap);
      for (int64_t n = 0; n < part.channels; n += kWidth) {
        const int64_t lanes = lesser(kWidth, part.channels - n), position = tap * part.channels + n;
        window.read(part.channel + n, lanes, x);
        // Lanes past `lanes` are zero, and overwritten by the next tap; the pitch leaves room for the last.
        if constexpr (P == Pairing::none) {
          left(x, to + position, pitch);
          continue;
        }
        left(x, one, kWidth);
        if constexpr (P == Pairing::positions) {
          for (int64_t p = 0; p < products; ++p)
            store(reinterpret_cast<BFloat16 *>(to + p * pitch) + position, load(one + p * kWidth));
        } else {
          if (second) {
            Window<T>(c, piece, *second, operand, part.block * c.phases + tap)
                .read(part.channel + n, lanes, x);
            left(x, other, kWidth);
          } else {
            std::memset(other, 0, static_cast<std::size_t>(products * kWidth) * sizeof(float));
          }
          store_pairs(one, other, products, to + position, pitch);
        }
      }
    }
  }
}

// One chunk of a piece: some of its segments, some of the groups.
struct Chunk {
  const Piece &piece;
  const Segment *segments;
  int64_t count;
  int64_t first_group, groups;
  bool first, last;  // of its groups' chunks
  Shared shared;
};

// Calls body(chunk, parts) with the transformed operands of one chunk after another.
template <Pairing P, class T, class Body>
void for_chunks(const Correlation &c, const Piece &piece, const T *operand, int threads, const Body &body) {
  const Parts parts(c, piece, P);
  const int64_t most = lesser(piece.count, chunk_segments(piece.size())), padded = round_up(most, kRows);
  constexpr int64_t at_once = P == Pairing::segments ? 2 : 1;
  const int64_t group_floats = piece.size().products * staggered(padded / at_once * parts.row_floats());
  const int64_t groups_at_once =
      lesser(c.groups, greater(1, greater(1, threads) * kSharedFloats / group_floats));
  for (int64_t first = 0; first < piece.count; first += most) {
    for (int64_t group = 0; group < c.groups; group += groups_at_once) {
      Chunk chunk{piece,
                  piece.segments + first,
                  lesser(most, piece.count - first),
                  group,
                  lesser(groups_at_once, c.groups - group),
                  first == 0,
                  first + most >= piece.count,
                  {nullptr, padded / at_once, parts.row_floats(), piece.size().products}};
      chunk.shared.at =
          scratch(Scratch::shared, static_cast<std::size_t>(chunk.groups * group_floats + kRows));
      // A task is about as many rows as the longest transform has.
      const int64_t batch = kLongestTransform / piece.size().length * at_once;
      parallel_for(threads, chunk.groups * ceil_div(chunk.count, batch), [&](int64_t task) {
        const int64_t g = task % chunk.groups, begin = task / chunk.groups * batch;
        for (int64_t s = begin; s < lesser(chunk.count, begin + batch); s += at_once) {
          const Segment *second = s + 1 < chunk.count ? chunk.segments + s + 1 : nullptr;
          transform_segment<P>(c, piece, parts, chunk.segments[s], second, operand + (group + g) * c.channels,
                               chunk.shared, g, s / at_once);
        }
      });
      body(chunk, parts);
    }
  }
}

// The filters of one part, rounded to the maps' element and transformed: [product][position or pair][column].
template <bool Pairs, class T, class Turned>
void transform_filters(const Correlation &c, const Piece &piece, const Part &part, const Turned &turned,
                       int64_t width, float *to) {
  constexpr int64_t at_once = Pairs ? 2 : 1;
  const auto right = kTransformers[piece.transform].right;
  const int64_t products = piece.size().products, count = part.channels;
  const int64_t pitch = staggered(part.positions / at_once * width);
  Vec g[kLongestTransform];
  float one[kMostProducts * kWidth], other[kMostProducts * kWidth];
  const auto read = [&](int64_t b, int64_t phase, int64_t n, int64_t v) {
    for (int64_t j = 0; j < piece.block_taps; ++j) {
      const float *tap = turned.at(piece.first_tap + (part.block + b) * piece.block_taps + j, phase, n);
      g[j] = tap ? rounded<T>(load(tap + v)) : Vec{};
    }
  };
  for (int64_t b = 0; b < part.blocks; ++b)
    for (int64_t phase = 0; phase < c.phases; ++phase)
      for (int64_t n = 0; n < count; n += at_once)
        for (int64_t v = 0; v < width; v += kWidth) {
          float *at = to + ((b * c.phases + phase) * count + n) / at_once * width + v;
          read(b, phase, n, v);
          if constexpr (Pairs) {
            right(g, piece.block_taps, one, kWidth);
            read(b, phase, n + 1, v);
            right(g, piece.block_taps, other, kWidth);
            store_pairs(one, other, products, at, pitch);
          } else {
            right(g, piece.block_taps, at, pitch);
          }
        }
}

// Sums of a tile's rows past the last segment are written too, and never read.
inline int64_t padded_rows(int64_t segments) { return round_up(segments, kRows); }

// The sums of one panel over all positions: [product][segment][column].
template <bool Pairs, class T, class Source>
void sum_products(const Correlation &c, const Chunk &chunk, const Parts &parts, int64_t g,
                  const Source &source, const Panel &panel, float *sums, float *filters, float *turned_at) {
  const Piece &piece = chunk.piece;
  const Shared &shared = chunk.shared;
  const int64_t width = panel.width(), sum_floats = staggered(padded_rows(chunk.count) * width);
  constexpr int64_t at_once = Pairs ? 2 : 1;
  for (int64_t index = 0; index < parts.count(); ++index) {
    const Part part = parts.at(index);
    if (part.block == 0)
      source.turn(piece.set, chunk.first_group + g, part.channel, part.channels, panel, turned_at);
    const auto turned = source.turned(panel, turned_at);
    const bool last = part.has_last_tap(c, piece);
    transform_filters<Pairs, T>(c, piece, part, turned, width, filters);
    for (int64_t p = 0; p < shared.products; ++p) {
      const float *rows = shared.group(g) + p * shared.product_floats() + shared.rows * part.offset;
      const int64_t needed = source.needed(piece, p, panel, part.channels, part.positions, last);
      const float *columns = filters + p * staggered(part.positions / at_once * width);
      matrix_product<Pairs>(panel, {rows, part.pitch, 1, columns, width, needed / at_once}, chunk.count,
                            index == 0, sums + p * sum_floats);
    }
  }
}

// One chunk's sums, transformed back and stored. False if any result is not finite.
template <bool Pairs, class T, class Source, class Store>
bool correlate_chunk(const Correlation &c, const Chunk &chunk, const Parts &parts, const Source &source,
                     int threads, const Store &store) {
  bool finite = true;
  const Piece &piece = chunk.piece;
  const int64_t products = piece.size().products, panels = panel_count(c.columns);
  parallel_for(threads, chunk.groups * panels, [&](int64_t task) {
    const int64_t g = task / panels;
    const Panel panel = source.panel(task % panels);
    const int64_t sum_floats = staggered(padded_rows(chunk.count) * panel.width());
    const int64_t filter_floats = parts.filter_floats(products);
    float *sums = scratch(Scratch::own, static_cast<std::size_t>(products * sum_floats + filter_floats +
                                                                 source.floats(parts.channel_step)));
    float *filters = sums + products * sum_floats;
    sum_products<Pairs, T>(c, chunk, parts, g, source, panel, sums, filters, filters + filter_floats);
    Vec y[kLongestTransform], zero = {};
    for (int64_t s = 0; s < chunk.count; ++s)
      for (int64_t v = 0; v < panel.columns; v += kWidth) {
        const Segment &segment = chunk.segments[s];
        kTransformers[piece.transform].inverse(sums + s * panel.width() + v, sum_floats, piece.block_taps,
                                               segment.count, y);
        for (int64_t i = 0; i < segment.count; ++i) zero += y[i] * 0.0f;
        store(segment, chunk.first_group + g, panel.first + v, y, lesser(kWidth, panel.columns - v));
      }
    if (sum(zero) != 0.0f) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
  });
  return finite;
}

template <bool Pairs, class T, class Source, class Store>
bool correlate_as(const Correlation &c, const Piece *pieces, int64_t piece_count, const T *operand,
                  const Source &source, int threads, const Store &store) {
  bool finite = true;
  for (int64_t i = 0; i < piece_count; ++i) {
    if (pieces[i].transform == kDirect) {
      correlate_directly<Pairs>(c, pieces[i], operand, source, threads, store);
      continue;
    }
    for_chunks<Pairs ? Pairing::positions : Pairing::none>(
        c, pieces[i], operand, threads, [&](const Chunk &chunk, const Parts &parts) {
          finite &= correlate_chunk<Pairs, T>(c, chunk, parts, source, threads, store);
        });
  }
  return finite;
}

// A whole correlation. Source orders the panels and turns their filters; store(segment, group, column, y,
// lanes) takes the results: y[i] is output row segment.first + i, columns `column` ... `column` + lanes - 1.
// False if any result of a transform is not finite: it spreads what a sum over taps keeps apart.
template <class T, class Source, class Store>
bool correlate(const Correlation &c, const Piece *pieces, int64_t piece_count, const T *operand,
               const Source &source, int threads, const Store &store) {
  if (kHasPairs && sizeof(T) == sizeof(BFloat16) && c.channels % kWidth == 0)
    return correlate_as<kHasPairs>(c, pieces, piece_count, operand, source, threads, store);
  return correlate_as<false>(c, pieces, piece_count, operand, source, threads, store);
}

}  // namespace HIFIGAN_ISA
}  // namespace hifigan
