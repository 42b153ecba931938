// grad_waves of BM places of one waveform: the sum over the runs first … end - 1, which all read it. Of the
// gradient's rows that places meet each is multiplied by the filters once, in half precision by matrix units,
// and a place adds up what its taps made of them.
#include "chunks.cuh"
#include "matrix_units.cuh"
#include "rows.cuh"
#include "specialised.cuh"

constexpr int WARPS = THREADS / 32, WITHIN = TAPS > 8 ? 16 : 8;  // taps at a time
constexpr int EACH = Chunk<grad_out_t>::COUNT;  // channels of a thread, of four that share a row
constexpr int STEPS = OUT > 128 ? 32 / EACH : ceil_div(OUT, 4 * EACH), PANEL = STEPS * 4 * EACH;
constexpr int ROWS = BM + 32;  // of the gradient at a time
constexpr bool WHOLE = OUT % EACH == 0;
static_assert(BM % THREADS == 0 && ROWS % 16 == 0);

struct Products {
  float of[ROWS][WITHIN + 1];  // each row by each tap

  inline void put(int row, int tap, bool more, float value) {
    of[row][tap] = more ? of[row][tap] + value : value;
  }
};

// Positions begin … end - 1 of the fold of one sample, and the rows that their taps meet: `rows` of each
// column from `first` on, column by column.
struct Span {
  int begin, end, period, columns, column, first, rows;

  inline Span(int begin, int end, const long long *run)
      : begin(begin),
        end(end),
        period(run[RUN_PERIOD]),
        columns(min(period, end - begin)),
        column(begin % period) {
    first = ceil_div(max(0, begin / period + PADDING - TAPS + 1), STRIDE);
    rows = min(static_cast<int>(run[RUN_OUT_ROWS]), ((end - 1) / period + PADDING) / STRIDE + 1) - first;
  }
};

// A weight of the panel from `channel` on and of taps from `tap` on; zero where there is none.
inline weight_t filter(const weight_t *weight, int channel, int tap) {
  return channel < OUT && tap < TAPS ? weight[channel * TAPS + tap] : narrow<weight_t>(0);
}

// Rows of a product are the gradient's, its columns taps. Thread t of the four that have a row gives the sth
// product channels 8 · t + 4 · s to 8 · t + 4 · s + 3.
template <class T>
struct MatrixUnits {
  static constexpr int PITCH = WITHIN + 2, TILES = WITHIN / 8;

  unsigned filters[STEPS * 2][TILES][2];

  // Two channels are a word.
  inline MatrixUnits(const T *weight, int channel, int tap) {
    __shared__ unsigned shared[PANEL / 2][PITCH];
    __syncthreads();
    for (int i = threadIdx.x; i < PANEL / 2 * WITHIN; i += THREADS) {
      const int low = channel + i / WITHIN * 2, own = tap + i % WITHIN;
      shared[i / WITHIN][i % WITHIN] = word(filter(weight, low, own), filter(weight, low + 1, own));
    }
    __syncthreads();
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < STEPS * 2 * TILES * 2; ++i) {
      const int step = i / 2 / TILES, tile = i / 2 % TILES,
                pair = step / 2 * 16 + lane % 4 * 4 + step % 2 * 2 + i % 2;
      filters[step][tile][i % 2] = shared[pair][tile * 8 + lane / 4];
    }
  }

  struct Sums {
    float of[TILES][4] = {};
  };

  inline void add(Sums &sums, const T (&own)[2][EACH], int step) const {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      unsigned grads[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        grads[i] = word(own[i % 2][4 * s + i / 2 * 2], own[i % 2][4 * s + i / 2 * 2 + 1]);
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) multiply<T>(sums.of[tile], grads, filters[2 * step + s][tile]);
    }
  }

  inline void put(Products &products, Sums &sums, int row, int count, bool more) const {
    const int tap = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < TILES * 4; ++i)
      if (row + i / 2 % 2 * 8 < count)
        products.put(row + i / 2 % 2 * 8, i / 4 * 8 + tap + i % 2, more, sums.of[i / 4][i % 4]);
  }
};

template <class T>
struct MultiplyAdds {
  T *filters;

  // What the four threads of a row read at once lies in different banks.
  static inline int place(int channel) { return channel * WITHIN + channel / 4 * 4; }

  inline MultiplyAdds(const T *weight, int channel, int tap) {
    __shared__ __align__(16) T shared[PANEL * (WITHIN + 1)];
    filters = shared;
    __syncthreads();
    for (int i = threadIdx.x; i < PANEL * WITHIN; i += THREADS)
      shared[place(i / WITHIN) + i % WITHIN] = filter(weight, channel + i / WITHIN, tap + i % WITHIN);
    __syncthreads();
  }

  struct Sums {
    float of[2][WITHIN] = {};
  };

