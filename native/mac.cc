#include "mac.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <numeric>

namespace blockmover {
namespace {

struct AlgorithmRow {
  const char* name;
  const char* mac;
  const char* digest;       // HMAC's hash, or null
  size_t max_key_bytes;
  size_t min_digest_bytes;  // equal to the maximum where the length is fixed
  size_t max_digest_bytes;
};

constexpr AlgorithmRow kAlgorithms[] = {
    {"blake2b", "BLAKE2BMAC", nullptr, kBlake2bMaxKeyBytes, 1, kBlake2bMaxDigestBytes},
    {"blake2s", "BLAKE2SMAC", nullptr, 32, 1, 32},
    {"hmac-sha224", "HMAC", "SHA224", SIZE_MAX, 28, 28},
    {"hmac-sha256", "HMAC", "SHA256", SIZE_MAX, 32, 32},
    {"hmac-sha3-224", "HMAC", "SHA3-224", SIZE_MAX, 28, 28},
    {"hmac-sha3-256", "HMAC", "SHA3-256", SIZE_MAX, 32, 32},
};

constexpr size_t kMaxDigestBytes = 64;

/**
 * Lanes that have no message of their own cost as much as the others. Measured rates, one thread, 1 MiB messages:
 * OpenSSL 1.28, four lanes 2.2, eight lanes 5.0 GB/s (limits.md §2), so three messages are worth a whole group.
 */
constexpr size_t kFewestForLanes = 3;

std::atomic<HashImplementation> g_implementation{DetectHashImplementation()};

}  // namespace

Failure MakeMac(const char* name, const char* digest, size_t size, Bytes key, MacContext* context) {
  EVP_MAC* mac = EVP_MAC_fetch(nullptr, name, nullptr);
  if (mac == nullptr) return Failure(ENOSYS, name, "", "", "this Node's OpenSSL does not have it");
  context->reset(EVP_MAC_CTX_new(mac));
  EVP_MAC_free(mac);  // the context holds a reference of its own
  if (!*context) return Failure(ENOMEM, name);

  OSSL_PARAM parameters[3];
  OSSL_PARAM* next = parameters;
  if (digest != nullptr) {
    *next++ = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, const_cast<char*>(digest), 0);
  }
  if (size != 0) *next++ = OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size);
  *next = OSSL_PARAM_construct_end();
  if (EVP_MAC_init(context->get(), key.data, key.size, parameters) != 1) {
    return Failure(EINVAL, name, "", "", "OpenSSL refused the key or the digest");
  }
  return {};
}

bool ComputeMac(EVP_MAC_CTX* context, Bytes message, uint8_t* out, size_t out_size) {
  size_t written = 0;
  // init without a key starts over with the one that the context has
  return EVP_MAC_init(context, nullptr, 0, nullptr) == 1 &&
         (message.size == 0 || EVP_MAC_update(context, message.data, message.size) == 1) &&
         EVP_MAC_final(context, out, &written, out_size) == 1;
}

HashImplementation DetectHashImplementation() {
  if (HasAvx512()) return HashImplementation::kAvx512;
  if (HasAvx2()) return HashImplementation::kAvx2;
  return HashImplementation::kOpenssl;
}

bool HasHashImplementation(HashImplementation implementation) {
  switch (implementation) {
    case HashImplementation::kAvx512:
      return HasAvx512();
    case HashImplementation::kAvx2:
      return HasAvx2();
    case HashImplementation::kOpenssl:
      return true;
  }
  return false;
}

void SetHashImplementation(HashImplementation implementation) { g_implementation = implementation; }

