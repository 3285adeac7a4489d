// Addresses as instructions take them.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

// Within shared memory (PTX ISA, state spaces): 32 bits.
DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

#endif
