// Kopia's content encryption (kopia-format.md §4.1) by Node's own OpenSSL.
//
//   key    = HMAC-SHA256(K, iv)                      32 bytes, one for each item
//   output = nonce (12 random bytes) || ciphertext || tag (16 bytes),  AAD = iv
#pragma once

#include <memory>
#include <string>

#include "failure.h"
#include "mac.h"
#include "memory.h"

namespace blockmover {

enum class CipherAlgorithm { kAes256Gcm, kChaCha20Poly1305 };

class ContentCipher {
 public:
  static constexpr size_t kKeyBytes = 32;
  static constexpr size_t kNonceBytes = 12;
  static constexpr size_t kTagBytes = 16;
  static constexpr size_t kOverheadBytes = kNonceBytes + kTagBytes;
  /** OpenSSL counts in int. */
  static constexpr size_t kMaxPlaintextBytes = size_t{1} << 30;

  /** Key derivation of one thread: make one for each run of Seal and Open calls. */
  using Deriver = MacContext;

  static Failure Create(CipherAlgorithm algorithm, Bytes key, std::unique_ptr<ContentCipher>* cipher);

  Failure MakeDeriver(Deriver* deriver) const;
  /** `target` has plaintext.size + kOverheadBytes and does not overlap it. */
  Failure Seal(const Deriver& deriver, Bytes plaintext, Bytes iv, uint8_t* target) const;
  /** `target` has sealed.size - kOverheadBytes. `authentic` is false for a wrong tag or a short input. */
  Failure Open(const Deriver& deriver, Bytes sealed, Bytes iv, uint8_t* target, bool* authentic) const;

 private:
  explicit ContentCipher(CipherAlgorithm algorithm) : algorithm_(algorithm) {}

  CipherAlgorithm algorithm_;
  MacContext derivation_;
};

}  // namespace blockmover
