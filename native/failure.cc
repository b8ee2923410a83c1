#include "failure.h"

#include <errno.h>
#include <string.h>

namespace blockmover {

// glibc has strerrorname_np from 2.32 on and musl has nothing, so the names that block I/O meets are listed here.
std::string Failure::ErrnoName() const {
  switch (error_) {
#define NAME(name) \
  case name:       \
    return #name;
    NAME(EPERM) NAME(ENOENT) NAME(EINTR) NAME(EIO) NAME(ENXIO) NAME(EBADF) NAME(EAGAIN) NAME(ENOMEM) NAME(EACCES)
    NAME(EFAULT) NAME(ENOTBLK) NAME(EBUSY) NAME(EEXIST) NAME(EXDEV) NAME(ENODEV) NAME(ENOTDIR) NAME(EISDIR)
    NAME(EINVAL) NAME(ENFILE) NAME(EMFILE) NAME(ENOTTY) NAME(ETXTBSY) NAME(EFBIG) NAME(ENOSPC) NAME(ESPIPE)
    NAME(EROFS) NAME(EMLINK) NAME(EPIPE) NAME(ERANGE) NAME(EDEADLK) NAME(ENAMETOOLONG) NAME(ENOLCK) NAME(ENOSYS)
    NAME(ELOOP) NAME(ENODATA) NAME(ETIME) NAME(EREMOTEIO) NAME(EBADMSG) NAME(EOVERFLOW) NAME(EILSEQ) NAME(EUCLEAN)
    NAME(EOPNOTSUPP) NAME(ENOBUFS) NAME(ETIMEDOUT) NAME(ECONNRESET) NAME(EHOSTDOWN) NAME(EHOSTUNREACH)
    NAME(EALREADY) NAME(EINPROGRESS) NAME(ESTALE) NAME(EDQUOT) NAME(ENOMEDIUM) NAME(EMEDIUMTYPE) NAME(ECANCELED)
    NAME(ENOKEY) NAME(EKEYEXPIRED) NAME(EKEYREVOKED) NAME(ENOLINK) NAME(EPROTO) NAME(EBADE)
#undef NAME
  }
  return "E" + std::to_string(error_);
}

std::string Failure::Message() const {
  char buffer[128] = "";
  std::string text = reason_;
  if (text.empty()) {
#if defined(__GLIBC__)
    text = strerror_r(error_, buffer, sizeof buffer);  // the GNU one, which may return a constant instead
#else
    if (strerror_r(error_, buffer, sizeof buffer) == 0) text = buffer;
#endif
  }
  std::string message = operation_;
  if (!path_.empty()) message += " " + path_;
  return message + detail_ + ": " + ErrnoName() + " (" + text + ")";
}

}  // namespace blockmover
