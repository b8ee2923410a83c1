#include "napi_support.h"

#include <errno.h>
#include <math.h>

namespace blockmover {
namespace {

struct Instance {
  napi_ref error_class = nullptr;
};

napi_value Throw(napi_env env, napi_status (*create)(napi_env, napi_value, napi_value, napi_value*),
                 const std::string& message) {
  napi_value text, error;
  if (napi_create_string_utf8(env, message.data(), message.size(), &text) == napi_ok &&
      create(env, nullptr, text, &error) == napi_ok) {
    napi_throw(env, error);
  }
  return nullptr;
}

}  // namespace

void SetErrorClass(napi_env env, napi_value error_class) {
  auto* instance = new Instance;
  napi_create_reference(env, error_class, 1, &instance->error_class);
  const auto finalize = [](napi_env finalized, void* data, void*) {
    auto* old = static_cast<Instance*>(data);
    napi_delete_reference(finalized, old->error_class);
    delete old;
  };
  void* before = nullptr;
  if (napi_get_instance_data(env, &before) == napi_ok && before != nullptr) {
    finalize(env, before, nullptr);  // setting new data does not finalize the old
  }
  napi_set_instance_data(env, instance, finalize, nullptr);
}

napi_value MakeNativeError(napi_env env, const Failure& failure) {
  void* data = nullptr;
  napi_value error_class = nullptr, error = nullptr;
  napi_value arguments[2];
  const std::string message = failure.Message();
  napi_create_string_utf8(env, message.data(), message.size(), &arguments[0]);
  napi_create_object(env, &arguments[1]);
  SetProperty(env, arguments[1], "errno", ToString(env, failure.ErrnoName().c_str()));
  SetProperty(env, arguments[1], "operation", ToString(env, failure.operation().c_str()));
  if (!failure.path().empty()) SetProperty(env, arguments[1], "path", ToString(env, failure.path().c_str()));
  if (napi_get_instance_data(env, &data) == napi_ok && data != nullptr &&
      napi_get_reference_value(env, static_cast<Instance*>(data)->error_class, &error_class) == napi_ok &&
      napi_new_instance(env, error_class, 2, arguments, &error) == napi_ok) {
    return error;
  }
  napi_create_error(env, nullptr, arguments[0], &error);  // initialize() was not called
  return error;
}

napi_value ThrowFailure(napi_env env, const Failure& failure) {
  napi_throw(env, MakeNativeError(env, failure));
  return nullptr;
}
napi_value ThrowType(napi_env env, const std::string& message) {
  return Throw(env, napi_create_type_error, message);
}
napi_value ThrowRange(napi_env env, const std::string& message) {
  return Throw(env, napi_create_range_error, message);
}

napi_value Undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

napi_value ToNumber(napi_env env, double number) {
  napi_value value = nullptr;
  napi_create_double(env, number, &value);
  return value;
}

napi_value ToString(napi_env env, const char* text) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value);
  return value;
}

napi_value ToBuffer(napi_env env, const uint8_t* data, size_t size) {
  napi_value value = nullptr;
  if (napi_create_buffer_copy(env, size, data, nullptr, &value) != napi_ok) return nullptr;
  return value;
}

void SetProperty(napi_env env, napi_value object, const char* name, napi_value value) {
  napi_set_named_property(env, object, name, value);
}

napi_value GetProperty(napi_env env, napi_value object, const char* name) {
  napi_value value = nullptr;
  return napi_get_named_property(env, object, name, &value) == napi_ok ? value : Undefined(env);
}

bool GetBytes(napi_env env, napi_value value, const char* what, MutableBytes* bytes) {
  bool is_typed_array = false;
  napi_typedarray_type type = napi_int8_array;
  void* data = nullptr;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array ||
      napi_get_typedarray_info(env, value, &type, &bytes->size, &data, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array) {
    ThrowType(env, std::string(what) + " must be a Uint8Array");
    return false;
  }
  bytes->data = static_cast<uint8_t*>(data);
  return true;
}

