// KeyedHash and ContentCipher of native/index.ts.
#include <errno.h>

#include "bindings.h"
#include "cipher.h"
#include "compress.h"
#include "compression_argument.h"
#include "mac.h"

namespace blockmover {
namespace {

// ---- KeyedHash

struct HashHandle {
  static constexpr napi_type_tag kTypeTag = {0x5c7be0e6a1d34f02, 0xb0a93f4bd2c85e77};
  std::unique_ptr<KeyedHash> hash;
};

napi_value HashCreate(napi_env env, napi_callback_info info) {
  const Arguments<4> arguments(env, info);
  std::string algorithm, problem;
  Bytes key;
  int64_t digest_bytes = 0, output_bytes = 0;
  if (!GetString(env, arguments[0], "algorithm", &algorithm) || !GetBytes(env, arguments[1], "key", &key) ||
      !GetInteger(env, arguments[2], "digestBytes", 0, kMaxSafeInteger, &digest_bytes) ||
      !GetInteger(env, arguments[3], "outputBytes", 0, kMaxSafeInteger, &output_bytes)) {
    return nullptr;
  }
  auto handle = std::make_unique<HashHandle>();
  if (Failure failure = KeyedHash::Create(algorithm, key, digest_bytes, output_bytes, &handle->hash, &problem)) {
    return ThrowFailure(env, failure);
  }
  if (!problem.empty()) return ThrowRange(env, problem);
  return MakeHandle(env, std::move(handle));
}

napi_value HashDigest(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  HashHandle* handle = nullptr;
  Bytes data;
  if (!GetHandle(env, arguments[0], &handle) || !GetBytes(env, arguments[1], "data", &data)) return nullptr;
  uint8_t digest[kBlake2bMaxDigestBytes];
  if (Failure failure = handle->hash->Digest(data, digest)) return ThrowFailure(env, failure);
  return ToBuffer(env, digest, handle->hash->output_bytes());
}

class DigestManyWork : public Work {
 public:
  DigestManyWork(napi_env env, const KeyedHash* hash) : Work(env, "blockmover.digestMany"), hash_(hash) {}
  void Add(Bytes part) { parts_.push_back(part); }

 protected:
  void Run() override {
    digests_.resize(parts_.size() * hash_->output_bytes());
    failure = hash_->DigestMany(parts_, digests_.data());
  }
  napi_value Result(napi_env env) override { return ToBuffer(env, digests_.data(), digests_.size()); }

