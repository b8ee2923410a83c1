#include "compress.h"

#include <dlfcn.h>
#include <errno.h>

#include "s2.h"

namespace blockmover {
namespace {

// The stable parts of zstd.h and lz4frame.h, declared here because the headers need not be installed.
constexpr int kZstdCompressionLevel = 100;  // ZSTD_cParameter
constexpr int kZstdChecksumFlag = 201;
constexpr unsigned kZstdErrorMemory = 64;  // ZSTD_ErrorCode
constexpr unsigned kZstdErrorTargetTooSmall = 70;
constexpr unsigned kLz4FrameVersion = 100;

struct Zstd {
  void* (*createCompressor)();
  size_t (*freeCompressor)(void*);
  size_t (*setParameter)(void*, int, int);
  size_t (*compress2)(void*, void*, size_t, const void*, size_t);
  size_t (*compressBound)(size_t);
  void* (*createDecompressor)();
  size_t (*freeDecompressor)(void*);
  size_t (*decompress)(void*, void*, size_t, const void*, size_t);
  unsigned (*isError)(size_t);
  unsigned (*errorCode)(size_t);
  const char* (*errorName)(size_t);
};

struct Lz4 {
  size_t (*createContext)(void**, unsigned);
  size_t (*freeContext)(void*);
  size_t (*decompress)(void*, void*, size_t*, const void*, size_t*, const void*);
  unsigned (*isError)(size_t);
};

template <class Function>
bool Resolve(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

/** Null when libzstd.so.1 is not installed or too old (advanced API: 1.4). Never unloaded. */
const Zstd* LoadZstd() {
  static const Zstd* const loaded = []() -> const Zstd* {
    static Zstd zstd;
    void* library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    const bool complete =
        Resolve(library, "ZSTD_createCCtx", &zstd.createCompressor) &&
        Resolve(library, "ZSTD_freeCCtx", &zstd.freeCompressor) &&
        Resolve(library, "ZSTD_CCtx_setParameter", &zstd.setParameter) &&
        Resolve(library, "ZSTD_compress2", &zstd.compress2) &&
        Resolve(library, "ZSTD_compressBound", &zstd.compressBound) &&
        Resolve(library, "ZSTD_createDCtx", &zstd.createDecompressor) &&
        Resolve(library, "ZSTD_freeDCtx", &zstd.freeDecompressor) &&
        Resolve(library, "ZSTD_decompressDCtx", &zstd.decompress) &&
        Resolve(library, "ZSTD_isError", &zstd.isError) && Resolve(library, "ZSTD_getErrorCode", &zstd.errorCode) &&
        Resolve(library, "ZSTD_getErrorName", &zstd.errorName);
    return complete ? &zstd : nullptr;
  }();
  return loaded;
}

const Lz4* LoadLz4() {
  static const Lz4* const loaded = []() -> const Lz4* {
    static Lz4 lz4;
    void* library = dlopen("liblz4.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    const bool complete = Resolve(library, "LZ4F_createDecompressionContext", &lz4.createContext) &&
                          Resolve(library, "LZ4F_freeDecompressionContext", &lz4.freeContext) &&
                          Resolve(library, "LZ4F_decompress", &lz4.decompress) &&
                          Resolve(library, "LZ4F_isError", &lz4.isError);
    return complete ? &lz4 : nullptr;
  }();
  return loaded;
}

Failure Missing(const char* operation, const char* library, const char* package) {
  return Failure(ENOSYS, operation, "", "",
                 std::string(library) + " is not installed; install the system package " + package);
}

Failure MissingZstd() { return Missing("zstd", "libzstd.so.1", "libzstd1 (Debian) or zstd-libs"); }

/** zstd contexts of this thread: making one costs as much as compressing several KiB. */
struct ZstdContexts {
  void* compressor = nullptr;
  void* decompressor = nullptr;
  ~ZstdContexts() {
    if (compressor != nullptr) LoadZstd()->freeCompressor(compressor);
    if (decompressor != nullptr) LoadZstd()->freeDecompressor(decompressor);
  }
};
thread_local ZstdContexts t_zstd;

Failure DecompressZstd(Bytes data, MutableBytes target, size_t* written, DecompressOutcome* outcome) {
  const Zstd* zstd = LoadZstd();
  if (zstd == nullptr) return MissingZstd();
  if (t_zstd.decompressor == nullptr) t_zstd.decompressor = zstd->createDecompressor();
  if (t_zstd.decompressor == nullptr) return Failure(ENOMEM, "ZSTD_createDCtx");
  // Straight into the target: needs no window buffer (so a hostile frame cannot ask for memory) and no content size.
  uint8_t nothing;
  const size_t result = zstd->decompress(t_zstd.decompressor, target.size > 0 ? target.data : &nothing, target.size,
                                         data.data, data.size);
  if (!zstd->isError(result)) {
    *written = result;
    *outcome = data.size == 0 ? DecompressOutcome::kDamaged : DecompressOutcome::kDone;
    return {};
  }
  if (zstd->errorCode(result) == kZstdErrorMemory) return Failure(ENOMEM, "ZSTD_decompressDCtx");
  *outcome = zstd->errorCode(result) == kZstdErrorTargetTooSmall ? DecompressOutcome::kTooLong
                                                                 : DecompressOutcome::kDamaged;
  return {};
}

Failure DecompressLz4(Bytes data, MutableBytes target, size_t* written, DecompressOutcome* outcome) {
  const Lz4* lz4 = LoadLz4();
  if (lz4 == nullptr) return Missing("lz4", "liblz4.so.1", "liblz4-1 (Debian) or lz4-libs");
  void* context = nullptr;
  if (lz4->isError(lz4->createContext(&context, kLz4FrameVersion))) return Failure(ENOMEM, "LZ4F_createContext");

  *outcome = DecompressOutcome::kDamaged;
  size_t consumed = 0;
  size_t produced = 0;
  for (;;) {
    uint8_t extra;  // room for a byte too many tells a stream that is too long from one that ends right here
    const bool full = produced == target.size;
    size_t room = full ? 1 : target.size - produced;
    size_t taken = data.size - consumed;
    const size_t hint = lz4->decompress(context, full ? &extra : target.data + produced, &room, data.data + consumed,
                                        &taken, nullptr);
    if (lz4->isError(hint)) break;
    if (full && room > 0) {
      *outcome = DecompressOutcome::kTooLong;
      break;
    }
    consumed += taken;
    produced += room;
    if (hint == 0 && consumed == data.size) {
      *outcome = DecompressOutcome::kDone;
      break;
    }
    if (taken == 0 && room == 0) break;  // it wants more than there is: truncated
  }
  lz4->freeContext(context);
  *written = produced;
  return {};
}

}  // namespace

bool HasZstd() { return LoadZstd() != nullptr; }

size_t ZstdBound(size_t size) {
  const Zstd* zstd = LoadZstd();
  return zstd == nullptr ? 0 : zstd->compressBound(size);
}

Failure CompressZstd(Bytes source, MutableBytes target, int level, size_t* written) {
  *written = 0;
  const Zstd* zstd = LoadZstd();
  if (zstd == nullptr) return MissingZstd();
  if (t_zstd.compressor == nullptr) {
    t_zstd.compressor = zstd->createCompressor();
    if (t_zstd.compressor == nullptr) return Failure(ENOMEM, "ZSTD_createCCtx");
    if (zstd->isError(zstd->setParameter(t_zstd.compressor, kZstdChecksumFlag, 1))) {
      return Failure(ENOSYS, "ZSTD_CCtx_setParameter", "", "", "this libzstd has no frame checksum");
    }
  }
  size_t result = zstd->setParameter(t_zstd.compressor, kZstdCompressionLevel, level);
  if (!zstd->isError(result)) {
    result = zstd->compress2(t_zstd.compressor, target.data, target.size, source.data, source.size);
  }
  if (!zstd->isError(result)) {
    *written = result;
    return {};
  }
  const unsigned code = zstd->errorCode(result);
  if (code == kZstdErrorTargetTooSmall) return {};
  return Failure(code == kZstdErrorMemory ? ENOMEM : EINVAL, "ZSTD_compress2", "", "", zstd->errorName(result));
}

Failure Decompress(Compression kind, Bytes data, MutableBytes target, size_t* written, DecompressOutcome* outcome) {
  *written = 0;
  *outcome = DecompressOutcome::kDamaged;
  switch (kind) {
    case Compression::kZstd:
      return DecompressZstd(data, target, written, outcome);
    case Compression::kLz4:
      return DecompressLz4(data, target, written, outcome);
    case Compression::kS2:
      *outcome = DecompressS2(data, target, written);
      return {};
    case Compression::kNone:
      break;
  }
  return Failure(EINVAL, "decompress", "", "", "no such compression");
}

}  // namespace blockmover
