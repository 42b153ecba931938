// Rows of channels in shared memory, each once, and where the taps of an output row find them.
//
// A tile is consecutive output rows of a run, counted through over its sequences. The window of one has a
// slot for each input row that a tap reads. A row's taps are the slots from STEP · row on; each sequence that
// begins within the tile shifts them by GAP. A slot's chunks lie one behind the other, and so do those of
// neighbouring slots: chunk q of taps × channels is q behind the first one.
#pragma once

#include "convolution_instructions.cuh"
#include "records.cuh"  // Run, Tile, PhaseTile, Span, made of backends/gpu/fields.py

constexpr int zeros_behind(int number) { return number % 2 ? 0 : 1 + zeros_behind(number / 2); }

// Where the byte is kept that would be the `byte`th. Eight rows' chunks (with WIDE, four rows' pairs of
// chunks) that are read at once and lie PITCH chunks apart are so in eight places of 128 bytes: no two in one
// bank. What is eight such rows further is kept as much further.
template <int PITCH, int WIDE = 0>
DEVICE unsigned swizzled(unsigned byte) {
  constexpr int zeros = zeros_behind(PITCH), low = zeros < 3 ? zeros : 3, bits = low > WIDE ? low - WIDE : 0;
  return byte ^ (byte >> (zeros > 3 ? zeros : 3) - WIDE & (1 << bits) - 1 << 4 + WIDE);
}

// f(row, chunk) of ROWS rows of PITCH chunks, shared out among THREADS threads.
template <int ROWS, int PITCH, int THREADS, class F>
DEVICE void each_chunk(F f) {
  if constexpr (THREADS % PITCH == 0 && ROWS % (THREADS / PITCH) == 0) {
    const int row = threadIdx.x / PITCH, chunk = threadIdx.x % PITCH;
#pragma unroll
    for (int further = 0; further < ROWS; further += THREADS / PITCH) f(row + further, chunk);
  } else {
    for (int chunk = threadIdx.x; chunk < ROWS * PITCH; chunk += THREADS) f(chunk / PITCH, chunk % PITCH);
  }
}

// A chunk's elements from global memory, those that are `there` of them, zeros for the others; BYTES at a
// time.
template <int BYTES, class Stored>
DEVICE void copy_chunk(unsigned to, const Stored *from, int there) {
  constexpr int EACH = BYTES / sizeof(Stored);
#pragma unroll
  for (int n = 0; n < 16 / sizeof(Stored); n += EACH) {
    copy<BYTES>(to + n * sizeof(Stored), from + n, n < there);
  }
}

// How many bytes can be copied at once where rows of `channels` lie one behind the other.
template <class Stored>
constexpr int copied_at_once(int channels) {
  const int bytes = channels * sizeof(Stored);
  return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 2;
}

// A matrix as `wgmma` takes it: rows of SPAN bytes, eight of which are STRIDE bytes from the next eight, and
// what is beyond a row LEADING bytes from it. As `swizzled` by the chunks of a row, from a multiple of eight
// rows on.
template <int SPAN, int LEADING, int STRIDE>
DEVICE unsigned long long description(unsigned address) {
  static_assert(SPAN == 128 || SPAN == 64 || SPAN == 32);
  constexpr unsigned mode = SPAN == 128 ? 1 : SPAN == 64 ? 2 : 3, high = STRIDE / 16 | mode << 30;
  return static_cast<unsigned long long>(high) << 32 | (address / 16 | LEADING / 16 << 16);
}

// A matrix in shared memory from `base` on, rows of PITCH chunks; of which an operand has those from
// `first_chunk` on.
template <int PITCH, int WIDE = 0>
struct Matrix {
  unsigned base;
  int first_chunk;

  DEVICE unsigned row(int eights, int) const { return base + 16 * eights * PITCH; }
  DEVICE unsigned at(int own, int chunk) const {
    return swizzled<PITCH, WIDE>(16 * (own * PITCH + first_chunk + chunk));
  }
  DEVICE unsigned long long described(int chunk) const {
    return description<16 * PITCH, 16, 128 * PITCH>(base + 16 * first_chunk) + chunk;
  }

