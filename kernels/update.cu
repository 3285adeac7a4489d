// An optimizer's update of every element of a parameter arena, given as a program, with gradient clipping:
//
//   g = grad min(1, max_norm / (norm + 1e-6))
//   run the program on 16 registers: r0 = p, r1 = g, r2 = state0, r3 = state1, r4 = lr, r5 = 1 or 0 (weight decay
//   applies or not), r6 = bias1, r7 = bias2
//   p = r0, state0 = r2, state1 = r3, copy = r0 rounded to bf16
//
// p, grad, state0, state1: n contiguous floats, n a multiple of 64; the states may be absent (null). copy: n bf16, or
// absent (null). The byte decay_mask[i / 64] says whether weight decay applies to element i. program: instructions of
// two words, opcode | to << 8 | a << 16 | b << 24 and the bits of a constant (src/device/ops/update.rs has the opcodes).
//
// Roofline. Lion moves 20 bytes per element (p, grad and one state; two are written) and runs 12 instructions. Memory
// gives an H100's SM about 25 bytes/ns, so an element takes 0.8 ns: 1.4 clocks. The registers of a thread lie in shared
// memory, since they are chosen at run time: an instruction reads two and writes one, 12 bytes, and shared memory moves
// 128 bytes a clock. So 12 instructions take 1.1 clocks of shared memory and the kernel is near the point where both
// limits meet. A fused kernel (adamw.cu) is bound by memory alone.
//
// A thread's registers are in a column of its own, so accesses of a warp never conflict, and no other thread reads them.
// The program is the same for all threads: branches do not diverge.
#include "common/philox.cuh"
#include "common/vector.cuh"

constexpr int kThreads = 256;
// Elements of a thread, a block's width apart.
constexpr int kEach = 4;
constexpr int kGroup = 64;
constexpr int kRegisters = 16;
constexpr int kMaxInstructions = 64;

enum Opcode { kConst = 1, kMove, kAdd, kSub, kMul, kDiv, kSqrt, kSign, kAbs, kMax, kMin };

KERNEL(update_f32, kThreads, 4, float* __restrict__ params, const float* __restrict__ grads, float* __restrict__ state0,
       float* __restrict__ state1, const unsigned char* __restrict__ decay_mask, const float* __restrict__ norm,
       const StepState* __restrict__ state, const unsigned* __restrict__ program, bf16* __restrict__ copy,
       int instructions, int groups, float max_norm) {
  SMEM(float, registers, [kRegisters][kThreads]);
  SMEM(unsigned, code, [2 * kMaxInstructions]);
  for (int i = threadIdx.x; i < 2 * instructions; i += kThreads) code[i] = program[i];
  __syncthreads();

  float clip = fminf(max_norm / (*norm + 1e-6f), 1.0f);
  float lr = state->lr, bias1 = state->bias1, bias2 = state->bias2;
  int own = threadIdx.x;
  long long first = row_start(blockIdx.x, kEach * kThreads), n = row_start(groups, kGroup);
  long long end = min(first + kEach * kThreads, n);
  for (long long i = first + threadIdx.x; i < end; i += kThreads) {
    registers[0][own] = params[i];
    registers[1][own] = grads[i] * clip;
    registers[2][own] = state0 ? state0[i] : 0.0f;
    registers[3][own] = state1 ? state1[i] : 0.0f;
    registers[4][own] = lr;
    registers[5][own] = decay_mask[i / kGroup] ? 1.0f : 0.0f;
    registers[6][own] = bias1;
    registers[7][own] = bias2;
    for (int r = 8; r < kRegisters; r++) registers[r][own] = 0.0f;
    for (int at = 0; at < instructions; at++) {
      unsigned word = code[2 * at];
      float a = registers[(word >> 16) % kRegisters][own], b = registers[(word >> 24) % kRegisters][own];
      float value = 0.0f;
      switch (word & 255u) {
        case kConst: value = __uint_as_float(code[2 * at + 1]); break;
        case kMove: value = a; break;
        case kAdd: value = a + b; break;
        case kSub: value = a - b; break;
        case kMul: value = a * b; break;
        case kDiv: value = a / b; break;
        case kSqrt: value = sqrtf(a); break;
        case kSign: value = a > 0.0f ? 1.0f : (a < 0.0f ? -1.0f : 0.0f); break;
        case kAbs: value = fabsf(a); break;
        case kMax: value = a < b ? b : a; break;
        case kMin: value = b < a ? b : a; break;
        default: break;
      }
      registers[(word >> 8) % kRegisters][own] = value;
    }
    params[i] = registers[0][own];
    if (state0) state0[i] = registers[2][own];
    if (state1) state1[i] = registers[3][own];
    if (copy) copy[i] = to<bf16>(registers[0][own]);
  }
}
