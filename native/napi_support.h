// What every binding needs of Node-API: arguments checked, failures as NativeError, work on the thread pool.
#pragma once

#include <node_api.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "failure.h"
#include "memory.h"

namespace blockmover {

/** Per environment (main thread or worker): the NativeError class. */
void SetErrorClass(napi_env env, napi_value error_class);
napi_value MakeNativeError(napi_env env, const Failure& failure);
/** Throws the failure as NativeError and returns null, so that a binding can `return ThrowFailure(...)`. */
napi_value ThrowFailure(napi_env env, const Failure& failure);
napi_value ThrowType(napi_env env, const std::string& message);
napi_value ThrowRange(napi_env env, const std::string& message);

napi_value Undefined(napi_env env);
napi_value ToNumber(napi_env env, double value);
napi_value ToString(napi_env env, const char* value);
/** A Buffer that owns a copy. */
napi_value ToBuffer(napi_env env, const uint8_t* data, size_t size);
void SetProperty(napi_env env, napi_value object, const char* name, napi_value value);
napi_value GetProperty(napi_env env, napi_value object, const char* name);

/** Reads with a thrown TypeError or RangeError, naming `what`, and false when the value is something else. */
bool GetBytes(napi_env env, napi_value value, const char* what, MutableBytes* bytes);
bool GetBytes(napi_env env, napi_value value, const char* what, Bytes* bytes);
bool GetString(napi_env env, napi_value value, const char* what, std::string* text);
bool GetBool(napi_env env, napi_value value, const char* what, bool* flag);
/** An integer of `minimum` to `maximum`, both exactly representable as double. */
bool GetInteger(napi_env env, napi_value value, const char* what, int64_t minimum, int64_t maximum, int64_t* number);
constexpr int64_t kMaxSafeInteger = (int64_t{1} << 53) - 1;

bool IsUndefined(napi_env env, napi_value value);

/** The arguments of one call; missing ones are undefined. */
template <size_t kCount>
struct Arguments {
  Arguments(napi_env env, napi_callback_info info) {
    size_t count = kCount;
    napi_get_cb_info(env, info, &count, values, nullptr, nullptr);
  }
  napi_value operator[](size_t index) const { return values[index]; }
  napi_value values[kCount];
};

/** A C++ object behind an opaque JavaScript value; the tag keeps one class from being taken for another. */
template <class T>
napi_value MakeHandle(napi_env env, std::unique_ptr<T> object) {
  napi_value handle;
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<T*>(data); };
  if (napi_create_external(env, object.get(), finalize, nullptr, &handle) != napi_ok) return nullptr;
  napi_type_tag_object(env, handle, &T::kTypeTag);
  object.release();
  return handle;
}

template <class T>
bool GetHandle(napi_env env, napi_value value, T** object) {
  bool matches = false;
  void* data = nullptr;
  if (napi_check_object_type_tag(env, value, &T::kTypeTag, &matches) != napi_ok || !matches ||
      napi_get_value_external(env, value, &data) != napi_ok) {
    ThrowType(env, "not a handle of this class");
    return false;
  }
  *object = static_cast<T*>(data);
  return true;
}

/**
 * One asynchronous call: Run on libuv's pool, then Result on the JavaScript thread settles the promise.
 *
 * Values that were given to Keep stay alive until then: views whose bytes Run uses, and handles.
 */
class Work {
 public:
  Work(napi_env env, const char* name) : env_(env), name_(name) {}
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  virtual ~Work() = default;

  void Keep(napi_value value) { kept_values_.push_back(value); }
  /** The promise; call once, in the call that made this, before Queue. Null with an exception pending on failure. */
  napi_value MakePromise();
  /** Hands `work` to the pool; it deletes itself when it has settled. */
  static void Queue(std::unique_ptr<Work> work);
  /** MakePromise and Queue. */
  static napi_value Start(std::unique_ptr<Work> work);

 protected:
  /** On a pool thread: no JavaScript. Sets `failure` when it fails. */
  virtual void Run() = 0;
  /** On the JavaScript thread, when Run did not fail. */
  virtual napi_value Result(napi_env env) { return Undefined(env); }
  /** On the JavaScript thread, after the promise has been settled. */
  virtual void Settled() {}

  Failure failure;

 private:
  static void Complete(napi_env env, napi_status status, void* data);

  napi_env env_;
  const char* name_;
  std::vector<napi_value> kept_values_;  // only until MakePromise, which refers to them by one reference
  napi_ref kept_ = nullptr;
  napi_deferred deferred_ = nullptr;
  napi_async_work work_ = nullptr;
};

}  // namespace blockmover
