// The keyed hashes of the Kopia format (kopia-format.md §3): OpenSSL's, and BLAKE2b through vector lanes.
#pragma once

#include <openssl/evp.h>

#include <memory>
#include <string>
#include <vector>

#include "blake2b.h"
#include "failure.h"
#include "memory.h"

namespace blockmover {

struct MacDeleter {
  void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
};
using MacContext = std::unique_ptr<EVP_MAC_CTX, MacDeleter>;

/** A keyed EVP_MAC context to copy for each use. `size` > 0 sets BLAKE2's digest length; `digest` HMAC's hash. */
Failure MakeMac(const char* name, const char* digest, size_t size, Bytes key, MacContext* context);

/** MAC of one message with a context that has its key; it can be used again afterwards. */
bool ComputeMac(EVP_MAC_CTX* context, Bytes message, uint8_t* out, size_t out_size);

enum class HashImplementation { kOpenssl, kAvx2, kAvx512 };

/** The best that this processor has. */
HashImplementation DetectHashImplementation();
bool HasHashImplementation(HashImplementation implementation);
/** For the whole process; `implementation` must be one that the processor has. */
void SetHashImplementation(HashImplementation implementation);

class KeyedHash {
 public:
  /** `problem` says which argument is wrong when the spec is not one; Failure is for OpenSSL's refusal. */
  static Failure Create(const std::string& algorithm, Bytes key, size_t digest_bytes, size_t output_bytes,
                        std::unique_ptr<KeyedHash>* hash, std::string* problem);

  size_t output_bytes() const { return output_bytes_; }
  HashImplementation implementation() const;

  /** Any thread. */
  Failure Digest(Bytes data, uint8_t* out) const;
  /** `out` has parts.size() * output_bytes. Any thread. */
  Failure DigestMany(const std::vector<Bytes>& parts, uint8_t* out) const;

 private:
  KeyedHash() = default;
  Failure DigestAlone(EVP_MAC_CTX* context, Bytes data, uint8_t* out) const;

  MacContext template_;
  bool is_blake2b_ = false;
  Blake2bKeyState start_{};
  size_t digest_bytes_ = 0;
  size_t output_bytes_ = 0;
};

}  // namespace blockmover
