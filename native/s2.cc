// Framing (github.com/google/snappy framing_format.txt, with S2's identifier and larger blocks):
//
//   chunk   = type (1 byte) || length (3 bytes, little-endian) || body of that length
//   0xff    stream identifier: "S2sTwO" or "sNaPpY"; must come first, may come again
//   0x00    compressed:   masked CRC-32C of the plaintext (4 bytes, LE) || block
//   0x01    uncompressed: masked CRC-32C (4 bytes, LE) || plaintext
//   0x80..0xfe  skippable (0xfe is padding, 0x99 an index); 0x02..0x7f: not understood, an error
//
// Block: plaintext length (varint), then elements; the low two bits of the first byte (tag) say which:
//
//   0  literal: n = tag >> 2 when below 60, else the next n - 59 bytes (LE); n + 1 bytes follow
//   1  copy, 11-bit offset: (tag >> 5) << 8 | next byte, length ((tag >> 2) & 7) + 4. S2 only: offset 0 repeats the
//      last offset, and the length field 5, 6, 7 means 1, 2, 3 more bytes (LE) plus 4, 2^8, 2^16, then plus 4
//   2  copy, 16-bit offset, length (tag >> 2) + 1
//   3  copy, 32-bit offset, length (tag >> 2) + 1
#include "s2.h"

#include <string.h>

namespace blockmover {
namespace {

constexpr size_t kChunkHeaderBytes = 4;
constexpr size_t kChecksumBytes = 4;
constexpr size_t kMaxS2BlockBytes = size_t{4} << 20;
constexpr size_t kMaxSnappyBlockBytes = size_t{64} << 10;

uint32_t LoadLittle(const uint8_t* from, size_t bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < bytes; i++) value |= uint32_t{from[i]} << (8 * i);
  return value;
}

/** CRC-32C, eight bytes a step: about 2 GB/s, far above what decoding needs. */
class Crc32c {
 public:
  Crc32c() {
    for (uint32_t byte = 0; byte < 256; byte++) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ ((value & 1) ? 0x82f63b78u : 0);
      tables_[0][byte] = value;
    }
    for (int table = 1; table < 8; table++) {
      for (uint32_t byte = 0; byte < 256; byte++) {
        const uint32_t before = tables_[table - 1][byte];
        tables_[table][byte] = (before >> 8) ^ tables_[0][before & 0xff];
      }
    }
  }

  uint32_t Compute(const uint8_t* data, size_t size) const {
    uint32_t crc = ~uint32_t{0};
    for (; size >= 8; data += 8, size -= 8) {
      const uint32_t low = LoadLittle(data, 4) ^ crc;
      const uint32_t high = LoadLittle(data + 4, 4);
      crc = tables_[7][low & 0xff] ^ tables_[6][(low >> 8) & 0xff] ^ tables_[5][(low >> 16) & 0xff] ^
            tables_[4][low >> 24] ^ tables_[3][high & 0xff] ^ tables_[2][(high >> 8) & 0xff] ^
            tables_[1][(high >> 16) & 0xff] ^ tables_[0][high >> 24];
    }
    for (; size > 0; data++, size--) crc = (crc >> 8) ^ tables_[0][(crc ^ *data) & 0xff];
    return ~crc;
  }

 private:
  uint32_t tables_[8][256];
};

bool ChecksumMatches(const uint8_t* data, size_t size, uint32_t stored) {
  static const Crc32c crc32c;
  const uint32_t crc = crc32c.Compute(data, size);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u == stored;
}

/** The varint before a block; false when it is cut off or absurd. */
bool ReadBlockLength(Bytes block, size_t* header, size_t* length) {
  uint64_t value = 0;
  for (size_t i = 0; i < block.size && i < 5; i++) {
    value |= uint64_t{block.data[i] & 0x7fu} << (7 * i);
    if ((block.data[i] & 0x80) == 0) {
      *header = i + 1;
      *length = value;
      return value <= UINT32_MAX;
    }
  }
  return false;
}

