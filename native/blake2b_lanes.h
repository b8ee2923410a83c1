// BLAKE2b (RFC 7693) over several messages of equal length side by side: lane i of every vector is message i.
//
// A single BLAKE2b is a chain of dependent additions that leaves most of a wide processor idle (1.28 GB/s); eight
// unrelated messages fill it (5.0 GB/s with AVX-512, limits.md §2). The digests are those of plain BLAKE2b.
//
// Written in the compiler's vector extensions, not intrinsics: the very same source compiles for any width on any
// machine, so that the eight-lane code is tested on processors without AVX-512 as well. Included only by the
// per-width files; everything sits in an anonymous namespace and uses no std:: function, because a file that is
// compiled with -mavx512f must not leave inline functions that the linker could pick for the rest of the program.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "blake2b.h"

namespace blockmover {
namespace {

#if defined(__clang__)
#define BLOCKMOVER_SHUFFLE(Type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BLOCKMOVER_SHUFFLE(Type, a, b, ...) __builtin_shuffle(a, b, Type{__VA_ARGS__})
#endif
#define BLOCKMOVER_INLINE inline __attribute__((always_inline))

/** Not by return value: that would be an ABI question where the vector is wider than the machine's. */
template <class Vector>
BLOCKMOVER_INLINE void LoadVector(Vector& to, const uint8_t* from) {
  __builtin_memcpy(&to, from, sizeof to);
}

/** One message: the reference form, and the first block of the others. */
struct OneLane {
  static constexpr int kLanes = 1;
  typedef uint64_t Vector;

  static BLOCKMOVER_INLINE void LoadBlock(Vector message[16], const uint8_t* const lanes[1], size_t offset) {
    for (int word = 0; word < 16; word++) LoadVector(message[word], lanes[0] + offset + 8 * word);
  }
  template <int kBits>
  static BLOCKMOVER_INLINE Vector Rotate(Vector x) {
    return (x >> kBits) | (x << (64 - kBits));
  }
};

struct FourLanes {
  static constexpr int kLanes = 4;
  typedef uint64_t Vector __attribute__((vector_size(32)));
  typedef uint32_t Halves __attribute__((vector_size(32)));
  typedef uint8_t Octets __attribute__((vector_size(32)));

  /** Rows are messages, columns are words: transposed, four words at a time. */
  static BLOCKMOVER_INLINE void LoadBlock(Vector message[16], const uint8_t* const lanes[4], size_t offset) {
    for (int part = 0; part < 4; part++) {
      Vector row0, row1, row2, row3;
      LoadVector(row0, lanes[0] + offset + 32 * part);
      LoadVector(row1, lanes[1] + offset + 32 * part);
      LoadVector(row2, lanes[2] + offset + 32 * part);
      LoadVector(row3, lanes[3] + offset + 32 * part);
      const Vector even01 = BLOCKMOVER_SHUFFLE(Vector, row0, row1, 0, 4, 2, 6);
      const Vector odd01 = BLOCKMOVER_SHUFFLE(Vector, row0, row1, 1, 5, 3, 7);
      const Vector even23 = BLOCKMOVER_SHUFFLE(Vector, row2, row3, 0, 4, 2, 6);
      const Vector odd23 = BLOCKMOVER_SHUFFLE(Vector, row2, row3, 1, 5, 3, 7);
      message[4 * part + 0] = BLOCKMOVER_SHUFFLE(Vector, even01, even23, 0, 1, 4, 5);
      message[4 * part + 1] = BLOCKMOVER_SHUFFLE(Vector, odd01, odd23, 0, 1, 4, 5);
      message[4 * part + 2] = BLOCKMOVER_SHUFFLE(Vector, even01, even23, 2, 3, 6, 7);
      message[4 * part + 3] = BLOCKMOVER_SHUFFLE(Vector, odd01, odd23, 2, 3, 6, 7);
    }
  }

  /** AVX2 has no 64-bit rotate; whole bytes are moved by one shuffle, which is cheaper than two shifts and an or. */
  template <int kBits>
  static BLOCKMOVER_INLINE Vector Rotate(Vector x) {
    if constexpr (kBits == 32) {
      const Halves h = (Halves)x;
      return (Vector)BLOCKMOVER_SHUFFLE(Halves, h, h, 1, 0, 3, 2, 5, 4, 7, 6);
    } else if constexpr (kBits == 24) {
      const Octets o = (Octets)x;
      return (Vector)BLOCKMOVER_SHUFFLE(Octets, o, o, 3, 4, 5, 6, 7, 0, 1, 2, 11, 12, 13, 14, 15, 8, 9, 10, 19, 20, 21,
                                        22, 23, 16, 17, 18, 27, 28, 29, 30, 31, 24, 25, 26);
    } else if constexpr (kBits == 16) {
      const Octets o = (Octets)x;
      return (Vector)BLOCKMOVER_SHUFFLE(Octets, o, o, 2, 3, 4, 5, 6, 7, 0, 1, 10, 11, 12, 13, 14, 15, 8, 9, 18, 19, 20,
                                        21, 22, 23, 16, 17, 26, 27, 28, 29, 30, 31, 24, 25);
    } else {
      static_assert(kBits == 63, "BLAKE2b rotates by 32, 24, 16 and 63");
      return (x >> 63) | (x + x);
    }
  }
};

struct EightLanes {
  static constexpr int kLanes = 8;
  typedef uint64_t Vector __attribute__((vector_size(64)));

