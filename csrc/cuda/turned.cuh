// A row of weights, one block's: [channel of the group][tap] as parameters, [tap][channel] packed. Both are
// read and written along themselves, some channels and taps at a time, which are turned in shared memory.
#pragma once

#include "batches.cuh"

constexpr int AT_ONCE = 5248;  // elements: of 5 taps 1024 channels, of 41 taps 128
static_assert(ROWS == 1);

struct Part {  // of a row
  int channel, tap, channels, taps;
};

struct Places {  // of a batch: in shared memory, and in the row
  int own[BATCH], at[BATCH];
  Batch batch;

  bool live(int j) const { return batch.live(j); }
};

struct Turning {
  int channels, taps, each_channels, each_taps, parts;

  static Turning of(int channels, int taps) {
    const int each_taps = min(taps, AT_ONCE), fit = AT_ONCE / each_taps;
    const int each_channels = min(channels, fit < 32 ? fit : fit / 32 * 32);
    return {channels, taps, each_channels, each_taps,
            ceil_div(channels, each_channels) * ceil_div(taps, each_taps)};
  }

  Part part(int number) const {
    const int across = ceil_div(taps, each_taps);
    const int channel = number / across * each_channels, tap = number % across * each_taps;
    return {channel, tap, min(each_channels, channels - channel), min(each_taps, taps - tap)};
  }

  // each(`Places`) in the order of the parameter's row.
  template <class Each>
  void along_raw(Part part, Each each) const {
    batches(part.channels * part.taps, [&](Batch batch) {
      Places places = {{}, {}, batch};
#pragma unroll
      for (int j = 0; j < BATCH; ++j) {
        const int i = places.own[j] = batch.item(j), beyond = taps - part.taps;
        places.at[j] = part.channel * taps + part.tap + i + (beyond ? i / part.taps * beyond : 0);
      }
      each(places);
    });
    __syncthreads();
  }

  // each(`Places`) in the order of the packed row.
  template <class Each>
  void along_packed(Part part, Each each) const {
    batches(part.channels * part.taps, [&](Batch batch) {
      Places places = {{}, {}, batch};
#pragma unroll
      for (int j = 0; j < BATCH; ++j) {
        const int tap = batch.item(j) / part.channels, channel = batch.item(j) % part.channels;
        places.own[j] = channel * part.taps + tap;
        places.at[j] = (part.tap + tap) * channels + part.channel + channel;
      }
      each(places);
    });
    __syncthreads();
  }
};
