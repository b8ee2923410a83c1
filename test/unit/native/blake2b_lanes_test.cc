// The eight-lane BLAKE2b compiled for whatever processor this is: the compiler lowers the same source, so its logic is
// tested where AVX-512 is missing. Compares with one lane, and prints the digest of "hello world" under 00 01 … 1f.
#include <stdio.h>
#include <string.h>

#include <vector>

#include "../../../native/blake2b_lanes.h"

using namespace blockmover;

template <class Width>
static bool Check(const Blake2bKeyState& start) {
  uint32_t random = 12345;
  std::vector<uint8_t> data(8 * 700 + 3);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>((random = random * 1664525 + 1013904223) >> 24);
  for (size_t size = 1; size <= 700; size++) {
    const uint8_t* messages[Width::kLanes];
    uint8_t got[Width::kLanes][64];
    uint8_t* digests[Width::kLanes];
    for (int lane = 0; lane < Width::kLanes; lane++) {
      messages[lane] = &data[lane * size + size % 3];
      digests[lane] = got[lane];
    }
    HashLanes<Width>(start, messages, size, digests, 64);
    for (int lane = 0; lane < Width::kLanes; lane++) {
      uint8_t expected[64];
      const uint8_t* const one[1] = {messages[lane]};
      uint8_t* const out[1] = {expected};
      HashLanes<OneLane>(start, one, size, out, 64);
      if (memcmp(expected, got[lane], 64) != 0) {
        printf("%d lanes: lane %d differs at %zu bytes\n", Width::kLanes, lane, size);
        return false;
      }
    }
  }
  return true;
}

int main() {
  uint8_t key[32];
  for (int i = 0; i < 32; i++) key[i] = static_cast<uint8_t>(i);
  const Blake2bKeyState start = MakeBlake2bKeyState(key, sizeof key, 32);
  if (!Check<FourLanes>(start) || !Check<EightLanes>(start)) return 1;
  const uint8_t* const message[1] = {reinterpret_cast<const uint8_t*>("hello world")};
  uint8_t digest[32];
  uint8_t* const out[1] = {digest};
  HashLanes<OneLane>(start, message, 11, out, 32);
  for (const uint8_t byte : digest) printf("%02x", byte);
  printf("\n");
  return 0;
}