  static BLOCKMOVER_INLINE void LoadBlock(Vector message[16], const uint8_t* const lanes[8], size_t offset) {
    for (int half = 0; half < 2; half++) {
      Vector row[8], pair[8], quad[8];
      for (int lane = 0; lane < 8; lane++) LoadVector(row[lane], lanes[lane] + offset + 64 * half);
      for (int i = 0; i < 8; i += 2) {  // words of two messages side by side
        pair[i] = BLOCKMOVER_SHUFFLE(Vector, row[i], row[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        pair[i + 1] = BLOCKMOVER_SHUFFLE(Vector, row[i], row[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
      }
      for (int i = 0; i < 8; i += 4) {  // of four: quad[i + j] holds words j and j + 4
        for (int odd = 0; odd < 2; odd++) {
          quad[i + odd] = BLOCKMOVER_SHUFFLE(Vector, pair[i + odd], pair[i + 2 + odd], 0, 1, 8, 9, 4, 5, 12, 13);
          quad[i + 2 + odd] = BLOCKMOVER_SHUFFLE(Vector, pair[i + odd], pair[i + 2 + odd], 2, 3, 10, 11, 6, 7, 14, 15);
        }
      }
      for (int word = 0; word < 4; word++) {  // of all eight
        message[8 * half + word] = BLOCKMOVER_SHUFFLE(Vector, quad[word], quad[4 + word], 0, 1, 2, 3, 8, 9, 10, 11);
        message[8 * half + 4 + word] =
            BLOCKMOVER_SHUFFLE(Vector, quad[word], quad[4 + word], 4, 5, 6, 7, 12, 13, 14, 15);
      }
    }
  }

  template <int kBits>
  static BLOCKMOVER_INLINE Vector Rotate(Vector x) {
    return (x >> kBits) | (x << (64 - kBits));  // one vprorq
  }
};

constexpr uint64_t kInitialState[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

constexpr uint8_t kSigma[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
};

template <class Width>
BLOCKMOVER_INLINE void Mix(typename Width::Vector& a, typename Width::Vector& b, typename Width::Vector& c,
                           typename Width::Vector& d, const typename Width::Vector& x,
                           const typename Width::Vector& y) {
  a = a + b + x;
  d = Width::template Rotate<32>(d ^ a);
  c = c + d;
  b = Width::template Rotate<24>(b ^ c);
  a = a + b + y;
  d = Width::template Rotate<16>(d ^ a);
  c = c + d;
  b = Width::template Rotate<63>(b ^ c);
}

/** The compression function; the round is a template argument so that every message index is a constant. */
template <class Width, int kRound>
BLOCKMOVER_INLINE void Rounds(typename Width::Vector v[16], const typename Width::Vector m[16]) {
  constexpr const uint8_t* s = kSigma[kRound];
  Mix<Width>(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
  Mix<Width>(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
  Mix<Width>(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
  Mix<Width>(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
  Mix<Width>(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
  Mix<Width>(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
  Mix<Width>(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
  Mix<Width>(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
  if constexpr (kRound + 1 < 12) Rounds<Width, kRound + 1>(v, m);
}

template <class Width>
BLOCKMOVER_INLINE void CompressBlock(typename Width::Vector state[8], const uint8_t* const lanes[Width::kLanes],
                                     size_t offset, uint64_t hashed_bytes, bool last) {
  typedef typename Width::Vector Vector;
  Vector message[16], v[16];
  Width::LoadBlock(message, lanes, offset);
  for (int i = 0; i < 8; i++) {
    v[i] = state[i];
    v[8 + i] = Vector{} + kInitialState[i];
  }
  v[12] ^= hashed_bytes;  // the high word of the counter stays 0: messages are far below 2^64 bytes
  if (last) v[14] = ~v[14];
  Rounds<Width, 0>(v, message);
  for (int i = 0; i < 8; i++) state[i] ^= v[i] ^ v[8 + i];
}

/** Continues from the state after the key block. `size` > 0 is the length of every message. */
template <class Width>
BLOCKMOVER_INLINE void HashLanes(const Blake2bKeyState& start, const uint8_t* const messages[Width::kLanes], size_t size,
                                 uint8_t* const digests[Width::kLanes], size_t digest_bytes) {
  typedef typename Width::Vector Vector;
  Vector state[8];
  for (int i = 0; i < 8; i++) state[i] = Vector{} + start.words[i];

  // The last block is compressed apart even when it is full, because it is marked as last.
  const size_t last_offset = (size - 1) / kBlake2bBlockBytes * kBlake2bBlockBytes;
  for (size_t offset = 0; offset < last_offset; offset += kBlake2bBlockBytes) {
    CompressBlock<Width>(state, messages, offset, kBlake2bBlockBytes + offset + kBlake2bBlockBytes, false);
  }
  uint8_t padded[Width::kLanes][kBlake2bBlockBytes] = {};
  const uint8_t* padded_lanes[Width::kLanes];
  for (int lane = 0; lane < Width::kLanes; lane++) {
    __builtin_memcpy(padded[lane], messages[lane] + last_offset, size - last_offset);
    padded_lanes[lane] = padded[lane];
  }
  CompressBlock<Width>(state, padded_lanes, 0, kBlake2bBlockBytes + size, true);

  uint64_t words[8][Width::kLanes];
  __builtin_memcpy(words, state, sizeof words);
  for (int lane = 0; lane < Width::kLanes; lane++) {
    uint64_t digest[8];
    for (int i = 0; i < 8; i++) digest[i] = words[i][lane];
    __builtin_memcpy(digests[lane], digest, digest_bytes);
  }
}

}  // namespace
}  // namespace blockmover
