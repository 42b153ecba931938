// Rows of channels in shared memory, each once, and where the taps of an output row find them.
//
// A tile is consecutive output rows of a run, counted through over its sequences. The window of one has a slot for each
// input row that a tap reads. A row's taps are the slots from STEP · row on; each sequence that begins within the tile
// shifts them by GAP. A slot's chunks lie one behind the other, and so do those of neighbouring slots: chunk q of
// taps × channels is q behind the first one.
#pragma once

#include "convolution_instructions.cuh"

struct Run {  // as geometry.Run
  long long weights, samples, period, in_rows, out_rows, in_offset, out_offset, grad_in_offset, grad_out_offset;
};

constexpr int zeros_behind(int number) { return number % 2 ? 0 : 1 + zeros_behind(number / 2); }

constexpr int low_bits(int zeros, int wide) { return (zeros < 3 ? zeros : 3) > wide ? (zeros < 3 ? zeros : 3) - wide : 0; }

// Where a chunk is kept that would be the `chunk`th. Eight rows of one chunk (with WIDE, four of two) that are read at
// once and are PITCH chunks apart are so in eight places of 128 bytes: no two in one bank.
template <int PITCH, int WIDE = 0>
DEVICE unsigned swizzled(unsigned chunk) {
  constexpr int zeros = zeros_behind(PITCH), bits = low_bits(zeros, WIDE), shift = zeros > 3 ? zeros : 3;
  return chunk ^ (chunk >> shift & ((1 << bits) - 1)) << WIDE;
}

// A chunk's elements from global memory, those that are `there` of them, zeros for the others; BYTES at a time.
template <int BYTES, class Stored>
DEVICE void copy_chunk(unsigned to, const Stored* from, const Stored* anywhere, int there) {
  constexpr int EACH = BYTES / sizeof(Stored);
#pragma unroll
  for (int n = 0; n < 16 / sizeof(Stored); n += EACH) {
    copy<BYTES>(to + n * sizeof(Stored), n < there ? from + n : anywhere, n < there);
  }
}

// How many bytes can be copied at once where rows of `channels` lie one behind the other.
template <class Stored>
constexpr int copied_at_once(int channels) {
  const int bytes = channels * sizeof(Stored);
  return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 2;
}

// A matrix in shared memory, rows of PITCH chunks.
template <int PITCH, int WIDE = 0>
struct Matrix {
  unsigned base, first_row, first_chunk;

  DEVICE unsigned row(int r) const { return (first_row + r) * PITCH + first_chunk; }
  DEVICE unsigned at(unsigned row, int chunk) const { return base + 16 * swizzled<PITCH, WIDE>(row + chunk); }
};

// Consecutive rows of a run: `count` of them from row `first` of `sequence` on, `each` a sequence.
struct Rows {
  int sequence, first, count, each;

  static DEVICE Rows of(long long begin, long long end, int each) {
    const int first = static_cast<int>(begin);
    return {first / each, first % each, static_cast<int>(end) - first, each};
  }
  // How many sequences further the i-th row is.
  DEVICE int further(int i) const { return (first + i) / each; }
};

// Where a window's rows lie: `rows` a sequence from `from` on, the first channel of a group. A row's first tap is
// `padding` rows before STEP times the row.
template <class Stored>
struct Source {
  const Stored* from;
  int rows, padding;
};

// A window of SLOTS rows of CHUNKS chunks; GROUP channels there are at all, in rows of PITCH. WIDE: see `swizzled`.
template <class Stored, int SLOTS, int CHUNKS, int STEP, int TAPS, int GROUP, int PITCH, int WIDE = 0>
struct Window {
  static constexpr int CHUNK_SIZE = 16 / sizeof(Stored), ROW = STEP * CHUNKS;
  static constexpr int BYTES = ceil_div(SLOTS * CHUNKS, 8) * 128;
  // A shift that leaves every chunk of a row in the same bank.
  static constexpr int GRAIN = 8 << zeros_behind(STEP);
  static constexpr int GAP = TAPS > STEP ? ceil_div(TAPS - STEP, GRAIN) * GRAIN : 0;

