// Plain data that crosses the boundary between Python, the bindings and the kernels.
#pragma once

#include <cstdint>

namespace hifigan {

// An element of a feature map in bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

// One convolution along time. slope is the leaky ReLU's; 1 means none.
struct Conv {
  int64_t in_channels, out_channels, taps, stride, padding, groups;
  float slope;

  int64_t in_group() const { return in_channels / groups; }
  int64_t out_group() const { return out_channels / groups; }
  int64_t filter_floats() const { return out_channels * in_group() * taps; }
};

// One set of a convolution's weights, [out channels][in channels of a group][taps]: effective weights
// are raw · scale, a scale an output channel.
struct Filters {
  const float *raw, *scale;
};

// Where the gradients of one set go: of raw, and inner[o] = <the effective weight's gradient, raw> a row.
struct FilterGrads {
  const float *norms;  // of raw's rows; null without weight norm
  float *raw, *inner;
};

// The sequences of one discriminator and one half (real or generated) at one depth. Rows lie one
// after another in flat buffers: row r of sequence q is row `offset + q * rows + r`. A stem's input
// is the waveform: in_rows is then its length, in_offset counts samples, and a sequence is one
// column of the fold at `period`.
struct Run {
  int64_t weights;  // which set of weights
  int64_t samples, period;
  int64_t in_rows, out_rows;
  int64_t in_offset, out_offset;            // activations
  int64_t grad_in_offset, grad_out_offset;  // gradients, of the halves that have one

  int64_t sequences() const { return samples * period; }
};
constexpr int kRunFields = 9;

// A strided convolution or its input gradient as a correlation of stride 1 (docs/design.md, "One
// correlation, three directions"): tap j of output row h meets the `phases` operand rows that begin
// at phases * (h + j) + origin; rows outside the sequence are zero.
struct Correlation {
  int64_t row_channels;  // channels of an operand row
  int64_t channels;      // of these, what one group reads
  int64_t phases, origin, taps;
  int64_t window;   // operand rows that an output row meets: phases * taps, less what no tap reaches
  int64_t columns;  // output columns of a group
  int64_t groups;
};

// Lengths of the transforms and how many products each makes; see transform.h.
struct TransformSize {
  int64_t length, products;
};
constexpr TransformSize kTransforms[] = {
    {4, 4},   {8, 11},  {12, 17}, {14, 20}, {16, 23}, {18, 26}, {20, 29}, {24, 35},
    {28, 41}, {32, 47}, {36, 53}, {40, 59}, {48, 71}, {56, 83}, {64, 95}, {1, 1},
};
constexpr int kTransformCount = sizeof(kTransforms) / sizeof(kTransforms[0]);
constexpr int64_t kToomCook = 0, kRowwise = kTransformCount - 1;  // their indices
constexpr int64_t kDirect = -1;                                   // no transform
constexpr int64_t kDirectRows = 64;                               // of a segment then
constexpr int64_t kLongestTransform = 64, kMostProducts = 95;

// Consecutive output rows of one sequence, computed by one transform, or without one.
struct Segment {
  int64_t run, sequence;
  int64_t first, count;           // output rows
  int64_t operand, operand_rows;  // the sequence's first row, and how many there are
};

// The segments that share a set of weights and a transform. Taps are cut into `blocks` of
// `block_taps`, which are summed like channels. Taps before the first block, or past the last, meet
// padding only.
struct Piece {
  int64_t set;
  int64_t transform, first_tap, block_taps, blocks;
  const Segment *segments;
  int64_t count;

  const TransformSize &size() const { return kTransforms[transform]; }
  int64_t outputs() const {  // of a segment, at least
    return transform == kDirect ? kDirectRows : size().length - block_taps + 1;
  }
};

// Segments that one transform of the weights serves: many, but their products shall stay in cache.
constexpr int64_t chunk_segments(const TransformSize &size) {
  const int64_t fit = 2304 / size.products / 24 * 24;
  return fit < 96 ? 96 : fit > 768 ? 768 : fit;
}

// What an input gradient adds to a run's rows: a gradient, or that of scale * |rows - other side's|.
template <class T>
struct MapGrad {
  const T *at = nullptr;  // the gradient, or the other side's rows; null: nothing is added
  bool is_match = false;
  float scale = 0;
};

// One pair of feature maps of equal layout, as flat memory.
template <class T>
struct MapPair {
  const T *real, *generated;
  T *grad_real, *grad_generated;  // null: not wanted
  int64_t count;
};

}  // namespace hifigan
