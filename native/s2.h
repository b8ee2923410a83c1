// Decoder for S2 and Snappy framed streams (kopia-format.md §5.2). Decoding only: we never write them.
#pragma once

#include "compress.h"

namespace blockmover {

/** Decodes a whole stream. Every length and offset of the input is checked before it is used. */
DecompressOutcome DecompressS2(Bytes data, MutableBytes target, size_t* written);

}  // namespace blockmover