  // The slot of the first tap of the i-th row; of a row that is not there the first one's.
  static DEVICE int slot(const Rows& rows, int i) { return i < rows.count ? i * STEP + rows.further(i) * GAP : 0; }

  static DEVICE unsigned at(unsigned base, unsigned chunk) { return base + 16 * swizzled<ROW, WIDE>(chunk); }

  // Copies channels from `channel` on, zeros outside of each sequence and group, by THREADS threads.
  template <int THREADS>
  static DEVICE void load(unsigned base, const Rows& rows, const Source<Stored>& source, int channel) {
    const int slots = slot(rows, rows.count - 1) + TAPS, length = rows.each * STEP + GAP;
    const int before = rows.first * STEP;  // slots of the first sequence that are another tile's
    const Stored* from = source.from + (static_cast<long long>(rows.sequence) * source.rows + before - source.padding) * PITCH + channel;
    int further = 0, passed = 0;
    for (int chunk = threadIdx.x; chunk < slots * CHUNKS; chunk += THREADS) {
      const int slot = chunk / CHUNKS, own = chunk % CHUNKS * CHUNK_SIZE;
      while (slot + before - passed >= length) passed += length, ++further;
      const int row = slot + before - passed - source.padding;
      const bool inside = row >= 0 && row < source.rows;
      copy_chunk<copied_at_once<Stored>(GROUP)>(at(base, chunk), from + (further * source.rows + slot - passed) * PITCH + own,
                                                source.from, inside ? GROUP - channel - own : 0);
    }
  }
};

// Adds `depth` chunks to a product, two at a time and the last one alone.
template <class Product, class AddTwo, class AddOne>
DEVICE void add_chunks(Product& product, int depth, AddTwo add_two, AddOne add_one) {
  constexpr int AT_ONCE = 16;
  for (int first = 0; first < depth; first += AT_ONCE) {
    const int end = min(depth - first, AT_ONCE) / 2 * 2;
#pragma unroll 4
    for (int chunk = 0; chunk < end; chunk += 2) add_two(first + chunk);
    if (depth % 2 && first + AT_ONCE > depth) add_one(depth - 1);
    product.settle();
  }
}

// Runs a program's tiles, each in PARTS windows of channels, each window in STEPS stages of weights. Copies are STAGES - 1
// stages and a window ahead of the product. Of one stage the weights stay; of one window a program has no other.
template <int PARTS, int STEPS, int STAGES, int WINDOWS, class LoadWindow, class LoadWeights, class Begin, class Multiply,
          class Finish>
DEVICE void walk(int tiles, LoadWindow load_window, LoadWeights load_weights, Begin begin, Multiply multiply,
                 Finish finish) {
  constexpr bool STAY = STAGES == 1;
  static_assert(!STAY || PARTS * STEPS == 1, "weights that stay must be all of them");
  static_assert(WINDOWS == 2 || PARTS == 1, "a window's next needs memory of its own");
  static_assert(WINDOWS == 1 || STAGES <= STEPS + 1, "a window is waited for no earlier than its first stage");
  const int windows = tiles * PARTS, stages = windows * STEPS;
  load_window(0, 0);
  load_weights(0, 0);
  end_group();
  for (int stage = 1; stage < STAGES - 1; ++stage) {
    if (stage < stages) load_weights(stage, stage);
    end_group();
  }
  int stage = 0;
  for (int window = 0; window < windows; ++window) {
    if (window % PARTS == 0) begin(window / PARTS);
    for (int step = 0; step < STEPS; ++step, ++stage) {
      wait_for_copies<(STAY ? 0 : STAGES - 2)>();
      __syncthreads();
      const int next = stage + STAGES - 1;
      if (!STAY && next < stages) load_weights(next, next % STAGES);
      if (WINDOWS == 2 && step == 0 && window + 1 < windows) load_window(window + 1, (window + 1) % 2);
      end_group();
      multiply(window % WINDOWS, stage % STAGES, step);
    }
    if (window % PARTS == PARTS - 1) finish(window / PARTS);
  }
}
