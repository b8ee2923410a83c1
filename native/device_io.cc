#include "device_io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace blockmover {
namespace {

// From linux/fs.h, which cannot be included beside the C library's headers everywhere.
constexpr unsigned long kBlkGetReadOnly = _IO(0x12, 94);
constexpr unsigned long kBlkGetSize64 = _IOR(0x12, 114, size_t);
constexpr unsigned long kBlkGetLogicalSector = _IO(0x12, 104);
constexpr unsigned long kBlkGetPhysicalSector = _IO(0x12, 123);
constexpr unsigned long kBlkZeroout = _IO(0x12, 127);

constexpr uint64_t kPageBytes = 4096;
/** One system call moves or zeroes no more than this, so that a cancelled transfer does not wait for minutes. */
constexpr uint64_t kMaxSyscallBytes = uint64_t{1} << 30;
constexpr size_t kBounceBytes = size_t{1} << 20;

/** Never touched, so it stays in .bss and costs no memory: reads of it see the kernel's zero page. */
alignas(4096) const uint8_t kZeros[kBounceBytes] = {};

uint64_t AlignDown(uint64_t value, uint64_t unit) { return value - value % unit; }
uint64_t AlignUp(uint64_t value, uint64_t unit) { return AlignDown(value + unit - 1, unit); }
bool IsAligned(const void* address, uint64_t unit) {
  return reinterpret_cast<uintptr_t>(address) % std::min<uint64_t>(unit, Scratch::kAlignment) == 0;
}

template <class Call>
auto RetryInterrupted(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/** At least one bounce buffer's worth of aligned memory of this thread; nullptr when memory is short. */
uint8_t* Bounce(size_t size) {
  thread_local Scratch scratch;
  return scratch.Reserve(std::max(size, kBounceBytes));
}

/** What O_DIRECT needs of offsets in this file: statx says it from Linux 6.1 on; 0 where it does not. */
uint32_t DirectOffsetAlignment(int descriptor) {
#if defined(SYS_statx)
  // struct statx as the kernel has it; C libraries of 2022 lack the last two fields used here.
  struct KernelStatx {
    uint32_t mask;
    uint8_t before[148];
    uint32_t dio_memory_align;
    uint32_t dio_offset_align;
    uint8_t after[96];
  };
  static_assert(sizeof(KernelStatx) == 256, "size of struct statx");
  constexpr unsigned kStatxDioAlign = 0x2000;
  KernelStatx status{};
  if (syscall(SYS_statx, descriptor, "", 0x1000 /* AT_EMPTY_PATH */, kStatxDioAlign, &status) == 0 &&
      (status.mask & kStatxDioAlign) != 0) {
    return status.dio_offset_align;
  }
#else
  (void)descriptor;
#endif
  return 0;
}

/** The system has no such way to zero a range here, as opposed to: it failed. */
bool IsUnsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL || error == ENODEV ||
         error == EREMOTEIO;
}

}  // namespace

Failure Device::FailedAt(int error, const char* operation, uint64_t offset, uint64_t length, std::string reason) const {
  return Failure(error, operation, path_,
                 " at offset " + std::to_string(offset) + ", " + std::to_string(length) + " bytes", std::move(reason));
}

Failure Device::Open(const std::string& path, const DeviceOpenOptions& options, std::unique_ptr<Device>* device) {
  std::unique_ptr<Device> made(new Device(path));
  struct stat status;
  const bool create = options.create_size >= 0;
  if (!create && RetryInterrupted([&] { return stat(path.c_str(), &status); }) != 0) return made->Failed(errno, "open");
  // Looked at before opening: opening a FIFO would wait, opening a tape would rewind it.
  if (!create && S_ISDIR(status.st_mode)) return made->Failed(EISDIR, "open");
  if (!create && !S_ISBLK(status.st_mode) && !S_ISREG(status.st_mode)) {
    return Failure(ENOTBLK, "open", path, "", "neither a block device nor a regular file");
  }
  made->info_.is_block = !create && S_ISBLK(status.st_mode);
  Failure failure = made->info_.is_block ? made->OpenBlock(options) : made->OpenFile(options);
  if (failure) return failure;
  *device = std::move(made);
  return {};
}

