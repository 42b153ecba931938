// A row of weights, one warp's: [channel of the group][tap] as parameters, [tap][channel] packed. Both are
// read and written along themselves, some channels and taps at a time, which are turned in shared memory.
#pragma once

#include "specialised.cuh"

constexpr int AT_ONCE = 1536;  // elements: of 41 taps 32 channels
static_assert(THREADS == 32 * ROWS);

struct Turning {
  int channels, taps, each_channels, each_taps;
  float *own;  // of this warp

  static Turning of(int channels, int taps, float (&shared)[ROWS][AT_ONCE]) {
    const int each_taps = min(taps, AT_ONCE), fit = AT_ONCE / each_taps;
    return {channels, taps, fit < 32 ? fit : fit / 32 * 32, each_taps, shared[threadIdx.x / 32]};
  }

  // each(first channel, first tap, channels, taps) of every part.
  template <class Each>
  void parts(Each each) const {
    for (int channel = 0; channel < channels; channel += each_channels)
      for (int tap = 0; tap < taps; tap += each_taps)
        each(channel, tap, min(each_channels, channels - channel), min(each_taps, taps - tap));
  }

  // each(place in shared memory, place in the parameter's row), in the order of the parameter's row.
  template <class Each>
  void along_raw(int channel, int tap, int own_channels, int own_taps, Each each) const {
    for (int i = threadIdx.x % 32; i < own_channels * own_taps; i += 32) {
      const int at =
          own_taps == taps ? channel * taps + i : (channel + i / own_taps) * taps + tap + i % own_taps;
      each(own[i], at);
    }
    __syncwarp();
  }

  // each(place in shared memory, place in the packed row), in the order of the packed row.
  template <class Each>
  void along_packed(int channel, int tap, int own_channels, int own_taps, Each each) const {
    for (int t = 0; t < own_taps; ++t)
      for (int c = threadIdx.x % 32; c < own_channels; c += 32)
        each(own[c * own_taps + t], (tap + t) * channels + channel + c);
    __syncwarp();
  }
};
