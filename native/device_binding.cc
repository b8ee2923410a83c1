// DeviceFile of native/index.ts: promises over Device, and when its descriptors may be closed.
#include <errno.h>

#include "bindings.h"
#include "device_io.h"

namespace blockmover {
namespace {

constexpr size_t kMaxChunks = 31;  // bit 31 would make the JavaScript number negative

/** A device and the calls that run on it. Touched on the JavaScript thread only, except `device` itself. */
struct DeviceHandle {
  static constexpr napi_type_tag kTypeTag = {0x8b1f4e5a0c0b4d01, 0x9d5c6f6fd1b4a2e1};

  explicit DeviceHandle(napi_env environment) : env(environment) {}
  ~DeviceHandle() {
    if (close_promise != nullptr) napi_delete_reference(env, close_promise);
  }

  const napi_env env;
  std::unique_ptr<Device> device;  // its destructor closes it when nobody did
  std::string path;
  size_t running = 0;
  std::unique_ptr<Work> close_work;  // waits for `running` to become 0
  napi_ref close_promise = nullptr;  // set by the first close: every later one returns it
};

/** A call on an open device: counts as running from its start until it has settled. */
class DeviceWork : public Work {
 public:
  DeviceWork(napi_env env, const char* name, DeviceHandle* handle) : Work(env, name), handle_(handle) {}

  static napi_value Start(std::unique_ptr<DeviceWork> work, napi_value handle_value) {
    work->Keep(handle_value);
    DeviceHandle* handle = work->handle_;
    napi_value promise = Work::Start(std::move(work));
    if (promise != nullptr) handle->running++;
    return promise;
  }

 protected:
  void Settled() override {
    handle_->running--;
    if (handle_->running == 0 && handle_->close_work != nullptr) Queue(std::move(handle_->close_work));
  }
  Device& device() { return *handle_->device; }

 private:
  DeviceHandle* handle_;
};

/** An open handle, or null with a rejected promise in `rejected` (or an exception pending). */
DeviceHandle* OpenHandle(napi_env env, napi_value value, const char* operation, napi_value* rejected) {
  DeviceHandle* handle = nullptr;
  *rejected = nullptr;
  if (!GetHandle(env, value, &handle)) return nullptr;
  if (handle->close_promise == nullptr) return handle;
  napi_deferred deferred;
  if (napi_create_promise(env, &deferred, rejected) == napi_ok) {
    const Failure failure(EBADF, operation, handle->path, "", "the device is closed");
    napi_reject_deferred(env, deferred, MakeNativeError(env, failure));
  }
  return nullptr;
}

class OpenWork : public Work {
 public:
  OpenWork(napi_env env, std::string path, DeviceOpenOptions options)
      : Work(env, "blockmover.open"), path_(std::move(path)), options_(options) {}

 protected:
  void Run() override { failure = Device::Open(path_, options_, &device_); }
  napi_value Result(napi_env env) override {
    const DeviceInfo info = device_->info();
    auto handle = std::make_unique<DeviceHandle>(env);
    handle->device = std::move(device_);
    handle->path = path_;
    napi_value result = nullptr;
    napi_create_object(env, &result);
    SetProperty(env, result, "handle", MakeHandle(env, std::move(handle)));
    SetProperty(env, result, "kind", ToString(env, info.is_block ? "block" : "file"));
    SetProperty(env, result, "sizeBytes", ToNumber(env, static_cast<double>(info.size)));
    SetProperty(env, result, "logicalSectorBytes", ToNumber(env, info.logical_sector));
    SetProperty(env, result, "physicalSectorBytes", ToNumber(env, info.physical_sector));
    return result;
  }