Failure Device::OpenBlock(const DeviceOpenOptions& options) {
  const int flags = O_CLOEXEC | (options.write ? O_RDWR : O_RDONLY) | (options.exclusive ? O_EXCL : 0);
  const auto open_with = [&](int more) {
    return RetryInterrupted([&] { return open(path_.c_str(), flags | more); });
  };
  if (options.direct) {
    direct_ = open_with(O_DIRECT);
    if (direct_ < 0 && errno != EINVAL) return Failed(errno, "open");
  }
  if (direct_ < 0) buffered_ = open_with(0);
  const int descriptor = direct_ >= 0 ? direct_ : buffered_;
  if (descriptor < 0) return Failed(errno, "open");

  struct stat status;
  if (fstat(descriptor, &status) != 0) return Failed(errno, "fstat");
  if (!S_ISBLK(status.st_mode)) return Failed(ENOTBLK, "open");  // it was exchanged between stat and open
  // The kernel opens a read-only device for writing and refuses only the writes, with EPERM: told here, clearly.
  int read_only = 0;
  if (options.write && ioctl(descriptor, kBlkGetReadOnly, &read_only) == 0 && read_only != 0) {
    return Failed(EROFS, "open");
  }
  uint64_t size = 0;
  int logical = 0;
  unsigned physical = 0;
  if (ioctl(descriptor, kBlkGetSize64, &size) != 0) return Failed(errno, "ioctl(BLKGETSIZE64)");
  if (ioctl(descriptor, kBlkGetLogicalSector, &logical) != 0 || logical <= 0) return Failed(errno, "ioctl(BLKSSZGET)");
  if (ioctl(descriptor, kBlkGetPhysicalSector, &physical) != 0) return Failed(errno, "ioctl(BLKPBSZGET)");
  info_.size = size;
  info_.logical_sector = static_cast<uint32_t>(logical);
  info_.physical_sector = physical;
  unit_ = info_.logical_sector;
  tail_start_ = size;
  return {};
}