  static constexpr int ROW_BYTES = 16 * PITCH;  // from each eight rows to the next
  static DEVICE unsigned place(int row, int chunk) {
    return swizzled<PITCH, WIDE>(16 * (row * PITCH + chunk));
  }
};

// The same of ROWS rows in panels of eight chunks, one behind the other.
template <int ROWS>
struct Panels {
  unsigned base;
  int first_chunk;

  DEVICE unsigned row(int eights, int) const { return base + 128 * eights; }
  DEVICE unsigned at(int own, int chunk) const { return place(own, first_chunk + chunk); }
  // Rows from the first one of two chunks of rows on.
  DEVICE unsigned long long described(int chunk) const {
    return description<128, 128 * ROWS, 1024>(base + 16 * ROWS * first_chunk) + 64 * chunk;
  }

  static constexpr int ROW_BYTES = 128;
  static DEVICE unsigned place(int row, int chunk) {
    return swizzled<8>(16 * ((chunk / 8 * ROWS + row) * 8 + chunk % 8));
  }
};

// ROWS rows of PITCH chunks, APART elements apart, as Layout has them, copied by THREADS threads, each one
// column of chunks: those of which inside(row, chunk).
template <class Layout, int ROWS, int PITCH, int APART, int THREADS, class Stored, class Inside>
DEVICE void copy_rows(unsigned to, const Stored *from, Inside inside) {
  constexpr int AT_ONCE = THREADS / PITCH;
  static_assert(THREADS % PITCH == 0 && ROWS % AT_ONCE == 0 && AT_ONCE % 8 == 0);
  const int row = threadIdx.x / PITCH, chunk = threadIdx.x % PITCH;
  from += row * APART + chunk * (16 / static_cast<int>(sizeof(Stored))), to += Layout::place(row, chunk);
#pragma unroll
  for (int further = 0; further < ROWS; further += AT_ONCE)
    copy<16>(to + further * Layout::ROW_BYTES, from + further * APART, inside(row + further, chunk));
}

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

// Where a window's rows lie: `rows` a sequence from `from` on, the first channel of a group. A row's first
// tap is `padding` rows before STEP times the row.
template <class Stored>
struct Source {
  const Stored *from;
  int rows, padding;
};

// A window of SLOTS rows of CHUNKS chunks; GROUP channels there are at all, in rows of PITCH. WIDE: see
// `swizzled`.
template <class Stored, int SLOTS, int CHUNKS, int STEP, int TAPS, int GROUP, int PITCH, int WIDE = 0>
struct Window {
  static constexpr int CHUNK_SIZE = 16 / sizeof(Stored), ROW = STEP * CHUNKS;
  static constexpr int BYTES = ceil_div(SLOTS * CHUNKS, 8) * 128;
  // A multiple of eight rows, for `swizzled`.
  static constexpr int GRAIN = 8 << zeros_behind(STEP);
  static constexpr int GAP = TAPS > STEP ? ceil_div(TAPS - STEP, GRAIN) * GRAIN : 0;

  // Bytes by which the i-th row is further than the (i % 8)th of a tile within one sequence; of a row that is
  // not there 0.
  static DEVICE unsigned shift(const Rows &rows, int i) {
    return i < rows.count ? 16 * (i / 8 * 8 * ROW + rows.further(i) * GAP * CHUNKS) : 0;
  }

  static DEVICE unsigned at(int own, int chunk) { return swizzled<ROW, WIDE>(16 * (own * ROW + chunk)); }

  // What is copied into the windows of one tile: `used` slots of the source, zeros up to eight rows' `slots`.
  struct Plan {
    const Stored *from;  // the first slot's channels
    int row, rows;       // of the source is the first slot's, counted within its sequence; a sequence has
    int used, slots, length;

    static DEVICE Plan of(const Rows &rows, const Source<Stored> &source) {
      const int last = rows.count - 1, used = last * STEP + rows.further(last) * GAP + TAPS;
      const int row = rows.first * STEP - source.padding;
      const long long first = static_cast<long long>(rows.sequence) * source.rows + row;
      const int length = rows.each * STEP + GAP;
      return {source.from + first * PITCH, row, source.rows, used, max(used, 7 * STEP + TAPS), length};
    }
  };

