// Compiled with -mavx2 on x86-64 (build.mjs): call only after HasAvx2(). Elsewhere nothing calls it.
#include "blake2b_lanes.h"

namespace blockmover {

#if defined(__AVX2__)
void Blake2bFourLanes(const Blake2bKeyState& start, const uint8_t* const messages[4], size_t size,
                      uint8_t* const digests[4], size_t digest_bytes) {
  HashLanes<FourLanes>(start, messages, size, digests, digest_bytes);
}
#else
void Blake2bFourLanes(const Blake2bKeyState&, const uint8_t* const[4], size_t, uint8_t* const[4], size_t) {
  __builtin_trap();
}
#endif

}  // namespace blockmover