/** Fills exactly `target` from the elements of a block. */
bool DecodeBlock(Bytes block, MutableBytes target) {
  const uint8_t* in = block.data;
  const uint8_t* const in_end = block.data + block.size;
  uint8_t* out = target.data;
  uint8_t* const out_end = target.data + target.size;
  size_t offset = 0;  // of the last copy; none yet

  while (in < in_end) {
    const uint32_t tag = *in++;
    const size_t left = static_cast<size_t>(in_end - in);
    size_t length = 0;
    switch (tag & 3) {
      case 0: {
        size_t extra = 0;
        size_t value = tag >> 2;
        if (value >= 60) {
          extra = value - 59;
          if (left < extra) return false;
          value = LoadLittle(in, extra);
        }
        length = value + 1;
        if (length > left - extra || length > static_cast<size_t>(out_end - out)) return false;
        memcpy(out, in + extra, length);
        in += extra + length;
        out += length;
        continue;
      }
      case 1: {
        if (left < 1) return false;
        const size_t short_offset = ((tag & 0xe0) << 3) | in[0];
        in += 1;
        length = (tag >> 2) & 7;
        if (short_offset != 0) {
          offset = short_offset;
        } else if (length >= 5) {
          const size_t extra = length - 4;
          if (left - 1 < extra) return false;
          constexpr size_t kBase[4] = {0, 4, size_t{1} << 8, size_t{1} << 16};
          length = LoadLittle(in, extra) + kBase[extra];
          in += extra;
        }
        length += 4;
        break;
      }
      case 2:
        if (left < 2) return false;
        length = (tag >> 2) + 1;
        offset = LoadLittle(in, 2);
        in += 2;
        break;
      case 3:
        if (left < 4) return false;
        length = (tag >> 2) + 1;
        offset = LoadLittle(in, 4);
        in += 4;
        break;
    }
    if (offset == 0 || offset > static_cast<size_t>(out - target.data) || length > static_cast<size_t>(out_end - out)) {
      return false;
    }
    if (offset >= length) {
      memcpy(out, out - offset, length);
      out += length;
    } else {  // overlapping: the copy repeats what it has just written
      for (const uint8_t* from = out - offset; length > 0; length--) *out++ = *from++;
    }
  }
  return out == out_end;
}

}  // namespace

DecompressOutcome DecompressS2(Bytes data, MutableBytes target, size_t* written) {
  size_t at = 0;
  size_t produced = 0;
  bool identified = false;
  bool snappy = false;
  while (at < data.size) {
    if (data.size - at < kChunkHeaderBytes) return DecompressOutcome::kDamaged;
    const uint8_t type = data.data[at];
    const size_t size = LoadLittle(data.data + at + 1, 3);
    at += kChunkHeaderBytes;
    if (size > data.size - at) return DecompressOutcome::kDamaged;
    const uint8_t* body = data.data + at;
    at += size;
    if (!identified && type != 0xff) return DecompressOutcome::kDamaged;

    if (type == 0xff) {
      snappy = size == 6 && memcmp(body, "sNaPpY", 6) == 0;
      if (!snappy && !(size == 6 && memcmp(body, "S2sTwO", 6) == 0)) return DecompressOutcome::kDamaged;
      identified = true;
    } else if (type == 0x00 || type == 0x01) {
      if (size < kChecksumBytes) return DecompressOutcome::kDamaged;
      const uint32_t checksum = LoadLittle(body, kChecksumBytes);
      Bytes block{body + kChecksumBytes, size - kChecksumBytes};
      size_t length = block.size;
      if (type == 0x00) {
        size_t header = 0;
        if (!ReadBlockLength(block, &header, &length)) return DecompressOutcome::kDamaged;
        block = Bytes{block.data + header, block.size - header};
      }
      if (length > (snappy ? kMaxSnappyBlockBytes : kMaxS2BlockBytes)) return DecompressOutcome::kDamaged;
      if (length > target.size - produced) return DecompressOutcome::kTooLong;
      if (length > 0) {  // an empty target may have no address
        uint8_t* const out = target.data + produced;
        if (type == 0x01) {
          memcpy(out, block.data, length);
        } else if (!DecodeBlock(block, MutableBytes{out, length})) {
          return DecompressOutcome::kDamaged;
        }
        if (!ChecksumMatches(out, length, checksum)) return DecompressOutcome::kDamaged;
      } else if (!ChecksumMatches(body, 0, checksum) || (type == 0x00 && block.size > 0)) {
        return DecompressOutcome::kDamaged;
      }
      produced += length;
    } else if (type < 0x80) {
      return DecompressOutcome::kDamaged;
    }
  }
  *written = produced;
  return identified ? DecompressOutcome::kDone : DecompressOutcome::kDamaged;
}

}  // namespace blockmover
