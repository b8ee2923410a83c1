// What went wrong in a call: made where it happens, becomes a NativeError of native/index.ts.
#pragma once

#include <string>

namespace blockmover {

class Failure {
 public:
  /** No failure. */
  Failure() = default;

  /** `detail` follows the path, for example " at offset 0, 512 bytes"; `reason` replaces the system's text. */
  Failure(int error, std::string operation, std::string path = "", std::string detail = "", std::string reason = "")
      : error_(error),
        operation_(std::move(operation)),
        path_(std::move(path)),
        detail_(std::move(detail)),
        reason_(std::move(reason)) {}

  /** True when something failed. */
  explicit operator bool() const { return error_ != 0; }

  const std::string& operation() const { return operation_; }
  const std::string& path() const { return path_; }
  /** "EIO". */
  std::string ErrnoName() const;
  /** "pread /dev/loop3 at offset 1048576, 1048576 bytes: EIO (Input/output error)". */
  std::string Message() const;

 private:
  int error_ = 0;
  std::string operation_;
  std::string path_;
  std::string detail_;
  std::string reason_;
};

}  // namespace blockmover
