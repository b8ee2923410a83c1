// The addon's door: native/index.ts is the only thing that loads it, and holds its manual.
#include <errno.h>
#include <sys/mman.h>

#include "bindings.h"

namespace blockmover {
namespace {

napi_value Initialize(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  SetErrorClass(env, arguments[0]);
  return Undefined(env);
}

napi_value AllocateAligned(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  int64_t size = 0;
  if (!GetInteger(env, arguments[0], "sizeBytes", 0, int64_t{1} << 32, &size)) return nullptr;
  if (size == 0) return ToBuffer(env, nullptr, 0);
  // Pages of the kernel: aligned, zero, and without memory behind them until they are touched.
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return ThrowFailure(env, Failure(errno, "mmap", "", " " + std::to_string(size) + " bytes"));
  const auto finalize = [](napi_env, void* mapped, void* mapped_size) {
    munmap(mapped, reinterpret_cast<uintptr_t>(mapped_size));
  };
  napi_value buffer = nullptr;
  if (napi_create_external_buffer(env, size, data, finalize, reinterpret_cast<void*>(size), &buffer) != napi_ok) {
    munmap(data, size);
    return ThrowFailure(env, Failure(ENOMEM, "allocateAligned"));
  }
  return buffer;
}

napi_value IsZeroBytes(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  Bytes data;
  if (!GetBytes(env, arguments[0], "data", &data)) return nullptr;
  napi_value value = nullptr;
  napi_get_boolean(env, IsZero(data.data, data.size), &value);
  return value;
}

const Export kExports[] = {
    {"initialize", Initialize},
    {"allocateAligned", AllocateAligned},
    {"isZero", IsZeroBytes},
    {nullptr, nullptr},
};

}  // namespace
}  // namespace blockmover

NAPI_MODULE_INIT() {
  using namespace blockmover;
  for (const Export* list : {kExports, kDeviceExports, kCryptoExports, kCompressExports}) {
    for (const Export* entry = list; entry->name != nullptr; entry++) {
      napi_value function = nullptr;
      if (napi_create_function(env, entry->name, NAPI_AUTO_LENGTH, entry->function, nullptr, &function) != napi_ok) {
        return nullptr;
      }
      SetProperty(env, exports, entry->name, function);
    }
  }
  return exports;
}
