// A walk over stages of shared memory, which the copy engine fills one after another, round and round.
#pragma once

#include "kernel.cuh"

// Where a walk over the stages is.
struct Turn {
  int stage;
  unsigned parity;  // Of the phase that `full` is in.
};

template <int STAGES>
DEVICE void advance(Turn& turn, int by) {
  const int to = turn.stage + by;
  turn.parity ^= to / STAGES & 1;
  turn.stage = to % STAGES;
}
