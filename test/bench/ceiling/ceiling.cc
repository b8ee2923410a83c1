// What this machine can do without JavaScript and without a repository: the native ceiling of a backup.
//
//   ceiling read|hash|seal|write DEVICE --threads N [--packs DIRECTORY] [--direct-packs]
//
// N threads, each with a buffer of 8 chunks and a slab for one pack, take groups of 8 MiB in turn:
//
//   read    O_DIRECT read of 8 MiB, then the test for zeros
//   hash    + keyed BLAKE2b-256 of the chunks that are not zero, side by side in vector lanes
//   seal    + HMAC-SHA256 key and AES-256-GCM of each such chunk, into the slab
//   write   + files of 20 MiB from the slab, written and fdatasync'ed before the thread goes on
//
// The kernels are the addon's own (native/*.cc); their OpenSSL is the system's, of the version that Node has. There is no
// deduplication, no index and no rename. Prints one line of JSON.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "cipher.h"
#include "device_io.h"
#include "mac.h"
#include "memory.h"

namespace blockmover {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr size_t kGroupChunks = 8;
constexpr size_t kGroupBytes = kGroupChunks * kChunkBytes;
constexpr size_t kPackBytes = 20 * kChunkBytes;
constexpr size_t kSlabBytes = kPackBytes + kGroupBytes + (size_t{1} << 16);
constexpr size_t kDigestBytes = 16;

enum class Mode { kRead, kHash, kSeal, kWrite };

struct Job {
  Mode mode = Mode::kRead;
  std::string device;
  std::string packs;
  int threads = 4;
  bool direct_packs = false;
};

[[noreturn]] void Die(const std::string& what) {
  fprintf(stderr, "ceiling: %s\n", what.c_str());
  exit(1);
}

void Check(const Failure& failure) {
  if (failure) Die(failure.Message());
}

/** Writes one pack to stable storage. The slab is page-aligned, so it may go by O_DIRECT; the tail is rounded up then. */
void WritePack(const Job& job, const std::string& name, const uint8_t* slab, size_t size) {
  const std::string path = job.packs + "/" + name;
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | (job.direct_packs ? O_DIRECT : 0);
  const int file = open(path.c_str(), flags, 0600);
  if (file < 0) Die("open " + path + ": " + strerror(errno));
  if (job.direct_packs) size = (size + 4095) / 4096 * 4096;
  for (size_t done = 0; done < size;) {
    const ssize_t put = pwrite(file, slab + done, size - done, static_cast<off_t>(done));
    if (put <= 0) Die("pwrite " + path + ": " + strerror(errno));
    done += static_cast<size_t>(put);
  }
  if (fdatasync(file) != 0 || close(file) != 0) Die("fdatasync " + path + ": " + strerror(errno));
}

struct Totals {
  std::atomic<uint64_t> next_group{0};
  std::atomic<uint64_t> zero_chunks{0};
  std::atomic<uint64_t> stored_bytes{0};
};

void Work(const Job& job, Device& device, const KeyedHash& hash, const ContentCipher& cipher, int thread, Totals& totals) {
  Scratch group_memory;
  Scratch slab_memory;
  uint8_t* const group = group_memory.Reserve(kGroupBytes);
  uint8_t* const slab = job.mode >= Mode::kSeal ? slab_memory.Reserve(kSlabBytes) : group;
  if (group == nullptr || slab == nullptr) Die("out of memory");
  size_t used = 0;
  int pack = 0;
  const auto send = [&] {
    if (used == 0) return;
    if (job.mode == Mode::kWrite) WritePack(job, "p" + std::to_string(thread) + "-" + std::to_string(pack++), slab, used);
    totals.stored_bytes += used;
    used = 0;
  };
  for (;;) {
    const uint64_t offset = totals.next_group++ * kGroupBytes;
    if (offset >= device.info().size) break;
    size_t got = 0;
    Check(device.Read(MutableBytes{group, kGroupBytes}, offset, &got));
    std::vector<Bytes> parts;
    for (size_t at = 0; at < got; at += kChunkBytes) {
      const Bytes chunk{group + at, std::min(kChunkBytes, got - at)};
      if (IsZero(chunk.data, chunk.size)) {
        totals.zero_chunks++;
      } else {
        parts.push_back(chunk);
      }
    }
    if (job.mode == Mode::kRead || parts.empty()) continue;
    uint8_t digests[kGroupChunks * kDigestBytes];
    Check(hash.DigestMany(parts, digests));
    if (job.mode == Mode::kHash) continue;
    ContentCipher::Deriver deriver;
    Check(cipher.MakeDeriver(&deriver));
    for (size_t i = 0; i < parts.size(); i++) {
      Check(cipher.Seal(deriver, parts[i], Bytes{digests + i * kDigestBytes, kDigestBytes}, slab + used));
      used += parts[i].size + ContentCipher::kOverheadBytes;
    }
    if (used >= kPackBytes) send();
  }
  send();
}

int Run(const Job& job) {
  std::unique_ptr<Device> device;
  Check(Device::Open(job.device, DeviceOpenOptions{}, &device));
  uint8_t key[32];
  for (size_t i = 0; i < sizeof key; i++) key[i] = static_cast<uint8_t>(i * 7 + 1);
  std::unique_ptr<KeyedHash> hash;
  std::unique_ptr<ContentCipher> cipher;
  std::string problem;
  Check(KeyedHash::Create("blake2b", Bytes{key, sizeof key}, 32, kDigestBytes, &hash, &problem));
  if (!problem.empty()) Die(problem);
  Check(ContentCipher::Create(CipherAlgorithm::kAes256Gcm, Bytes{key, sizeof key}, &cipher));

  Totals totals;
  const auto started = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int thread = 0; thread < job.threads; thread++) {
    threads.emplace_back([&, thread] { Work(job, *device, *hash, *cipher, thread, totals); });
  }
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
  printf("{\"seconds\":%.6f,\"bytes\":%llu,\"zeroChunks\":%llu,\"storedBytes\":%llu}\n", elapsed.count(),
         static_cast<unsigned long long>(device->info().size), static_cast<unsigned long long>(totals.zero_chunks),
         static_cast<unsigned long long>(totals.stored_bytes));
  return 0;
}

int Main(int count, char** arguments) {
  Job job;
  const char* const modes[] = {"read", "hash", "seal", "write"};
  int mode = -1;
  for (int i = 0; count > 2 && i < 4; i++) {
    if (strcmp(arguments[1], modes[i]) == 0) mode = i;
  }
  for (int i = 3; i < count; i++) {
    const std::string name = arguments[i];
    if (name == "--direct-packs") {
      job.direct_packs = true;
    } else if (name == "--threads" && i + 1 < count) {
      job.threads = atoi(arguments[++i]);
    } else if (name == "--packs" && i + 1 < count) {
      job.packs = arguments[++i];
    } else {
      mode = -1;
    }
  }
  job.mode = static_cast<Mode>(mode);
  if (mode < 0 || job.threads < 1 || job.packs.empty() == (job.mode == Mode::kWrite)) {
    fprintf(stderr, "usage: ceiling read|hash|seal|write DEVICE [--threads N] [--packs DIRECTORY] [--direct-packs]\n");
    return 2;
  }
  job.device = arguments[2];
  return Run(job);
}

}  // namespace
}  // namespace blockmover

int main(int count, char** arguments) { return blockmover::Main(count, arguments); }