 private:
  const std::string path_;
  const DeviceOpenOptions options_;
  std::unique_ptr<Device> device_;
};

napi_value Open(napi_env env, napi_callback_info info) {
  const Arguments<5> arguments(env, info);
  std::string path;
  DeviceOpenOptions options;
  if (!GetString(env, arguments[0], "path", &path) || !GetBool(env, arguments[1], "write", &options.write) ||
      !GetBool(env, arguments[2], "exclusive", &options.exclusive) ||
      !GetBool(env, arguments[3], "direct", &options.direct) ||
      !GetInteger(env, arguments[4], "createSizeBytes", -1, kMaxSafeInteger, &options.create_size)) {
    return nullptr;
  }
  if (path.find('\0') != std::string::npos) return ThrowType(env, "path must not contain a NUL character");
  return Work::Start(std::make_unique<OpenWork>(env, std::move(path), options));
}

class ReadWork : public DeviceWork {
 public:
  ReadWork(napi_env env, DeviceHandle* handle, MutableBytes target, uint64_t offset)
      : DeviceWork(env, "blockmover.read", handle), target_(target), offset_(offset) {}

 protected:
  void Run() override { failure = device().Read(target_, offset_, &done_); }
  napi_value Result(napi_env env) override { return ToNumber(env, static_cast<double>(done_)); }

 private:
  const MutableBytes target_;
  const uint64_t offset_;
  size_t done_ = 0;
};

napi_value Read(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  napi_value rejected;
  DeviceHandle* handle = OpenHandle(env, arguments[0], "read", &rejected);
  MutableBytes target;
  int64_t offset = 0;
  if (handle == nullptr) return rejected;
  if (!GetBytes(env, arguments[1], "target", &target) ||
      !GetInteger(env, arguments[2], "offsetBytes", 0, kMaxSafeInteger, &offset)) {
    return nullptr;
  }
  auto work = std::make_unique<ReadWork>(env, handle, target, offset);
  work->Keep(arguments[1]);
  return DeviceWork::Start(std::move(work), arguments[0]);
}

class ReadChunksWork : public DeviceWork {
 public:
  ReadChunksWork(napi_env env, DeviceHandle* handle, MutableBytes target, uint64_t offset, size_t chunk_size)
      : DeviceWork(env, "blockmover.readChunks", handle), target_(target), offset_(offset), chunk_size_(chunk_size) {}

 protected:
  void Run() override { failure = device().ReadChunks(target_, offset_, chunk_size_, &done_, &zero_chunks_); }
  napi_value Result(napi_env env) override {
    napi_value result = nullptr;
    napi_create_object(env, &result);
    SetProperty(env, result, "bytesRead", ToNumber(env, static_cast<double>(done_)));
    SetProperty(env, result, "zeroChunks", ToNumber(env, zero_chunks_));
    return result;
  }

 private:
  const MutableBytes target_;
  const uint64_t offset_;
  const size_t chunk_size_;
  size_t done_ = 0;
  uint32_t zero_chunks_ = 0;
};

napi_value ReadChunks(napi_env env, napi_callback_info info) {
  const Arguments<4> arguments(env, info);
  napi_value rejected;
  DeviceHandle* handle = OpenHandle(env, arguments[0], "read", &rejected);
  MutableBytes target;
  int64_t offset = 0;
  int64_t chunk_size = 0;
  if (handle == nullptr) return rejected;
  if (!GetBytes(env, arguments[1], "target", &target) ||
      !GetInteger(env, arguments[2], "offsetBytes", 0, kMaxSafeInteger, &offset) ||
      !GetInteger(env, arguments[3], "chunkSizeBytes", 1, kMaxSafeInteger, &chunk_size)) {
    return nullptr;
  }
  if (target.size > 0 && (target.size - 1) / static_cast<size_t>(chunk_size) >= kMaxChunks) {
    return ThrowRange(env, "target must hold at most " + std::to_string(kMaxChunks) + " chunks");
  }
  auto work = std::make_unique<ReadChunksWork>(env, handle, target, offset, chunk_size);
  work->Keep(arguments[1]);
  return DeviceWork::Start(std::move(work), arguments[0]);
}

class WriteWork : public DeviceWork {
 public:
  WriteWork(napi_env env, DeviceHandle* handle, Bytes source, uint64_t offset)
      : DeviceWork(env, "blockmover.write", handle), source_(source), offset_(offset) {}

 protected:
  void Run() override { failure = device().Write(source_, offset_); }