 private:
  const KeyedHash* hash_;
  std::vector<Bytes> parts_;
  std::vector<uint8_t> digests_;
};

/** The length of a JavaScript array; false with a TypeError when it is not one. */
bool GetArrayLength(napi_env env, napi_value array, const char* what, uint32_t* length) {
  bool is_array = false;
  if (napi_is_array(env, array, &is_array) == napi_ok && is_array &&
      napi_get_array_length(env, array, length) == napi_ok) {
    return true;
  }
  ThrowType(env, std::string(what) + " must be an array");
  return false;
}

napi_value HashDigestMany(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  HashHandle* handle = nullptr;
  uint32_t count = 0;
  if (!GetHandle(env, arguments[0], &handle) || !GetArrayLength(env, arguments[1], "parts", &count)) return nullptr;
  auto work = std::make_unique<DigestManyWork>(env, handle->hash.get());
  work->Keep(arguments[0]);
  for (uint32_t i = 0; i < count; i++) {
    napi_value part = nullptr;
    Bytes bytes;
    if (napi_get_element(env, arguments[1], i, &part) != napi_ok || !GetBytes(env, part, "part", &bytes)) {
      return nullptr;
    }
    work->Add(bytes);
    work->Keep(part);
  }
  return Work::Start(std::move(work));
}

constexpr struct {
  const char* name;
  HashImplementation implementation;
} kImplementations[] = {
    {"avx512", HashImplementation::kAvx512},
    {"avx2", HashImplementation::kAvx2},
    {"openssl", HashImplementation::kOpenssl},
};

napi_value GetHashImplementation(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  HashHandle* handle = nullptr;
  if (!GetHandle(env, arguments[0], &handle)) return nullptr;
  for (const auto& row : kImplementations) {
    if (row.implementation == handle->hash->implementation()) return ToString(env, row.name);
  }
  return Undefined(env);
}

napi_value SetHashImplementationFromName(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  std::string kind;
  if (!GetString(env, arguments[0], "kind", &kind)) return nullptr;
  if (kind == "auto") {
    SetHashImplementation(DetectHashImplementation());
    return Undefined(env);
  }
  for (const auto& row : kImplementations) {
    if (kind != row.name) continue;
    if (!HasHashImplementation(row.implementation)) {
      return ThrowRange(env, "this processor does not have " + kind);
    }
    SetHashImplementation(row.implementation);
    return Undefined(env);
  }
  return ThrowRange(env, "unknown hash implementation " + kind);
}

// ---- ContentCipher

struct CipherHandle {
  static constexpr napi_type_tag kTypeTag = {0x2e90c1d7f6b84b03, 0x86f1d40e5a7b9c38};
  std::unique_ptr<ContentCipher> cipher;
};

napi_value CipherCreate(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  std::string algorithm;
  Bytes key;
  if (!GetString(env, arguments[0], "algorithm", &algorithm) || !GetBytes(env, arguments[1], "key", &key)) {
    return nullptr;
  }
  const bool aes = algorithm == "aes-256-gcm";
  if (!aes && algorithm != "chacha20-poly1305") return ThrowRange(env, "unknown cipher " + algorithm);
  if (key.size != ContentCipher::kKeyBytes) return ThrowRange(env, "key must have 32 bytes");
  auto handle = std::make_unique<CipherHandle>();
  if (Failure failure = ContentCipher::Create(aes ? CipherAlgorithm::kAes256Gcm : CipherAlgorithm::kChaCha20Poly1305,
                                              key, &handle->cipher)) {
    return ThrowFailure(env, failure);
  }
  return MakeHandle(env, std::move(handle));
}

bool CheckPlaintextSize(napi_env env, size_t size) {
  if (size <= ContentCipher::kMaxPlaintextBytes) return true;
  ThrowRange(env, "one item must not be longer than 1 GiB");
  return false;
}

bool CheckSealedSize(napi_env env, size_t size) {
  return CheckPlaintextSize(env, size < ContentCipher::kOverheadBytes ? 0 : size - ContentCipher::kOverheadBytes);
}

bool GetIv(napi_env env, napi_value value, Bytes* iv) {
  if (!GetBytes(env, value, "iv", iv)) return false;
  if (iv->size >= 1 && iv->size <= 1024) return true;
  ThrowRange(env, "iv must have 1 to 1024 bytes");
  return false;
}

napi_value CipherSeal(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  CipherHandle* handle = nullptr;
  Bytes plaintext, iv;
  if (!GetHandle(env, arguments[0], &handle) || !GetBytes(env, arguments[1], "plaintext", &plaintext) ||
      !GetIv(env, arguments[2], &iv) || !CheckPlaintextSize(env, plaintext.size)) {
    return nullptr;
  }
  void* target = nullptr;
  napi_value result = nullptr;
  if (napi_create_buffer(env, plaintext.size + ContentCipher::kOverheadBytes, &target, &result) != napi_ok) {
    return ThrowFailure(env, Failure(ENOMEM, "seal"));
  }
  ContentCipher::Deriver deriver;
  Failure failure = handle->cipher->MakeDeriver(&deriver);
  if (!failure) failure = handle->cipher->Seal(deriver, plaintext, iv, static_cast<uint8_t*>(target));
  return failure ? ThrowFailure(env, failure) : result;
}

napi_value CipherOpen(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  CipherHandle* handle = nullptr;
  Bytes sealed, iv;
  if (!GetHandle(env, arguments[0], &handle) || !GetBytes(env, arguments[1], "sealed", &sealed) ||
      !GetIv(env, arguments[2], &iv) || !CheckSealedSize(env, sealed.size)) {
    return nullptr;
  }
  if (sealed.size < ContentCipher::kOverheadBytes) {
    return ThrowFailure(env, Failure(EBADMSG, "open sealed data", "", "",
                                     std::to_string(sealed.size) + " bytes are too few to hold nonce and tag"));
  }
  void* target = nullptr;
  napi_value result = nullptr;
  if (napi_create_buffer(env, sealed.size - ContentCipher::kOverheadBytes, &target, &result) != napi_ok) {
    return ThrowFailure(env, Failure(ENOMEM, "open sealed data"));
  }
  bool authentic = false;
  ContentCipher::Deriver deriver;
  Failure failure = handle->cipher->MakeDeriver(&deriver);
  if (!failure) failure = handle->cipher->Open(deriver, sealed, iv, static_cast<uint8_t*>(target), &authentic);
  if (!failure && !authentic) failure = Failure(EBADMSG, "open sealed data", "", "", "authentication failed");
  return failure ? ThrowFailure(env, failure) : result;
}

class SealManyWork : public Work {
 public:
  struct Item {
    Bytes plaintext, iv;
    MutableBytes target;
  };

