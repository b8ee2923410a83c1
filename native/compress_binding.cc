// Compression functions of native/index.ts.
#include <errno.h>

#include "bindings.h"
#include "compression_argument.h"

namespace blockmover {

bool GetCompression(napi_env env, napi_value value, bool none_allowed, Compression* compression) {
  std::string name;
  if (!GetString(env, value, "compression", &name)) return false;
  if (name == "zstd") {
    *compression = Compression::kZstd;
  } else if (name == "lz4") {
    *compression = Compression::kLz4;
  } else if (name == "s2") {
    *compression = Compression::kS2;
  } else if (name == "none" && none_allowed) {
    *compression = Compression::kNone;
  } else {
    ThrowRange(env, "unknown compression " + name);
    return false;
  }
  return true;
}

namespace {

constexpr int64_t kMaxDecompressedBytes = int64_t{1} << 30;

class CompressManyWork : public Work {
 public:
  struct Item {
    Bytes source;
    MutableBytes target;
    uint32_t header_id = 0;
  };

  CompressManyWork(napi_env env, int level) : Work(env, "blockmover.zstdCompressMany"), level_(level) {}
  void Add(Item item) { items_.push_back(item); }

 protected:
  void Run() override {
    for (const Item& item : items_) {
      // No more room than a gain of one byte leaves: zstd then stops early where it does not gain.
      const size_t room = item.source.size > kHeaderBytes + 1 ? item.source.size - kHeaderBytes - 1 : 0;
      size_t written = 0;
      if (room > 0) {
        StoreHeader(item.header_id, item.target.data);
        failure = CompressZstd(item.source, MutableBytes{item.target.data + kHeaderBytes, room}, level_, &written);
        if (failure) return;
      }
      lengths_.push_back(written == 0 ? 0 : written + kHeaderBytes);
    }
  }
  napi_value Result(napi_env env) override {
    napi_value result = nullptr;
    napi_create_array_with_length(env, lengths_.size(), &result);
    for (size_t i = 0; i < lengths_.size(); i++) {
      napi_set_element(env, result, static_cast<uint32_t>(i), ToNumber(env, static_cast<double>(lengths_[i])));
    }
    return result;
  }

 private:
  const int level_;
  std::vector<Item> items_;
  std::vector<size_t> lengths_;
};

napi_value ZstdCompressMany(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  int64_t level = 0;
  uint32_t count = 0;
  if (napi_get_array_length(env, arguments[0], &count) != napi_ok) return ThrowType(env, "items must be an array");
  if (!GetInteger(env, arguments[1], "level", kMinZstdLevel, kMaxZstdLevel, &level)) return nullptr;
  auto work = std::make_unique<CompressManyWork>(env, static_cast<int>(level));
  for (uint32_t i = 0; i < count; i++) {
    napi_value object = nullptr;
    CompressManyWork::Item item;
    int64_t header_id = 0;
    if (napi_get_element(env, arguments[0], i, &object) != napi_ok) return nullptr;
    const napi_value source = GetProperty(env, object, "source");
    const napi_value target = GetProperty(env, object, "target");
    if (!GetBytes(env, source, "source", &item.source) || !GetBytes(env, target, "target", &item.target) ||
        !GetInteger(env, GetProperty(env, object, "headerId"), "headerId", 0, UINT32_MAX, &header_id)) {
      return nullptr;
    }
    if (item.target.size < item.source.size) return ThrowRange(env, "target must be as long as the source or longer");
    item.header_id = static_cast<uint32_t>(header_id);
    work->Add(item);
    for (const napi_value value : {source, target}) work->Keep(value);
  }
  return Work::Start(std::move(work));
}

napi_value ZstdCompress(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  Bytes source;
  int64_t level = 0;
  if (!GetBytes(env, arguments[0], "source", &source) ||
      !GetInteger(env, arguments[1], "level", kMinZstdLevel, kMaxZstdLevel, &level)) {
    return nullptr;
  }
  Scratch target;
  const size_t bound = ZstdBound(source.size);
  uint8_t* const data = target.Reserve(bound);
  if (data == nullptr) return ThrowFailure(env, Failure(ENOMEM, "zstdCompress"));
  size_t written = 0;
  if (Failure failure = CompressZstd(source, MutableBytes{data, bound}, static_cast<int>(level), &written)) {
    return ThrowFailure(env, failure);
  }
  return ToBuffer(env, data, written);
}

napi_value DecompressSmall(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  Compression kind = Compression::kNone;
  Bytes data;
  int64_t max_bytes = 0;
  if (!GetCompression(env, arguments[0], false, &kind) || !GetBytes(env, arguments[1], "data", &data) ||
      !GetInteger(env, arguments[2], "maxBytes", 0, kMaxDecompressedBytes, &max_bytes)) {
    return nullptr;
  }
  Scratch target;
  uint8_t* const out = target.Reserve(static_cast<size_t>(max_bytes));
  if (out == nullptr) return ThrowFailure(env, Failure(ENOMEM, "decompress"));
  size_t written = 0;
  DecompressOutcome outcome = DecompressOutcome::kDamaged;
  Failure failure = Decompress(kind, data, MutableBytes{out, static_cast<size_t>(max_bytes)}, &written, &outcome);
  if (!failure && outcome == DecompressOutcome::kDamaged) {
    failure = Failure(EBADMSG, "decompress", "", "", "the stream is damaged or cut off");
  } else if (!failure && outcome == DecompressOutcome::kTooLong) {
    failure = Failure(EBADMSG, "decompress", "", "", "more than " + std::to_string(max_bytes) + " bytes come out");
  }
  return failure ? ThrowFailure(env, failure) : ToBuffer(env, out, written);
}

napi_value HasZstdLibrary(napi_env env, napi_callback_info) {
  napi_value value = nullptr;
  napi_get_boolean(env, HasZstd(), &value);
  return value;
}

}  // namespace

const Export kCompressExports[] = {
    {"zstdCompressMany", ZstdCompressMany}, {"zstdCompress", ZstdCompress}, {"decompress", DecompressSmall},
    {"hasZstd", HasZstdLibrary},            {nullptr, nullptr},
};

}  // namespace blockmover
