// Compiled with -mavx512f on x86-64 (build.mjs): call only after HasAvx512(). Elsewhere nothing calls it.
#include "blake2b_lanes.h"

namespace blockmover {

#if defined(__AVX512F__)
void Blake2bEightLanes(const Blake2bKeyState& start, const uint8_t* const messages[8], size_t size,
                       uint8_t* const digests[8], size_t digest_bytes) {
  HashLanes<EightLanes>(start, messages, size, digests, digest_bytes);
}
#else
void Blake2bEightLanes(const Blake2bKeyState&, const uint8_t* const[8], size_t, uint8_t* const[8], size_t) {
  __builtin_trap();
}
#endif

}  // namespace blockmover
