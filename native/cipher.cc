#include "cipher.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

namespace blockmover {
namespace {

Failure OpensslFailure(const char* operation) {
  return Failure(EIO, operation, "", "", "OpenSSL reported an internal error");
}

/** Fetched once for the process: a fetch takes locks and costs as much as sealing several KiB. */
const EVP_CIPHER* FetchedCipher(CipherAlgorithm algorithm) {
  static const EVP_CIPHER* const aes = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  static const EVP_CIPHER* const chacha = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
  return algorithm == CipherAlgorithm::kAes256Gcm ? aes : chacha;
}

/** A context of this thread, set up for the algorithm and direction: only key and nonce change between items. */
EVP_CIPHER_CTX* ThreadContext(CipherAlgorithm algorithm, bool encrypt) {
  struct Contexts {
    EVP_CIPHER_CTX* of[2][2] = {};
    ~Contexts() {
      for (auto& row : of) {
        for (EVP_CIPHER_CTX* context : row) EVP_CIPHER_CTX_free(context);
      }
    }
  };
  thread_local Contexts contexts;
  EVP_CIPHER_CTX*& context = contexts.of[static_cast<int>(algorithm)][encrypt];
  if (context == nullptr) {
    const EVP_CIPHER* cipher = FetchedCipher(algorithm);
    if (cipher == nullptr) return nullptr;
    context = EVP_CIPHER_CTX_new();
    if (context != nullptr && EVP_CipherInit_ex2(context, cipher, nullptr, nullptr, encrypt, nullptr) != 1) {
      EVP_CIPHER_CTX_free(context);
      context = nullptr;
    }
  }
  return context;
}

/** The key of one item; wiped when it goes out of scope. */
struct ItemKey {
  uint8_t bytes[ContentCipher::kKeyBytes];
  ~ItemKey() { OPENSSL_cleanse(bytes, sizeof bytes); }
};

}  // namespace

Failure ContentCipher::Create(CipherAlgorithm algorithm, Bytes key, std::unique_ptr<ContentCipher>* cipher) {
  if (FetchedCipher(algorithm) == nullptr) {
    return Failure(ENOSYS, "EVP_CIPHER_fetch", "", "", "this Node's OpenSSL does not have the cipher");
  }
  std::unique_ptr<ContentCipher> made(new ContentCipher(algorithm));
  if (Failure failure = MakeMac("HMAC", "SHA256", 0, key, &made->derivation_)) return failure;
  *cipher = std::move(made);
  return {};
}

Failure ContentCipher::MakeDeriver(Deriver* deriver) const {
  deriver->reset(EVP_MAC_CTX_dup(derivation_.get()));
  return *deriver ? Failure() : Failure(ENOMEM, "EVP_MAC_CTX_dup");
}

Failure ContentCipher::Seal(const Deriver& deriver, Bytes plaintext, Bytes iv, uint8_t* target) const {
  EVP_CIPHER_CTX* context = ThreadContext(algorithm_, true);
  if (context == nullptr) return Failure(ENOMEM, "EVP_CIPHER_CTX_new");
  ItemKey key;
  uint8_t* const nonce = target;
  uint8_t* const ciphertext = target + kNonceBytes;
  uint8_t* const tag = ciphertext + plaintext.size;
  int written = 0;
  int rest = 0;
  if (!ComputeMac(deriver.get(), iv, key.bytes, sizeof key.bytes) || RAND_bytes(nonce, kNonceBytes) != 1 ||
      EVP_EncryptInit_ex2(context, nullptr, key.bytes, nonce, nullptr) != 1 ||
      EVP_EncryptUpdate(context, nullptr, &written, iv.data, static_cast<int>(iv.size)) != 1) {
    return OpensslFailure("EVP_EncryptInit");
  }
  written = 0;
  if (plaintext.size > 0 &&
      EVP_EncryptUpdate(context, ciphertext, &written, plaintext.data, static_cast<int>(plaintext.size)) != 1) {
    return OpensslFailure("EVP_EncryptUpdate");
  }
  if (EVP_EncryptFinal_ex(context, tag, &rest) != 1 || static_cast<size_t>(written + rest) != plaintext.size ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag) != 1) {
    return OpensslFailure("EVP_EncryptFinal");
  }
  return {};
}

Failure ContentCipher::Open(const Deriver& deriver, Bytes sealed, Bytes iv, uint8_t* target, bool* authentic) const {
  *authentic = false;
  if (sealed.size < kOverheadBytes) return {};
  EVP_CIPHER_CTX* context = ThreadContext(algorithm_, false);
  if (context == nullptr) return Failure(ENOMEM, "EVP_CIPHER_CTX_new");
  const size_t size = sealed.size - kOverheadBytes;
  const uint8_t* const nonce = sealed.data;
  const uint8_t* const ciphertext = sealed.data + kNonceBytes;
  ItemKey key;
  uint8_t tag[kTagBytes];  // the call wants it writable
  memcpy(tag, ciphertext + size, kTagBytes);
  int written = 0;
  if (!ComputeMac(deriver.get(), iv, key.bytes, sizeof key.bytes) ||
      EVP_DecryptInit_ex2(context, nullptr, key.bytes, nonce, nullptr) != 1 ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag) != 1 ||
      EVP_DecryptUpdate(context, nullptr, &written, iv.data, static_cast<int>(iv.size)) != 1) {
    return OpensslFailure("EVP_DecryptInit");
  }
  written = 0;
  if (size > 0 && EVP_DecryptUpdate(context, target, &written, ciphertext, static_cast<int>(size)) != 1) {
    return OpensslFailure("EVP_DecryptUpdate");
  }
  uint8_t none[kTagBytes];
  int rest = 0;
  *authentic = EVP_DecryptFinal_ex(context, none, &rest) == 1;
  return {};
}

}  // namespace blockmover