Failure KeyedHash::Create(const std::string& algorithm, Bytes key, size_t digest_bytes, size_t output_bytes,
                          std::unique_ptr<KeyedHash>* hash, std::string* problem) {
  const AlgorithmRow* row = nullptr;
  for (const AlgorithmRow& candidate : kAlgorithms) {
    if (algorithm == candidate.name) row = &candidate;
  }
  if (row == nullptr) {
    *problem = "unknown hash algorithm " + algorithm;
  } else if (key.size == 0 || key.size > row->max_key_bytes) {
    *problem = algorithm + " does not take a key of " + std::to_string(key.size) + " bytes";
  } else if (digest_bytes < row->min_digest_bytes || digest_bytes > row->max_digest_bytes) {
    *problem = algorithm + " has no digest of " + std::to_string(digest_bytes) + " bytes";
  } else if (output_bytes == 0 || output_bytes > digest_bytes) {
    *problem = "outputBytes must be 1 to " + std::to_string(digest_bytes);
  }
  if (!problem->empty()) return {};

  std::unique_ptr<KeyedHash> made(new KeyedHash);
  made->digest_bytes_ = digest_bytes;
  made->output_bytes_ = output_bytes;
  made->is_blake2b_ = algorithm == "blake2b";
  if (made->is_blake2b_) made->start_ = MakeBlake2bKeyState(key.data, key.size, digest_bytes);
  const size_t size_parameter = row->digest == nullptr ? digest_bytes : 0;
  if (Failure failure = MakeMac(row->mac, row->digest, size_parameter, key, &made->template_)) return failure;
  *hash = std::move(made);
  return {};
}

HashImplementation KeyedHash::implementation() const {
  return is_blake2b_ ? g_implementation.load() : HashImplementation::kOpenssl;
}

Failure KeyedHash::DigestAlone(EVP_MAC_CTX* context, Bytes data, uint8_t* out) const {
  uint8_t digest[kMaxDigestBytes];
  if (!ComputeMac(context, data, digest, sizeof digest)) {
    return Failure(EIO, "EVP_MAC", "", "", "OpenSSL failed to compute the hash");
  }
  memcpy(out, digest, output_bytes_);
  return {};
}

Failure KeyedHash::Digest(Bytes data, uint8_t* out) const {
  const MacContext context(EVP_MAC_CTX_dup(template_.get()));
  if (!context) return Failure(ENOMEM, "EVP_MAC_CTX_dup");
  return DigestAlone(context.get(), data, out);
}

Failure KeyedHash::DigestMany(const std::vector<Bytes>& parts, uint8_t* out) const {
  const HashImplementation implementation = this->implementation();
  const size_t lane_count = implementation == HashImplementation::kAvx512 ? 8
                            : implementation == HashImplementation::kAvx2 ? 4
                                                                          : 0;
  // Lanes take messages of one length, so equal lengths are brought together.
  std::vector<size_t> order(parts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return parts[a].size < parts[b].size; });

  const MacContext context(EVP_MAC_CTX_dup(template_.get()));
  if (!context) return Failure(ENOMEM, "EVP_MAC_CTX_dup");

  for (size_t next = 0; next < order.size();) {
    const size_t size = parts[order[next]].size;
    size_t run = 1;
    while (run < lane_count && next + run < order.size() && parts[order[next + run]].size == size) run++;
    if (run < kFewestForLanes || size == 0) {  // an empty message ends with the key block: not the lanes' case
      if (Failure failure = DigestAlone(context.get(), parts[order[next]], out + order[next] * output_bytes_)) {
        return failure;
      }
      next++;
      continue;
    }
    const uint8_t* messages[8];
    uint8_t* digests[8];
    uint8_t unused[kMaxDigestBytes];
    for (size_t lane = 0; lane < lane_count; lane++) {
      const bool busy = lane < run;
      messages[lane] = parts[order[next + (busy ? lane : 0)]].data;
      digests[lane] = busy ? out + order[next + lane] * output_bytes_ : unused;
    }
    if (lane_count == 8) {
      Blake2bEightLanes(start_, messages, size, digests, output_bytes_);
    } else {
      Blake2bFourLanes(start_, messages, size, digests, output_bytes_);
    }
    next += run;
  }
  return {};
}

}  // namespace blockmover
