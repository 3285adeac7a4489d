// Addresses in the form that PTX instructions take.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

// A 32-bit address within the shared state space (PTX ISA, state spaces).
DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

#endif