  SealManyWork(napi_env env, const ContentCipher* cipher) : Work(env, "blockmover.sealMany"), cipher_(cipher) {}
  void Add(Item item) { items_.push_back(item); }

 protected:
  void Run() override {
    ContentCipher::Deriver deriver;
    failure = cipher_->MakeDeriver(&deriver);
    for (size_t i = 0; i < items_.size() && !failure; i++) {
      failure = cipher_->Seal(deriver, items_[i].plaintext, items_[i].iv, items_[i].target.data);
    }
  }

 private:
  const ContentCipher* cipher_;
  std::vector<Item> items_;
};

napi_value CipherSealMany(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  CipherHandle* handle = nullptr;
  uint32_t count = 0;
  if (!GetHandle(env, arguments[0], &handle) || !GetArrayLength(env, arguments[1], "items", &count)) return nullptr;
  auto work = std::make_unique<SealManyWork>(env, handle->cipher.get());
  work->Keep(arguments[0]);
  for (uint32_t i = 0; i < count; i++) {
    napi_value object = nullptr;
    SealManyWork::Item item;
    if (napi_get_element(env, arguments[1], i, &object) != napi_ok) return nullptr;
    const napi_value plaintext = GetProperty(env, object, "plaintext");
    const napi_value iv = GetProperty(env, object, "iv");
    const napi_value target = GetProperty(env, object, "target");
    if (!GetBytes(env, plaintext, "plaintext", &item.plaintext) || !GetIv(env, iv, &item.iv) ||
        !GetBytes(env, target, "target", &item.target) || !CheckPlaintextSize(env, item.plaintext.size)) {
      return nullptr;
    }
    if (item.target.size != item.plaintext.size + ContentCipher::kOverheadBytes) {
      return ThrowRange(env, "target must be 28 bytes longer than the plaintext");
    }
    work->Add(item);
    for (const napi_value value : {plaintext, iv, target}) work->Keep(value);
  }
  return Work::Start(std::move(work));
}

class OpenManyWork : public Work {
 public:
  struct Item {
    Bytes sealed, iv;
    Compression compression = Compression::kNone;
    uint32_t header_id = 0;
    MutableBytes target;
    bool has_digest = false;
    Bytes digest;
  };

  OpenManyWork(napi_env env, const ContentCipher* cipher, const KeyedHash* hash)
      : Work(env, "blockmover.openMany"), cipher_(cipher), hash_(hash) {}
  void Add(Item item) { items_.push_back(item); }

 protected:
  void Run() override {
    ContentCipher::Deriver deriver;
    failure = cipher_->MakeDeriver(&deriver);
    Scratch scratch;  // decrypted, still compressed; freed with this call, so that memory follows the work
    for (size_t i = 0; i < items_.size() && !failure; i++) {
      failure = OpenItem(deriver, items_[i], &scratch, &reason_);
      if (failure) return;
      if (reason_ != nullptr) {
        index_ = i;
        break;
      }
    }
    // An earlier item with a wrong digest comes before a later one that did not open.
    if (!failure && hash_ != nullptr) CheckDigests(reason_ == nullptr ? items_.size() : index_);
  }

  napi_value Result(napi_env env) override {
    if (reason_ == nullptr) return Undefined(env);
    napi_value result = nullptr;
    napi_create_object(env, &result);
    SetProperty(env, result, "index", ToNumber(env, static_cast<double>(index_)));
    SetProperty(env, result, "reason", ToString(env, reason_));
    return result;
  }

 private:
  /** Leaves the plaintext in the target, or sets `reason`. */
  Failure OpenItem(const ContentCipher::Deriver& deriver, const Item& item, Scratch* scratch, const char** reason) {
    bool authentic = false;
    if (item.sealed.size < ContentCipher::kOverheadBytes) {
      *reason = "authentication";
      return {};
    }
    const size_t size = item.sealed.size - ContentCipher::kOverheadBytes;
    if (item.compression == Compression::kNone && size == item.target.size) {
      Failure result = cipher_->Open(deriver, item.sealed, item.iv, item.target.data, &authentic);
      if (!authentic) *reason = "authentication";
      return result;
    }
    uint8_t* const stored = scratch->Reserve(size);
    if (stored == nullptr) return Failure(ENOMEM, "openMany");
    Failure result = cipher_->Open(deriver, item.sealed, item.iv, stored, &authentic);
    if (result || !authentic) {
      *reason = "authentication";
      return result;
    }
    if (item.compression == Compression::kNone) {
      *reason = "length";
      return {};
    }
    if (size < kHeaderBytes || LoadHeader(stored) != item.header_id) {
      *reason = "header";
      return {};
    }
    size_t written = 0;
    DecompressOutcome outcome = DecompressOutcome::kDamaged;
    result = Decompress(item.compression, Bytes{stored + kHeaderBytes, size - kHeaderBytes}, item.target, &written,
                        &outcome);
    if (outcome == DecompressOutcome::kDamaged) {
      *reason = "decompression";
    } else if (outcome == DecompressOutcome::kTooLong || written != item.target.size) {
      *reason = "length";
    }
    return result;
  }

