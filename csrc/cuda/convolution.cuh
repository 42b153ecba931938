// What the three directions are compiled for. Behind `specialised.cuh`, with Element the maps': of a layer
// IN, OUT, GROUPS, TAPS, STRIDE, PADDING; of blocks.Blocks its fields; SHARED bytes that a launch gives.
#pragma once

constexpr int GROUP_IN = IN / GROUPS, GROUP_OUT = OUT / GROUPS, SIZE = CHUNK<Element>;
constexpr bool IN_TF32 = Kind<Element, TF32>::IN_TF32;
constexpr int WIDE = IN_TF32;            // words are read by four rows of two chunks, see `swizzled`
constexpr int CHUNKS = CHANNELS / SIZE;  // of a window's row
constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ALONG;

extern __shared__ __align__(1024) unsigned char shared[];

DEVICE int warp_down() { return threadIdx.x / 32 % WARPS_DOWN; }
DEVICE int warp_along() { return WARPS_ALONG == 1 ? 0 : threadIdx.x / 32 / WARPS_DOWN; }

// Of the second axis of the grid: a block of a group's channels.
struct Columns {
  int group, first;

  static DEVICE Columns of(int channels, int block) {
    const int blocks = ceil_div(channels, block), number = blockIdx.y;
    return {number / blocks, number % blocks * block};
  }
};
