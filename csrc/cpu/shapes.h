// Plain data that crosses the boundary between Python, the bindings and the kernels.
#pragma once

#include <cstdint>

namespace hifigan {

// One convolution along time. slope is the leaky ReLU's; 1 means none.
struct Conv {
  int64_t in_channels, out_channels, taps, stride, padding, groups;
  float slope;

  int64_t in_group() const { return in_channels / groups; }
  int64_t out_group() const { return out_channels / groups; }
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

// A block of product columns within one group: its packed weights are [taps][channels][width].
struct Panel {
  int64_t weights;                // first packed float, within the group
  int64_t first_column, columns;  // columns that exist; the packed width is padded to vectors
  int64_t first, taps;            // window: operand rows row * step + first ... + taps - 1
};

// A matrix product whose rows overlap: row r reads operand rows r * step + window. A forward pass
// and an input gradient are both one of these (docs/design.md, "One product, three directions").
struct Product {
  int64_t row_channels;    // floats from one operand row to the next
  int64_t group_channels;  // operand channels that a group reads
  int64_t step;
  int64_t groups;
  const Panel *panels;  // of one group
  int64_t panel_count;
  int64_t group_floats;  // packed floats of one group
};

// The part of a product that belongs to one run: the same weights, sequences of equal length.
struct Piece {
  const float *operand;  // the run's first row
  const float *weights;  // the run's set
  int64_t sequences, rows, operand_rows;
};

// One pair of feature maps of equal layout, as flat memory.
struct MapPair {
  const float *real, *generated;
  float *grad_real, *grad_generated;  // null: not wanted
  int64_t count;
};

}  // namespace hifigan