  // Copies channels from `channel` on, zeros outside of each sequence and group, by THREADS threads.
  template <int THREADS>
  static DEVICE void load(unsigned base, const Plan &plan, int padding, int channel) {
    if constexpr (THREADS % CHUNKS == 0) {
      constexpr int SLOTS_AT_ONCE = THREADS / CHUNKS;
      const int own = threadIdx.x % CHUNKS * CHUNK_SIZE,
                left = GROUP % (CHUNKS * CHUNK_SIZE) ? GROUP - channel - own : CHUNK_SIZE;
      const Stored *from = plan.from + static_cast<int>(threadIdx.x / CHUNKS) * PITCH + channel + own;
      int row = plan.row, slot = threadIdx.x / CHUNKS;
      const unsigned first = base + place(slot, threadIdx.x % CHUNKS);
      const auto to = [&] {
        return SLOTS_AT_ONCE % GRAIN == 0
                   ? first + 16 * CHUNKS * (slot - static_cast<int>(threadIdx.x / CHUNKS))
                   : base + place(slot, threadIdx.x % CHUNKS);
      };
      for (; slot < plan.used; slot += SLOTS_AT_ONCE, from += SLOTS_AT_ONCE * PITCH) {
        while (row + slot >= plan.length - padding)
          row -= plan.length, from += (plan.rows - plan.length) * PITCH;
        const bool inside = static_cast<unsigned>(row + slot) < static_cast<unsigned>(plan.rows);
        copy_chunk<BYTES_AT_ONCE>(to(), from, inside ? left : 0);
      }
      for (; slot < plan.slots; slot += SLOTS_AT_ONCE) copy_chunk<BYTES_AT_ONCE>(to(), from, 0);
    } else {
      for (int chunk = threadIdx.x; chunk < plan.slots * CHUNKS; chunk += THREADS) {
        const int slot = chunk / CHUNKS, own = chunk % CHUNKS * CHUNK_SIZE;
        const int further = (plan.row + padding + slot) / plan.length,
                  row = plan.row + slot - further * plan.length;
        const bool inside = row >= 0 && row < plan.rows && slot < plan.used;
        const Stored *from = plan.from + (slot + further * (plan.rows - plan.length)) * PITCH + channel + own;
        copy_chunk<BYTES_AT_ONCE>(base + place(slot, chunk % CHUNKS), from,
                                  inside ? GROUP - channel - own : 0);
      }
    }
  }

  static constexpr int BYTES_AT_ONCE = copied_at_once<Stored>(GROUP);

  static DEVICE unsigned place(int slot, int chunk) {
    return swizzled<ROW, WIDE>(16 * (slot * CHUNKS + chunk));
  }
};

// A tile's rows as a plain left operand: rows 16 or 8 apart, each with its shift.
template <class Window, int COUNT>
struct WindowRows {
  unsigned base;
  int own, first;
  const unsigned (&shifts)[COUNT];

  DEVICE unsigned at(int chunk) const { return base + Window::at(own, first + chunk); }
  DEVICE unsigned shift(int i) const { return shifts[i]; }
};

// Adds `depth` chunks to a product, two at a time and the last one alone.
template <class Product, class AddTwo, class AddOne>
DEVICE void add_chunks(Product &product, int depth, AddTwo add_two, AddOne add_one) {
  for (int first = 0; first < depth; first += Product::AT_ONCE) {
    const int end = min(depth - first, Product::AT_ONCE) / 2 * 2;
#pragma unroll Product::UNROLLED
    for (int chunk = 0; chunk < end; chunk += 2) add_two(first + chunk);
    if (depth % 2 && first + Product::AT_ONCE > depth) add_one(depth - 1);
    product.settle();
  }
}

// A stage of weights, or with STEPS 1 a window: of which tile, of which part of its channels.
template <int PARTS, int STEPS>
struct Stage {
  int tile = 0, part = 0, step = 0;