 private:
  const Bytes source_;
  const uint64_t offset_;
};

napi_value Write(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  napi_value rejected;
  DeviceHandle* handle = OpenHandle(env, arguments[0], "write", &rejected);
  Bytes source;
  int64_t offset = 0;
  if (handle == nullptr) return rejected;
  if (!GetBytes(env, arguments[1], "source", &source) ||
      !GetInteger(env, arguments[2], "offsetBytes", 0, kMaxSafeInteger, &offset)) {
    return nullptr;
  }
  auto work = std::make_unique<WriteWork>(env, handle, source, offset);
  work->Keep(arguments[1]);
  return DeviceWork::Start(std::move(work), arguments[0]);
}

class ZeroRangeWork : public DeviceWork {
 public:
  ZeroRangeWork(napi_env env, DeviceHandle* handle, uint64_t offset, uint64_t length)
      : DeviceWork(env, "blockmover.zeroRange", handle), offset_(offset), length_(length) {}

 protected:
  void Run() override { failure = device().ZeroRange(offset_, length_, &method_); }
  napi_value Result(napi_env env) override {
    return ToString(env, method_ == ZeroMethod::kPunchHole ? "punch-hole"
                         : method_ == ZeroMethod::kZeroout ? "zeroout"
                                                           : "written");
  }

 private:
  const uint64_t offset_;
  const uint64_t length_;
  ZeroMethod method_ = ZeroMethod::kWritten;
};

napi_value ZeroRange(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  napi_value rejected;
  DeviceHandle* handle = OpenHandle(env, arguments[0], "zero", &rejected);
  int64_t offset = 0;
  int64_t length = 0;
  if (handle == nullptr) return rejected;
  if (!GetInteger(env, arguments[1], "offsetBytes", 0, kMaxSafeInteger, &offset) ||
      !GetInteger(env, arguments[2], "lengthBytes", 0, kMaxSafeInteger, &length)) {
    return nullptr;
  }
  return DeviceWork::Start(std::make_unique<ZeroRangeWork>(env, handle, offset, length), arguments[0]);
}

class FlushWork : public DeviceWork {
 public:
  FlushWork(napi_env env, DeviceHandle* handle) : DeviceWork(env, "blockmover.flush", handle) {}

 protected:
  void Run() override { failure = device().Flush(); }
};

napi_value Flush(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  napi_value rejected;
  DeviceHandle* handle = OpenHandle(env, arguments[0], "fsync", &rejected);
  if (handle == nullptr) return rejected;
  return DeviceWork::Start(std::make_unique<FlushWork>(env, handle), arguments[0]);
}

/** On the pool as well: the last close of a block device writes its cache out. */
class CloseWork : public Work {
 public:
  CloseWork(napi_env env, DeviceHandle* handle) : Work(env, "blockmover.close"), handle_(handle) {}

 protected:
  void Run() override { failure = handle_->device->Close(); }

 private:
  DeviceHandle* handle_;
};

napi_value Close(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  DeviceHandle* handle = nullptr;
  if (!GetHandle(env, arguments[0], &handle)) return nullptr;
  napi_value promise = nullptr;
  if (handle->close_promise != nullptr) {
    napi_get_reference_value(env, handle->close_promise, &promise);
    return promise;
  }
  std::unique_ptr<Work> work = std::make_unique<CloseWork>(env, handle);
  work->Keep(arguments[0]);
  promise = work->MakePromise();
  if (promise == nullptr || napi_create_reference(env, promise, 1, &handle->close_promise) != napi_ok) return nullptr;
  if (handle->running == 0) {
    Work::Queue(std::move(work));
  } else {
    handle->close_work = std::move(work);
  }
  return promise;
}

}  // namespace

const Export kDeviceExports[] = {
    {"deviceOpen", Open},           {"deviceRead", Read},   {"deviceReadChunks", ReadChunks}, {"deviceWrite", Write},
    {"deviceZeroRange", ZeroRange}, {"deviceFlush", Flush}, {"deviceClose", Close},           {nullptr, nullptr},
};

}  // namespace blockmover
