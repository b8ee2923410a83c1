// Keyed BLAKE2b over many messages at once. See blake2b_lanes.h for how; mac.cc decides when.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace blockmover {

constexpr size_t kBlake2bBlockBytes = 128;
constexpr size_t kBlake2bMaxKeyBytes = 64;
constexpr size_t kBlake2bMaxDigestBytes = 64;

/** The chaining value after the block that holds the key: the same for all messages, so computed once. */
struct Blake2bKeyState {
  uint64_t words[8];
};

/** @param digest_bytes goes into the parameters: a shorter digest is not a prefix of a longer one. */
Blake2bKeyState MakeBlake2bKeyState(const uint8_t* key, size_t key_bytes, size_t digest_bytes);

/**
 * Digests of 4 or 8 messages of `size` > 0 bytes each; writes the first `digest_bytes` (at most 64) of each.
 * The same pointer may stand for several lanes. Call only when the processor has the instructions.
 */
void Blake2bFourLanes(const Blake2bKeyState& start, const uint8_t* const messages[4], size_t size,
                      uint8_t* const digests[4], size_t digest_bytes);
void Blake2bEightLanes(const Blake2bKeyState& start, const uint8_t* const messages[8], size_t size,
                       uint8_t* const digests[8], size_t digest_bytes);

bool HasAvx2();
bool HasAvx512();

}  // namespace blockmover