  DEVICE void advance() {
    if (++step < STEPS) return;
    step = 0;
    if (++part < PARTS) return;
    part = 0, ++tile;
  }
};

// The next of COUNT buffers.
template <int COUNT>
DEVICE int next_of(int buffer) {
  return buffer + 1 == COUNT ? 0 : buffer + 1;
}

// Runs a program's tiles, each in PARTS windows of channels, each window in STEPS stages of weights. Copies
// are STAGES - 1 stages and a window ahead of the product, one less where products of the latest stage are
// still ON_WAY. Of one stage the weights stay; of one window a program has no other.
template <int PARTS, int STEPS, int STAGES, int WINDOWS, bool ON_WAY, class LoadWindow, class LoadWeights,
          class Begin, class Multiply, class Finish>
DEVICE void walk(int tiles, LoadWindow load_window, LoadWeights load_weights, Begin begin, Multiply multiply,
                 Finish finish) {
  constexpr bool STAY = STAGES == 1;
  constexpr int AHEAD = STAY ? 1 : STAGES - 1 - ON_WAY;
  static_assert(!STAY || PARTS * STEPS == 1, "weights that stay must be all of them");
  static_assert(WINDOWS == 2 || PARTS == 1, "a window's next needs memory of its own");
  static_assert(WINDOWS == 1 || AHEAD <= STEPS, "a window is waited for no earlier than its first stage");
  Stage<PARTS, STEPS> weights;
  Stage<PARTS, 1> window;
  int filled = 0, window_filled = 0, used = 0, window_used = 0;  // buffers
  const auto load_next_weights = [&] {
    if (weights.tile < tiles) load_weights(weights, filled);
    weights.advance(), filled = next_of<STAGES>(filled);
  };
  const auto load_next_window = [&] {
    if (window.tile < tiles) load_window(window, window_filled);
    window.advance(), window_filled = next_of<WINDOWS>(window_filled);
  };
  load_next_window();
  load_next_weights();
  end_group();
  for (int stage = 1; stage < AHEAD; ++stage) {
    load_next_weights();
    end_group();
  }
  const auto add_stage = [&](int step) {
    wait_for_copies<AHEAD - 1>();
    if constexpr (ON_WAY) show_copies();
    __syncthreads();
    if (!STAY) load_next_weights();
    if (WINDOWS == 2 && step == 0) load_next_window();
    end_group();
    multiply(window_used, used, step);
    used = next_of<STAGES>(used);
  };
  if constexpr (ON_WAY) {
    // Loops of products and nothing else that sets sums: the compiler would wait for the products before
    // that.
    for (int tile = 0; tile < tiles; ++tile) {
      begin(tile);
#pragma unroll 1
      for (int part = 0; part < PARTS; ++part) {
#pragma unroll 1
        for (int step = 0; step < STEPS; ++step) add_stage(step);
        window_used = next_of<WINDOWS>(window_used);
      }
      finish(tile);
    }
    return;
  }
  Stage<PARTS, STEPS> now;
  while (now.tile < tiles) {
    if (now.part + now.step == 0) begin(now.tile);
    add_stage(now.step);
    if (now.step == STEPS - 1) window_used = next_of<WINDOWS>(window_used);
    if (now.step == STEPS - 1 && now.part == PARTS - 1) finish(now.tile);
    now.advance();
  }
}

// The same of tiles whose sums are one result, a stage each: load(tile, buffer), multiply(buffer).
template <int STAGES, bool ON_WAY, class Load, class Multiply>
DEVICE void walk_tiles(int tiles, Load load, Multiply multiply) {
  constexpr int AHEAD = STAGES - 1 - ON_WAY;
  for (int tile = 0; tile < AHEAD; ++tile) {
    if (tile < tiles) load(tile, tile);
    end_group();
  }
  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<AHEAD - 1>();
    if constexpr (ON_WAY) show_copies();
    __syncthreads();
    const int next = tile + AHEAD;
    if (next < tiles) load(next, next % STAGES);
    end_group();
    multiply(tile % STAGES);
  }
}