Failure Device::OpenFile(const DeviceOpenOptions& options) {
  const bool create = options.create_size >= 0;
  // Buffered first: open(O_CREAT | O_DIRECT) leaves the file behind where the file system then refuses O_DIRECT.
  const int flags = O_CLOEXEC | O_NOCTTY | (options.write || create ? O_RDWR : O_RDONLY) | (create ? O_CREAT | O_EXCL : 0);
  buffered_ = RetryInterrupted([&] { return open(path_.c_str(), flags, 0600); });
  if (buffered_ < 0) return Failed(errno, "open");

  const auto set_up = [&]() -> Failure {
    struct stat status;
    if (fstat(buffered_, &status) != 0) return Failed(errno, "fstat");
    if (!S_ISREG(status.st_mode)) return Failed(ENOTBLK, "open");
    if (options.exclusive && RetryInterrupted([&] { return flock(buffered_, LOCK_EX | LOCK_NB); }) != 0) {
      return Failed(errno, "flock");
    }
    if (create && RetryInterrupted([&] { return ftruncate(buffered_, options.create_size); }) != 0) {
      return FailedAt(errno, "ftruncate", 0, options.create_size);
    }
    info_.size = create ? static_cast<uint64_t>(options.create_size) : static_cast<uint64_t>(status.st_size);
    info_.physical_sector = static_cast<uint32_t>(status.st_blksize);

    const uint64_t page = std::max<uint64_t>(kPageBytes, static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
    unit_ = static_cast<uint32_t>(std::max<uint64_t>(page, DirectOffsetAlignment(buffered_)));
    tail_start_ = AlignDown(info_.size, unit_);
    if (options.direct) {
      // Through /proc, so that it is this very file whatever happened to the path meanwhile. Fails with EINVAL where
      // the file system has no direct I/O, with ENOENT where /proc is not mounted: buffered then.
      const std::string self = "/proc/self/fd/" + std::to_string(buffered_);
      direct_ = RetryInterrupted(
          [&] { return open(self.c_str(), O_CLOEXEC | O_DIRECT | (options.write || create ? O_RDWR : O_RDONLY)); });
    }
    return {};
  };
  Failure failure = set_up();
  if (failure && create) unlink(path_.c_str());  // ours: O_EXCL made it
  return failure;
}

Device::~Device() { Close(); }

Failure Device::Close() {
  Failure failure;
  for (int* descriptor : {&direct_, &buffered_}) {
    // No retry: Linux has released the descriptor even when close says EINTR.
    if (*descriptor >= 0 && close(*descriptor) != 0 && errno != EINTR && !failure) failure = Failed(errno, "close");
    *descriptor = -1;
  }
  return failure;
}

Failure Device::Read(MutableBytes target, uint64_t offset, size_t* done) {
  *done = 0;
  if (offset >= info_.size) return {};
  const size_t size = std::min<uint64_t>(target.size, info_.size - offset);
  if (direct_ < 0) return ReadBuffered(MutableBytes{target.data, size}, offset, done);

  const size_t direct_size = offset < tail_start_ ? std::min<uint64_t>(size, tail_start_ - offset) : 0;
  if (Failure failure = ReadDirect(MutableBytes{target.data, direct_size}, offset, done)) return failure;
  if (*done < direct_size || direct_size == size) return {};
  size_t rest = 0;
  Failure failure =
      ReadBuffered(MutableBytes{target.data + direct_size, size - direct_size}, offset + direct_size, &rest);
  *done += rest;
  return failure;
}

Failure Device::ReadBuffered(MutableBytes target, uint64_t offset, size_t* done) {
  *done = 0;
  while (*done < target.size) {
    const size_t wanted = std::min<uint64_t>(target.size - *done, kMaxSyscallBytes);
    const uint64_t at = offset + *done;
    const ssize_t got = RetryInterrupted([&] { return pread(buffered_, target.data + *done, wanted, at); });
    if (got < 0) return FailedAt(errno, "pread", at, wanted);
    if (got == 0) break;
    *done += static_cast<size_t>(got);
  }
  return {};
}

Failure Device::ReadDirect(MutableBytes target, uint64_t offset, size_t* done) {
  *done = 0;
  while (*done < target.size) {
    const uint64_t at = offset + *done;
    const size_t left = target.size - *done;
    uint8_t* const to = target.data + *done;
    if (at % unit_ == 0 && left >= unit_ && IsAligned(to, unit_)) {
      const size_t wanted = AlignDown(std::min<uint64_t>(left, kMaxSyscallBytes), unit_);
      const ssize_t got = RetryInterrupted([&] { return pread(direct_, to, wanted, at); });
      if (got < 0) return FailedAt(errno, "pread", at, wanted);
      if (got == 0) break;  // it became smaller
      *done += static_cast<size_t>(got);
      continue;
    }
    const uint64_t start = AlignDown(at, unit_);
    const size_t wanted = std::min<uint64_t>(AlignUp(at + left, unit_) - start, std::max<uint64_t>(kBounceBytes, unit_));
    uint8_t* const bounce = Bounce(wanted);
    if (bounce == nullptr) return FailedAt(ENOMEM, "pread", at, left);
    const ssize_t got = RetryInterrupted([&] { return pread(direct_, bounce, wanted, start); });
    if (got < 0) return FailedAt(errno, "pread", start, wanted);
    const size_t skip = at - start;
    if (static_cast<size_t>(got) <= skip) break;
    const size_t taken = std::min(left, static_cast<size_t>(got) - skip);
    memcpy(to, bounce + skip, taken);
    *done += taken;
  }
  return {};
}

Failure Device::ReadChunks(MutableBytes target, uint64_t offset, size_t chunk_size, size_t* done,
                           uint32_t* zero_chunks) {
  *done = 0;
  *zero_chunks = 0;
  // Chunk by chunk, so that the test for zeros finds the bytes in the cache.
  uint32_t bit = 1;
  for (size_t at = 0; at < target.size; at += chunk_size, bit <<= 1) {
    const MutableBytes chunk{target.data + at, std::min(chunk_size, target.size - at)};
    size_t got = 0;
    if (Failure failure = Read(chunk, offset + at, &got)) return failure;
    memset(chunk.data + got, 0, chunk.size - got);
    *done += got;
    if (IsZero(chunk.data, chunk.size)) *zero_chunks |= bit;
  }
  return {};
}

Failure Device::CheckRange(const char* operation, uint64_t offset, uint64_t length) const {
  if (offset <= info_.size && length <= info_.size - offset) return {};
  return FailedAt(EINVAL, operation, offset, length, "past the end at " + std::to_string(info_.size));
}

Failure Device::Write(Bytes source, uint64_t offset) {
  if (Failure failure = CheckRange("pwrite", offset, source.size)) return failure;
  if (direct_ < 0) return WriteBuffered(source, offset);
  const size_t direct_size = offset < tail_start_ ? std::min<uint64_t>(source.size, tail_start_ - offset) : 0;
  if (Failure failure = WriteDirect(Bytes{source.data, direct_size}, offset)) return failure;
  if (direct_size == source.size) return {};
  return WriteBuffered(Bytes{source.data + direct_size, source.size - direct_size}, offset + direct_size);
}

Failure Device::WriteBuffered(Bytes source, uint64_t offset) { return PwriteAll(buffered_, source, offset); }

Failure Device::PwriteAll(int descriptor, Bytes source, uint64_t offset) {
  for (size_t done = 0; done < source.size;) {
    const size_t wanted = std::min<uint64_t>(source.size - done, kMaxSyscallBytes);
    const uint64_t at = offset + done;
    ssize_t put = RetryInterrupted([&] { return pwrite(descriptor, source.data + done, wanted, at); });
    if (put < 0) return FailedAt(errno, "pwrite", at, wanted);
    // A direct write that stopped inside a sector goes on from that sector's start.
    if (descriptor == direct_) put = static_cast<ssize_t>(AlignDown(static_cast<uint64_t>(put), unit_));
    if (put == 0) return FailedAt(ENOSPC, "pwrite", at, wanted, "nothing was written");
    done += static_cast<size_t>(put);
  }
  return {};
}

Failure Device::WriteDirect(Bytes source, uint64_t offset) {
  for (size_t done = 0; done < source.size;) {
    const uint64_t at = offset + done;
    const size_t left = source.size - done;
    const uint8_t* const from = source.data + done;
    Failure failure;
    size_t size;
    if (at % unit_ != 0 || left < unit_) {
      size = std::min<uint64_t>(left, AlignDown(at, unit_) + unit_ - at);
      failure = WritePartialSector(Bytes{from, size}, at);
    } else if (IsAligned(from, unit_)) {
      size = AlignDown(left, unit_);
      failure = PwriteAll(direct_, Bytes{from, size}, at);
    } else {
      size = AlignDown(std::min<uint64_t>(left, std::max<uint64_t>(kBounceBytes, unit_)), unit_);
      uint8_t* const bounce = Bounce(size);
      if (bounce == nullptr) return FailedAt(ENOMEM, "pwrite", at, left);
      memcpy(bounce, from, size);
      failure = PwriteAll(direct_, Bytes{bounce, size}, at);
    }
    if (failure) return failure;
    done += size;
  }
  return {};
}

Failure Device::WritePartialSector(Bytes source, uint64_t offset) {
  const uint64_t start = AlignDown(offset, unit_);
  uint8_t* const sector = Bounce(unit_);
  if (sector == nullptr) return FailedAt(ENOMEM, "pwrite", offset, source.size);
  const std::lock_guard<std::mutex> lock(partial_sector_);
  const ssize_t got = RetryInterrupted([&] { return pread(direct_, sector, unit_, start); });
  if (got < 0) return FailedAt(errno, "pread", start, unit_);
  if (static_cast<size_t>(got) < unit_) return FailedAt(EIO, "pread", start, unit_, "the device became smaller");
  memcpy(sector + (offset - start), source.data, source.size);
  return PwriteAll(direct_, Bytes{sector, unit_}, start);
}

Failure Device::WriteZeros(uint64_t offset, uint64_t length) {
  for (uint64_t done = 0; done < length;) {
    const size_t size = std::min<uint64_t>(length - done, sizeof kZeros);
    if (Failure failure = Write(Bytes{kZeros, size}, offset + done)) return failure;
    done += size;
  }
  return {};
}

Failure Device::ZeroRange(uint64_t offset, uint64_t length, ZeroMethod* method) {
  *method = ZeroMethod::kWritten;
  if (Failure failure = CheckRange("zero", offset, length)) return failure;
  const uint64_t end = offset + length;
  const uint64_t start_aligned = AlignUp(offset, unit_);
  // A hole may reach past the end of a file (it does not grow), which spares a file's last page from being allocated.
  const uint64_t end_aligned = !info_.is_block && end == info_.size ? AlignUp(end, unit_) : AlignDown(end, unit_);
  if (start_aligned >= end_aligned) return WriteZeros(offset, length);

  if (Failure failure = WriteZeros(offset, start_aligned - offset)) return failure;
  const int descriptor = direct_ >= 0 ? direct_ : buffered_;
  for (uint64_t at = start_aligned; at < end_aligned;) {
    const uint64_t size = std::min(end_aligned - at, kMaxSyscallBytes);
    *method = zero_method_;
    int result = -1;
    if (*method == ZeroMethod::kPunchHole) {
      result = RetryInterrupted([&] {
        return fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at),
                         static_cast<off_t>(size));
      });
      if (result != 0 && !IsUnsupported(errno)) return FailedAt(errno, "fallocate(PUNCH_HOLE)", at, size);
      // BLKZEROOUT only after the hole was refused: it allocates, and on some backings it ends hole punching.
      if (result != 0) zero_method_ = info_.is_block ? ZeroMethod::kZeroout : ZeroMethod::kWritten;
    } else if (*method == ZeroMethod::kZeroout) {
      uint64_t range[2] = {at, size};
      result = RetryInterrupted([&] { return ioctl(descriptor, kBlkZeroout, range); });
      if (result != 0 && !IsUnsupported(errno)) return FailedAt(errno, "ioctl(BLKZEROOUT)", at, size);
      if (result != 0) zero_method_ = ZeroMethod::kWritten;
    } else {
      if (Failure failure = WriteZeros(at, std::min(size, end - at))) return failure;
      result = 0;
    }
    if (result == 0) at += size;
  }
  return end > end_aligned ? WriteZeros(end_aligned, end - end_aligned) : Failure();
}

Failure Device::Flush() {
  for (const int descriptor : {direct_, buffered_}) {
    if (descriptor >= 0 && RetryInterrupted([&] { return fsync(descriptor); }) != 0) return Failed(errno, "fsync");
  }
  return {};
}

}  // namespace blockmover