  inline void add(Sums &sums, const T (&own)[2][EACH], int step) const {
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      float by[WITHIN];
      load_whole(by, filters + place((step * 4 + threadIdx.x % 4) * EACH + n));
#pragma unroll
      for (int i = 0; i < 2 * WITHIN; ++i)
        sums.of[i / WITHIN][i % WITHIN] += own[i / WITHIN][n] * by[i % WITHIN];
    }
  }

  inline void put(Products &products, Sums &sums, int row, int count, bool more) const {
#pragma unroll
    for (int i = 0; i < 2 * WITHIN; ++i) {
      float &own = sums.of[i / WITHIN][i % WITHIN];
      own += __shfl_xor_sync(0xFFFFFFFF, own, 1);
      own += __shfl_xor_sync(0xFFFFFFFF, own, 2);
      if (threadIdx.x % 4 == i % 4 && row + i / WITHIN * 8 < count)
        products.put(row + i / WITHIN * 8, i % WITHIN, more, own);
    }
  }
};

using Product = Choose<sizeof(grad_out_t) == 4, MultiplyAdds<grad_out_t>, MatrixUnits<grad_out_t>>::Type;

// `count` rows of a span from `begin` on, counted column by column, by WITHIN taps.
inline void multiply_rows(Products &products, const grad_out_t *grads, const weight_t *weight,
                          const Span &span, int out_rows, int begin, int count, int tap) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int panel = 0; panel < OUT; panel += PANEL) {
    const Product product(weight, panel, tap);
#pragma unroll 1
    for (int first = 0; first < count; first += WARPS * 16) {  // of all warps alike: some shuffle
      const int own_row = first + threadIdx.x / 32 * 16 + lane / 4;
      Product::Sums sums;
      if (first + threadIdx.x / 32 * 16 < count) {
        const grad_out_t *from[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const unsigned number = begin + own_row + 8 * i, beside = number / span.rows;
          const int turned = span.column + beside,
                    column = turned < span.period ? turned : turned - span.period;
          const int row = column * out_rows + span.first + number - beside * span.rows;
          from[i] = grads + static_cast<long long>(row) * OUT + panel + lane % 4 * EACH;
        }
#pragma unroll 4
        for (int step = 0; step < STEPS; ++step) {
          grad_out_t own[2][EACH];
#pragma unroll
          for (int i = 0; i < 2; ++i)
            load<WHOLE>(own[i], from[i] + step * 4 * EACH,
                        own_row + 8 * i < count ? OUT - panel - (step * 4 + lane % 4) * EACH : 0);
          product.add(sums, own, step);
        }
      }
      product.put(products, sums, own_row, count, panel > 0);
    }
  }
}

// What position `at` of the fold gets of those rows.
inline float gathered(const Products &products, const Span &span, int at, int begin, int count,
                      int first_tap) {
  const int place = at / span.period, reached = place + PADDING - first_tap;
  const int column = at - place * span.period - span.column;
  const int above = (column < 0 ? column + span.period : column) * span.rows - span.first - begin;
  float total = 0;
  if (reached < 0) return total;
#pragma unroll
  for (int tap = reached % STRIDE, row = reached / STRIDE; tap < min(WITHIN, TAPS - first_tap);
       tap += STRIDE, --row) {
    const int own = above + row;
    if (row >= span.first && row < span.first + span.rows && own >= 0 && own < count)
      total += products.of[own][tap];
  }
  return total;
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
    stem_input_grad(const grad_out_t *grad_out, const weight_t *weight, grad_waves_t *grad_waves,
                    const long long *runs, const long long *tiles) {
  __shared__ Products products;
  const long long *tile = tiles + 5 * blockIdx.x;
  const int sample = tile[2], first = tile[3], length = runs[tile[0] * RUN_FIELDS + RUN_IN_ROWS];
  const int mirror = 2 * (length - 1), end = min(first + BM, length);
  float totals[BM / THREADS] = {};
  // Of each run the places themselves, and where the pad mirrors them.
  for (int index = 2 * tile[0]; index < 2 * tile[1]; ++index) {
    const long long *run = runs + index / 2 * RUN_FIELDS;
    const bool mirrored = index % 2;
    const int period = run[RUN_PERIOD], out_rows = run[RUN_OUT_ROWS],
              folded = ceil_div(length, period) * period;
    const Span span(mirrored ? max(length, mirror - end + 1) : first,
                    mirrored ? min(folded, mirror - first + 1) : end, run);
    if (span.begin >= span.end) continue;
    const grad_out_t *grads =
        grad_out + (run[RUN_GRAD_OUT_OFFSET] + static_cast<long long>(sample) * period * out_rows) * OUT;
    for (int begin = 0; begin < span.columns * span.rows; begin += ROWS) {
      const int count = min(ROWS, span.columns * span.rows - begin);
      for (int tap = 0; tap < TAPS; tap += WITHIN) {
        multiply_rows(products, grads, weight + run[RUN_WEIGHTS] * (OUT * TAPS), span, out_rows, begin, count,
                      tap);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < BM / THREADS; ++i) {
          const int place = first + i * THREADS + threadIdx.x, at = mirrored ? mirror - place : place;
          if (at >= span.begin && at < span.end) totals[i] += gathered(products, span, at, begin, count, tap);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < BM / THREADS; ++i) {
    const int place = i * THREADS + threadIdx.x;
    if (first + place < length) grad_waves[tile[4] + first + place] = narrow<grad_waves_t>(totals[i]);
  }
}