  /** All at once at the end, because hashing side by side is what makes it cheap. */
  void CheckDigests(size_t count) {
    std::vector<size_t> checked;
    std::vector<Bytes> parts;
    for (size_t i = 0; i < count; i++) {
      if (!items_[i].has_digest) continue;
      checked.push_back(i);
      parts.push_back(Bytes{items_[i].target.data, items_[i].target.size});
    }
    const size_t size = hash_->output_bytes();
    std::vector<uint8_t> digests(parts.size() * size);
    failure = hash_->DigestMany(parts, digests.data());
    for (size_t k = 0; k < checked.size() && !failure; k++) {
      if (memcmp(&digests[k * size], items_[checked[k]].digest.data, size) == 0) continue;
      index_ = checked[k];
      reason_ = "digest";
      return;
    }
  }

  const ContentCipher* cipher_;
  const KeyedHash* hash_;
  std::vector<Item> items_;
  size_t index_ = 0;
  const char* reason_ = nullptr;
};

napi_value CipherOpenMany(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  CipherHandle* handle = nullptr;
  HashHandle* hash_handle = nullptr;
  uint32_t count = 0;
  if (!GetHandle(env, arguments[0], &handle) || !GetArrayLength(env, arguments[1], "items", &count)) return nullptr;
  if (!IsUndefined(env, arguments[2]) && !GetHandle(env, arguments[2], &hash_handle)) return nullptr;
  const KeyedHash* hash = hash_handle == nullptr ? nullptr : hash_handle->hash.get();
  auto work = std::make_unique<OpenManyWork>(env, handle->cipher.get(), hash);
  work->Keep(arguments[0]);
  work->Keep(arguments[2]);
  for (uint32_t i = 0; i < count; i++) {
    napi_value object = nullptr;
    OpenManyWork::Item item;
    int64_t header_id = 0;
    if (napi_get_element(env, arguments[1], i, &object) != napi_ok) return nullptr;
    const napi_value sealed = GetProperty(env, object, "sealed");
    const napi_value iv = GetProperty(env, object, "iv");
    const napi_value target = GetProperty(env, object, "target");
    const napi_value digest = GetProperty(env, object, "digest");
    if (!GetBytes(env, sealed, "sealed", &item.sealed) || !GetIv(env, iv, &item.iv) ||
        !GetBytes(env, target, "target", &item.target) || !CheckSealedSize(env, item.sealed.size) ||
        !GetCompression(env, GetProperty(env, object, "compression"), true, &item.compression) ||
        !GetInteger(env, GetProperty(env, object, "headerId"), "headerId", 0, UINT32_MAX, &header_id)) {
      return nullptr;
    }
    item.header_id = static_cast<uint32_t>(header_id);
    item.has_digest = hash != nullptr && !IsUndefined(env, digest);
    if (item.has_digest) {
      if (!GetBytes(env, digest, "digest", &item.digest)) return nullptr;
      if (item.digest.size != hash->output_bytes()) return ThrowRange(env, "digest is not as long as the hash");
    }
    work->Add(item);
    for (const napi_value value : {sealed, iv, target, digest}) work->Keep(value);
  }
  return Work::Start(std::move(work));
}

}  // namespace

const Export kCryptoExports[] = {
    {"hashCreate", HashCreate},
    {"hashDigest", HashDigest},
    {"hashDigestMany", HashDigestMany},
    {"hashImplementation", GetHashImplementation},
    {"setHashImplementation", SetHashImplementationFromName},
    {"cipherCreate", CipherCreate},
    {"cipherSeal", CipherSeal},
    {"cipherOpen", CipherOpen},
    {"cipherSealMany", CipherSealMany},
    {"cipherOpenMany", CipherOpenMany},
    {nullptr, nullptr},
};

}  // namespace blockmover
