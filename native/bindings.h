// The functions that the addon exports, by file; each list ends with a null name.
#pragma once

#include "napi_support.h"

namespace blockmover {

struct Export {
  const char* name;
  napi_callback function;
};

extern const Export kDeviceExports[];
extern const Export kCryptoExports[];
extern const Export kCompressExports[];

}  // namespace blockmover
