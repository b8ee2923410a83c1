// The names of compressions in JavaScript, and the 4-byte header of a compressed content.
#pragma once

#include "compress.h"
#include "napi_support.h"

namespace blockmover {

/** The compressor's id, big-endian, before its stream (kopia-format.md §5.2). */
constexpr size_t kHeaderBytes = 4;

inline uint32_t LoadHeader(const uint8_t* from) {
  return uint32_t{from[0]} << 24 | uint32_t{from[1]} << 16 | uint32_t{from[2]} << 8 | from[3];
}

inline void StoreHeader(uint32_t id, uint8_t* to) {
  for (int i = 0; i < 4; i++) to[i] = static_cast<uint8_t>(id >> (24 - 8 * i));
}

/** "zstd", "lz4", "s2" and, where `none_allowed`, "none". Throws a TypeError or RangeError and returns false. */
bool GetCompression(napi_env env, napi_value value, bool none_allowed, Compression* compression);

}  // namespace blockmover
