#include "blake2b.h"

#include "blake2b_lanes.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "message words are loaded as they lie in memory: little-endian machines only"
#endif

namespace blockmover {

Blake2bKeyState MakeBlake2bKeyState(const uint8_t* key, size_t key_bytes, size_t digest_bytes) {
  Blake2bKeyState start;
  for (int i = 0; i < 8; i++) start.words[i] = kInitialState[i];
  // Parameter block, first word: digest length, key length, fanout 1, depth 1; all else 0 (sequential mode).
  start.words[0] ^= digest_bytes | (key_bytes << 8) | (1u << 16) | (1u << 24);

  uint8_t block[kBlake2bBlockBytes] = {};
  __builtin_memcpy(block, key, key_bytes);
  const uint8_t* const lanes[1] = {block};
  CompressBlock<OneLane>(start.words, lanes, 0, kBlake2bBlockBytes, false);
  return start;
}

#if defined(__x86_64__)
bool HasAvx2() { return __builtin_cpu_supports("avx2"); }
bool HasAvx512() { return __builtin_cpu_supports("avx512f"); }
#else
bool HasAvx2() { return false; }
bool HasAvx512() { return false; }
#endif

}  // namespace blockmover