bool GetBytes(napi_env env, napi_value value, const char* what, Bytes* bytes) {
  MutableBytes found;
  if (!GetBytes(env, value, what, &found)) return false;
  *bytes = Bytes{found.data, found.size};
  return true;
}

bool GetString(napi_env env, napi_value value, const char* what, std::string* text) {
  size_t size = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &size) != napi_ok) {
    ThrowType(env, std::string(what) + " must be a string");
    return false;
  }
  text->resize(size + 1);
  napi_get_value_string_utf8(env, value, &(*text)[0], size + 1, &size);
  text->resize(size);
  return true;
}

bool GetBool(napi_env env, napi_value value, const char* what, bool* flag) {
  if (napi_get_value_bool(env, value, flag) == napi_ok) return true;
  ThrowType(env, std::string(what) + " must be a boolean");
  return false;
}

bool GetInteger(napi_env env, napi_value value, const char* what, int64_t minimum, int64_t maximum, int64_t* number) {
  double found = 0;
  if (napi_get_value_double(env, value, &found) != napi_ok) {
    ThrowType(env, std::string(what) + " must be a number");
    return false;
  }
  // The negation catches NaN as well.
  if (!(found >= static_cast<double>(minimum) && found <= static_cast<double>(maximum)) || trunc(found) != found) {
    ThrowRange(env, std::string(what) + " must be an integer of " + std::to_string(minimum) + " to " +
                        std::to_string(maximum));
    return false;
  }
  *number = static_cast<int64_t>(found);
  return true;
}

bool IsUndefined(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  return napi_typeof(env, value, &type) == napi_ok && type == napi_undefined;
}

napi_value Work::MakePromise() {
  napi_value promise = nullptr, kept = nullptr, name = nullptr;
  if (napi_create_array_with_length(env_, kept_values_.size(), &kept) != napi_ok) return nullptr;
  for (size_t i = 0; i < kept_values_.size(); i++) {
    napi_set_element(env_, kept, static_cast<uint32_t>(i), kept_values_[i]);
  }
  kept_values_.clear();
  const auto execute = [](napi_env, void* data) { static_cast<Work*>(data)->Run(); };
  if (napi_create_string_utf8(env_, name_, NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_reference(env_, kept, 1, &kept_) != napi_ok ||
      napi_create_async_work(env_, nullptr, name, execute, &Work::Complete, this, &work_) != napi_ok ||
      napi_create_promise(env_, &deferred_, &promise) != napi_ok) {
    if (kept_ != nullptr) napi_delete_reference(env_, kept_);
    if (work_ != nullptr) napi_delete_async_work(env_, work_);
    napi_throw_error(env_, nullptr, "Node-API could not start asynchronous work");
    return nullptr;
  }
  return promise;
}

void Work::Queue(std::unique_ptr<Work> work) {
  napi_queue_async_work(work->env_, work->work_);
  work.release();  // Complete takes it back
}

napi_value Work::Start(std::unique_ptr<Work> work) {
  napi_value promise = work->MakePromise();
  if (promise != nullptr) Queue(std::move(work));
  return promise;
}

void Work::Complete(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<Work> work(static_cast<Work*>(data));
  if (status == napi_cancelled) work->failure = Failure(ECANCELED, work->name_);
  napi_value result = work->failure ? nullptr : work->Result(env);
  if (result == nullptr) {
    napi_value error = nullptr;
    if (work->failure) {
      error = MakeNativeError(env, work->failure);
    } else {
      napi_get_and_clear_last_exception(env, &error);
    }
    napi_reject_deferred(env, work->deferred_, error);
  } else {
    napi_resolve_deferred(env, work->deferred_, result);
  }
  work->Settled();
  napi_delete_reference(env, work->kept_);
  napi_delete_async_work(env, work->work_);
}

}  // namespace blockmover
