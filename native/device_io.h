// Positioned reads and writes of a block device or a regular file, by O_DIRECT where possible (limits.md §1).
//
// Any offset, length and address is accepted. What is aligned goes straight to the device; the rest goes through an
// aligned bounce buffer, and a partial sector is read, changed and written back under a lock. A block device is only
// ever used through one descriptor. A file's last page, when the file does not end on a page boundary, belongs to a
// buffered descriptor alone: direct and buffered I/O never meet in one page, so neither can undo the other.
//
// All calls block, may run in parallel on any threads, and retry EINTR and short transfers themselves.
#pragma once

#include <stdint.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "failure.h"
#include "memory.h"

namespace blockmover {

struct DeviceInfo {
  bool is_block = false;
  uint64_t size = 0;
  uint32_t logical_sector = 512;
  uint32_t physical_sector = 512;
};

struct DeviceOpenOptions {
  bool write = false;
  bool exclusive = false;
  bool direct = true;
  int64_t create_size = -1;  // below 0: the file must exist
};

enum class ZeroMethod { kPunchHole, kZeroout, kWritten };

class Device {
 public:
  static Failure Open(const std::string& path, const DeviceOpenOptions& options, std::unique_ptr<Device>* device);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  const DeviceInfo& info() const { return info_; }

  /** `done` is less than target.size only at the end of the device. */
  Failure Read(MutableBytes target, uint64_t offset, size_t* done);
  /** Bit i of `zero_chunks`: chunk i is all zero. What is past the end is filled with zeros. At most 31 chunks. */
  Failure ReadChunks(MutableBytes target, uint64_t offset, size_t chunk_size, size_t* done, uint32_t* zero_chunks);
  Failure Write(Bytes source, uint64_t offset);
  Failure ZeroRange(uint64_t offset, uint64_t length, ZeroMethod* method);
  Failure Flush();
  /** Reports what the kernel says at the last close; the descriptors are gone in any case. */
  Failure Close();

 private:
  explicit Device(std::string path) : path_(std::move(path)) {}
  Failure OpenBlock(const DeviceOpenOptions& options);
  Failure OpenFile(const DeviceOpenOptions& options);

  Failure ReadDirect(MutableBytes target, uint64_t offset, size_t* done);
  Failure ReadBuffered(MutableBytes target, uint64_t offset, size_t* done);
  Failure WriteDirect(Bytes source, uint64_t offset);
  Failure WriteBuffered(Bytes source, uint64_t offset);
  Failure WritePartialSector(Bytes source, uint64_t offset);
  Failure PwriteAll(int descriptor, Bytes source, uint64_t offset);
  Failure WriteZeros(uint64_t offset, uint64_t length);
  Failure CheckRange(const char* operation, uint64_t offset, uint64_t length) const;

  Failure Failed(int error, const char* operation) const { return Failure(error, operation, path_); }
  Failure FailedAt(int error, const char* operation, uint64_t offset, uint64_t length, std::string reason = "") const;

  const std::string path_;
  DeviceInfo info_;
  int direct_ = -1;    // O_DIRECT; -1 where that is not possible or not wanted
  int buffered_ = -1;  // always there for files; for a block device only instead of direct_
  uint32_t unit_ = 4096;       // direct I/O and zeroing work in multiples of this
  uint64_t tail_start_ = 0;    // from here on the buffered descriptor is used
  std::mutex partial_sector_;  // two callers may each change half of one sector
  std::atomic<ZeroMethod> zero_method_{ZeroMethod::kPunchHole};
};

}  // namespace blockmover
