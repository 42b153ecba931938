// BLOCK places of one sample at one level: the waveform itself, average-pooled once, or twice: AvgPool1d(4,
// 2, padding=2), its zeros counted.
#include "rows.cuh"
#include "specialised.cuh"

// The mean of four places of x around `at`, zeros outside.
inline float once(const sides_t *x, int at, int length) {
  float total = 0;
#pragma unroll
  for (int place = 2 * at - 2; place < 2 * at + 2; ++place)
    if (place >= 0 && place < length) total += wide(x[place]);
  return total * 0.25f;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pooled(const __grid_constant__ Pointers<const sides_t, sides_n> sides, out_t *out, const long long *tiles,
           long long length, long long length_once) {
  const long long *tile = tiles + 5 * blockIdx.x;
  const sides_t *x = sides.of[tile[0]] + tile[1];
  const int level = tile[2], first = tile[3],
            own = level == 0   ? length
                  : level == 1 ? length_once
                               : length_once / 2 + 1;
  out += tile[4];
  for (int at = first + threadIdx.x; at < min(first + BLOCK, own); at += THREADS) {
    float value = 0;
    if (level == 0) {
      value = wide(x[at]);
    } else if (level == 1) {
      value = once(x, at, length);
    } else {
#pragma unroll
      for (int place = 2 * at - 2; place < 2 * at + 2; ++place)
        if (place >= 0 && place < length_once) value += once(x, place, length);
      value *= 0.25f;
    }
    out[at] = narrow<out_t>(value);
  }
}
