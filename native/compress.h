// Compression of contents (kopia-format.md §5.2). libzstd and liblz4 are loaded when first needed, so that the addon
// builds without their headers and runs without them where nothing is compressed.
#pragma once

#include "failure.h"
#include "memory.h"

namespace blockmover {

enum class Compression { kNone, kZstd, kLz4, kS2 };
enum class DecompressOutcome { kDone, kDamaged, kTooLong };

bool HasZstd();

/**
 * One Zstandard frame with a checksum. `written` is 0 when it does not fit into `target`.
 *
 * Levels -7 to 19: above, windows exceed the 8 MiB that every decoder takes.
 */
constexpr int kMinZstdLevel = -7;
constexpr int kMaxZstdLevel = 19;
Failure CompressZstd(Bytes source, MutableBytes target, int level, size_t* written);
/** Size of a target that any source of `size` bytes fits into. */
size_t ZstdBound(size_t size);

/**
 * Decompresses a whole stream into `target`, never past its end. A Failure means that the library is missing or that
 * memory is short; what is wrong with the data is in `outcome`.
 */
Failure Decompress(Compression kind, Bytes data, MutableBytes target, size_t* written, DecompressOutcome* outcome);

}  // namespace blockmover
