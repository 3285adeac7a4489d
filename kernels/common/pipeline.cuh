// The state of a pipeline: a ring of stages in shared memory that TMA fills one after another.
#pragma once

#include "kernel.cuh"

// The current stage, and the parity of its current phase.
struct PipelineState {
  int stage;
  unsigned parity;  // Parity of the phase of `full`.
};

template <int STAGES>
DEVICE void advance(PipelineState& state, int by) {
  const int to = state.stage + by;
  state.parity ^= to / STAGES & 1;
  state.stage = to % STAGES;
}
