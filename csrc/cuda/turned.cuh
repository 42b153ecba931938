// A row of weights, one block's: [channel of the group][tap] as parameters, [tap][channel] packed. Both are
// read and written along themselves, some channels and taps at a time, which are turned in shared memory.
#pragma once

#include "batches.cuh"

constexpr int AT_ONCE = 5248;  // elements: of 5 taps 1024 channels, of 41 taps 128
static_assert(ROWS == 1);

struct Part {  // of a row
  int channel, tap, channels, taps;
};

template <int COUNT, int SIDE>
struct Values {
  float of[COUNT][SIDE];
};

// Of a batch: its items' places in the row and, of their first elements, in shared memory.
template <int SIDE>
struct Places {
  static constexpr int COUNT = Batch<SIDE>::COUNT, ELEMENTS = COUNT * SIDE;
  int own[COUNT], at[COUNT], apart;  // elements of an item in shared memory
  Batch<SIDE> batch;

  Values<COUNT, SIDE> zeros() const { return {}; }

  template <class T>
  Values<COUNT, SIDE> load(const T *row) const {
    Values<COUNT, SIDE> values;
#pragma unroll
    for (int j = 0; j < COUNT; ++j) load_item(values.of[j], row + at[j]);
    return values;
  }

  template <class T>
  void store(T *row, const Values<COUNT, SIDE> &values) const {
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      if (batch.live(j)) store_item(row + at[j], values.of[j]);
  }

  // each(place in shared memory, j, i) of the ith element of each item j that there is.
  template <class Each>
  void each(Each each) const {
#pragma unroll
    for (int j = 0; j < COUNT; ++j)
      if (batch.live(j))
#pragma unroll
        for (int i = 0; i < SIDE; ++i) each(own[j] + i * apart, j, i);
  }
};

struct Turning {
  int channels, taps, each_channels, each_taps, parts;
  bool whole;  // rows begin at multiples of four, and so do their channels

  static Turning of(int channels, int taps, bool aligned) {
    const int each_taps = min(taps, AT_ONCE), fit = AT_ONCE / each_taps;
    const int each_channels = min(channels, fit < 32 ? fit : fit / 32 * 32);
    return {channels,
            taps,
            each_channels,
            each_taps,
            ceil_div(channels, each_channels) * ceil_div(taps, each_taps),
            aligned && channels % 4 == 0 && each_channels % 4 == 0 && each_taps == taps};
  }

  Part part(int number) const {
    const int across = ceil_div(taps, each_taps);
    const int channel = number / across * each_channels, tap = number % across * each_taps;
    return {channel, tap, min(each_channels, channels - channel), min(each_taps, taps - tap)};
  }

  // each(`Places`) in the order of the parameter's row.
  template <class Each>
  void along_raw(Part part, Each each) const {
    whole ? raw_by<4>(part, each) : raw_by<1>(part, each);
    __syncthreads();
  }

  // each(`Places`) in the order of the packed row.
  template <class Each>
  void along_packed(Part part, Each each) const {
    whole ? packed_by<4>(part, each) : packed_by<1>(part, each);
    __syncthreads();
  }

 private:
  template <int SIDE, class Each>
  void raw_by(Part part, Each each) const {
    const int beyond = taps - part.taps;  // taps of a channel that are not of the part
    batches<SIDE>(part.channels * part.taps / SIDE, [&](Batch<SIDE> batch) {
      Places<SIDE> places = {{}, {}, 1, batch};
#pragma unroll
      for (int j = 0; j < batch.COUNT; ++j) {
        const int i = places.own[j] = batch.item(j) * SIDE;
        places.at[j] = part.channel * taps + part.tap + i + (beyond ? i / part.taps * beyond : 0);
      }
      each(places);
    });
  }

  template <int SIDE, class Each>
  void packed_by(Part part, Each each) const {
    const int across = part.channels / SIDE;  // items of a tap
    int tap = threadIdx.x / across, item = threadIdx.x % across;
    const int taps_on = THREADS / across, items_on = THREADS % across;
    batches<SIDE>(across * part.taps, [&](Batch<SIDE> batch) {
      Places<SIDE> places = {{}, {}, part.taps, batch};
#pragma unroll
      for (int j = 0; j < batch.COUNT; ++j) {
        const int own_tap = min(tap, part.taps - 1);  // behind the last item another one again
        places.own[j] = item * SIDE * part.taps + own_tap;
        places.at[j] = (part.tap + own_tap) * channels + part.channel + item * SIDE;
        tap += taps_on, item += items_on;
        if (item >= across) item -= across, ++tap;
      }
      each(places);
    });
  }
};
