/**
 * The typed door to the C++ addon: nothing else loads it.
 *
 * Every asynchronous call runs on libuv's thread pool and keeps its buffers alive until it settles; the caller must
 * not touch a buffer that a running call writes, nor change one that it reads. Byte counts and offsets are safe
 * integers (below 2^53). Wrong arguments throw a TypeError or RangeError (our mistake); what the world does wrong
 * becomes a NativeError.
 */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** A system call or a library call that failed: `pread /dev/loop3 at offset 0, 512 bytes: EIO (Input/output error)`. */
export class NativeError extends Error {
  /** Symbolic name, for example "EIO"; "EBADMSG" for data that does not decode or authenticate. */
  readonly errno: string;
  /** What was called, for example "pread". */
  readonly operation: string;
  readonly path?: string;

  constructor(message: string, details: { errno: string; operation: string; path?: string }) {
    super(message);
    this.name = "NativeError";
    this.errno = details.errno;
    this.operation = details.operation;
    if (details.path !== undefined) this.path = details.path;
  }
}

/** What is known of an open device or file. The size is that at the time of opening. */
export interface DeviceInfo {
  readonly kind: "block" | "file";
  readonly sizeBytes: number;
  /** Smallest unit the device reads and writes; 512 for files. */
  readonly logicalSectorBytes: number;
  /** Smallest unit it writes without reading first; the file system's block size for files. */
  readonly physicalSectorBytes: number;
}

export interface OpenOptions {
  readonly access: "read" | "read-write";
  /** O_EXCL on block devices (EBUSY when mounted or held), flock(LOCK_EX | LOCK_NB) on files (EAGAIN when held). */
  readonly exclusive?: boolean;
  /** O_DIRECT, the default; quietly buffered where the file system refuses it. */
  readonly direct?: boolean;
  /** Create the file (it must not exist, mode 0600) with this length, all of it a hole. */
  readonly createSizeBytes?: number;
}

/**
 * How a range became zeros: a hole, which takes no space; zeros that the device made itself (it may allocate
 * them); zeros that were written.
 */
export type ZeroMethod = "punch-hole" | "zeroout" | "written";

export type HashAlgorithm = "blake2b" | "blake2s" | "hmac-sha224" | "hmac-sha256" | "hmac-sha3-224" | "hmac-sha3-256";

export interface HashSpec {
  readonly algorithm: HashAlgorithm;
  /** 1 to 64 bytes for blake2b, 1 to 32 for blake2s, 1 or more for HMAC. */
  readonly key: Uint8Array;
  /** Digest length as BLAKE2's parameter; for HMAC the length that its hash has. */
  readonly digestBytes: number;
  /** How much of the digest is kept, counted from its start. */
  readonly outputBytes: number;
}

export type HashImplementation = "avx512" | "avx2" | "openssl";
export type CipherAlgorithm = "aes-256-gcm" | "chacha20-poly1305";
export type StreamCompression = "zstd" | "lz4" | "s2";

export interface SealItem {
  readonly plaintext: Uint8Array;
  readonly iv: Uint8Array;
  /** plaintext.length + ContentCipher.overheadBytes; must not overlap the plaintext. */
  readonly target: Uint8Array;
}

export interface OpenItem {
  readonly sealed: Uint8Array;
  readonly iv: Uint8Array;
  readonly compression: "none" | StreamCompression;
  /** The 4-byte big-endian header that the decrypted bytes must begin with; not looked at for "none". */
  readonly headerId: number;
  /** Exactly as long as the plaintext. */
  readonly target: Uint8Array;
  /** What the plaintext must hash to, looked at when a hash is given. */
  readonly digest?: Uint8Array;
}

/** The first item of openMany that failed. No target holds anything useful then. */
export interface OpenFailure {
  readonly index: number;
  readonly reason: "authentication" | "header" | "decompression" | "length" | "digest";
}

export interface CompressItem {
  readonly source: Uint8Array;
  /** At least as long as the source; receives headerId and the frame. */
  readonly target: Uint8Array;
  readonly headerId: number;
}

/** An opaque C++ object; the finalizer frees it. */
type Handle = { readonly __handle: unique symbol };

interface Addon {
  initialize(errorClass: typeof NativeError): void;
  allocateAligned(sizeBytes: number): Buffer;
  isZero(data: Uint8Array): boolean;
  deviceOpen(
    path: string,
    write: boolean,
    exclusive: boolean,
    direct: boolean,
    createSizeBytes: number,
  ): Promise<DeviceInfo & { handle: Handle }>;
  deviceRead(handle: Handle, target: Uint8Array, offsetBytes: number): Promise<number>;
  deviceReadChunks(
    handle: Handle,
    target: Uint8Array,
    offsetBytes: number,
    chunkSizeBytes: number,
  ): Promise<{ bytesRead: number; zeroChunks: number }>;
  deviceWrite(handle: Handle, source: Uint8Array, offsetBytes: number): Promise<void>;
  deviceZeroRange(handle: Handle, offsetBytes: number, lengthBytes: number): Promise<ZeroMethod>;
  deviceFlush(handle: Handle): Promise<void>;
  deviceClose(handle: Handle): Promise<void>;
  hashCreate(algorithm: HashAlgorithm, key: Uint8Array, digestBytes: number, outputBytes: number): Handle;
  hashDigest(handle: Handle, data: Uint8Array): Buffer;
  hashDigestMany(handle: Handle, parts: readonly Uint8Array[]): Promise<Buffer>;
  hashImplementation(handle: Handle): HashImplementation;
  setHashImplementation(kind: "auto" | HashImplementation): void;
  cipherCreate(algorithm: CipherAlgorithm, key: Uint8Array): Handle;
  cipherSeal(handle: Handle, plaintext: Uint8Array, iv: Uint8Array): Buffer;
  cipherOpen(handle: Handle, sealed: Uint8Array, iv: Uint8Array): Buffer;
  cipherSealMany(handle: Handle, items: readonly SealItem[]): Promise<void>;
  cipherOpenMany(
    handle: Handle,
    items: readonly OpenItem[],
    hash: Handle | undefined,
  ): Promise<OpenFailure | undefined>;
  zstdCompressMany(items: readonly CompressItem[], level: number): Promise<number[]>;
  zstdCompress(source: Uint8Array, level: number): Buffer;
  decompress(kind: StreamCompression, data: Uint8Array, maxBytes: number): Buffer;
  hasZstd(): boolean;
}

const addon = loadAddon();

/**
 * A zeroed buffer whose address is a multiple of 4096, as O_DIRECT wants it; freed when it is collected.
 *
 * Its pages take no memory until they are touched.
 *
 * @throws NativeError ENOMEM
 */
export function allocateAligned(sizeBytes: number): Buffer {
  return addon.allocateAligned(sizeBytes);
}

/** Whether every byte is zero. Stops at the first that is not; about memory speed. */
export function isZero(data: Uint8Array): boolean {
  return addon.isZero(data);
}

/**
 * A block device or a regular file, open for positioned reads and writes, by O_DIRECT where possible.
 *
 * Any offset, length and memory address is accepted: what is aligned goes straight to the device, the rest through
 * an aligned bounce buffer (a partial sector is read, changed and written under a lock of this handle). Reads see
 * every write that has resolved. Calls may run at the same time as long as no write overlaps another call's range.
 */
export class DeviceFile {
  readonly path: string;
  readonly info: DeviceInfo;
  readonly #handle: Handle;

  private constructor(path: string, info: DeviceInfo, handle: Handle) {
    this.path = path;
    this.info = info;
    this.#handle = handle;
  }

  /**
   * Opens `path`, which must be a block device or a regular file.
   *
   * @throws NativeError as the system says it; ENOTBLK (operation "open") for anything that is neither
   */
  static async open(path: string, options: OpenOptions): Promise<DeviceFile> {
    const { handle, ...info } = await addon.deviceOpen(
      path,
      options.access === "read-write",
      options.exclusive ?? false,
      options.direct ?? true,
      options.createSizeBytes ?? -1,
    );
    return new DeviceFile(path, Object.freeze(info), handle);
  }

  /** Fills `target` from `offsetBytes`; returns how much there was, less than asked for only at the end. */
  read(target: Uint8Array, offsetBytes: number): Promise<number> {
    return addon.deviceRead(this.#handle, target, offsetBytes);
  }

  /**
   * Reads like `read`, chunk by chunk, and says which chunks are all zero (bit i of `zeroChunks`: chunk i).
   *
   * At most 31 chunks; the last may be shorter. What lies past the end of the device is filled with zeros.
   */
  readChunks(
    target: Uint8Array,
    offsetBytes: number,
    chunkSizeBytes: number,
  ): Promise<{ bytesRead: number; zeroChunks: number }> {
    return addon.deviceReadChunks(this.#handle, target, offsetBytes, chunkSizeBytes);
  }

  /** Writes all of `source` at `offsetBytes`. The range must lie within the device: files do not grow. */
  write(source: Uint8Array, offsetBytes: number): Promise<void> {
    return addon.deviceWrite(this.#handle, source, offsetBytes);
  }

  /**
   * Makes the range read as zeros, by the cheapest way that works here; the first that worked is remembered.
   *
   * Partial sectors at its edges are written. Returns how the aligned middle was done.
   */
  zeroRange(offsetBytes: number, lengthBytes: number): Promise<ZeroMethod> {
    return addon.deviceZeroRange(this.#handle, offsetBytes, lengthBytes);
  }

  /** fsync: everything that was written before is on stable storage when it resolves. */
  flush(): Promise<void> {
    return addon.deviceFlush(this.#handle);
  }

  /**
   * Closes after the running calls have ended; later calls fail with EBADF. Idempotent. Does not flush.
   *
   * A handle that is forgotten is closed when it is collected, which may be never: close it.
   */
  close(): Promise<void> {
    return addon.deviceClose(this.#handle);
  }
}

let hashHandle: (hash: KeyedHash) => Handle;

/** A keyed hash with Kopia's parameters (kopia-format.md §3). Stateless: calls do not affect each other. */
export class KeyedHash {
  readonly outputBytes: number;
  readonly #handle: Handle;

  static {
    hashHandle = (hash) => hash.#handle;
  }

  /** @throws RangeError for lengths that the algorithm does not have */
  constructor(spec: HashSpec) {
    this.#handle = addon.hashCreate(spec.algorithm, spec.key, spec.digestBytes, spec.outputBytes);
    this.outputBytes = spec.outputBytes;
  }

  /** Digest of one piece, on this thread: for small data. */
  digest(data: Uint8Array): Buffer {
    return addon.hashDigest(this.#handle, data);
  }

  /**
   * Digests of `parts`, one after the other in one buffer of parts.length * outputBytes.
   *
   * BLAKE2b parts of equal length go side by side through vector lanes; 8 at a time is the best number.
   */
  digestMany(parts: readonly Uint8Array[]): Promise<Buffer> {
    return addon.hashDigestMany(this.#handle, parts);
  }

  /** What digestMany uses for full groups; "openssl" for every algorithm but BLAKE2b. */
  get implementation(): HashImplementation {
    return addon.hashImplementation(this.#handle);
  }
}

/**
 * Chooses the implementation of BLAKE2b for the whole process: for tests and measurements.
 *
 * @throws Error when the processor lacks it
 */
export function setHashImplementation(kind: "auto" | HashImplementation): void {
  addon.setHashImplementation(kind);
}

/**
 * Kopia's content encryption (kopia-format.md §4.1): key = HMAC-SHA256(K, iv), AAD = iv,
 * output = 12-byte random nonce || ciphertext || 16-byte tag.
 */
export class ContentCipher {
  static readonly overheadBytes = 28;
  readonly #handle: Handle;

  /** @param spec.key K, 32 bytes */
  constructor(spec: { readonly algorithm: CipherAlgorithm; readonly key: Uint8Array }) {
    this.#handle = addon.cipherCreate(spec.algorithm, spec.key);
  }

  /** Seals one piece on this thread: for small data. */
  seal(plaintext: Uint8Array, iv: Uint8Array): Buffer {
    return addon.cipherSeal(this.#handle, plaintext, iv);
  }

  /**
   * Opens one piece on this thread: for small data.
   *
   * @throws NativeError EBADMSG when it is too short or its tag is wrong
   */
  open(sealed: Uint8Array, iv: Uint8Array): Buffer {
    return addon.cipherOpen(this.#handle, sealed, iv);
  }

  /** Seals each item into its target. */
  sealMany(items: readonly SealItem[]): Promise<void> {
    return addon.cipherSealMany(this.#handle, items);
  }

  /**
   * Opens each item into its target: decrypt, check and strip the header and decompress when compressed, check the
   * length, and with `hash` check the digest. Resolves to the first item that failed, or undefined.
   *
   * @throws NativeError ENOSYS when a needed library is not installed
   */
  openMany(items: readonly OpenItem[], hash?: KeyedHash): Promise<OpenFailure | undefined> {
    return addon.cipherOpenMany(this.#handle, items, hash === undefined ? undefined : hashHandle(hash));
  }
}

/**
 * Compresses each source into its target as headerId (u32 BE) and one Zstandard frame with a checksum.
 *
 * Resolves to the total length of each, or 0 where that would not be smaller than the source (the target is garbage
 * then).
 *
 * @param level -7 to 19, so that windows stay at 8 MiB or less
 * @throws NativeError ENOSYS when libzstd is not installed
 */
export function zstdCompressMany(items: readonly CompressItem[], level: number): Promise<number[]> {
  return addon.zstdCompressMany(items, level);
}

/** One plain Zstandard frame with a checksum, made on this thread. */
export function zstdCompress(source: Uint8Array, level: number): Buffer {
  return addon.zstdCompress(source, level);
}

/**
 * Decompresses a whole stream (Zstandard frames, LZ4 frames, or S2/Snappy framing) on this thread: for small data.
 *
 * @throws NativeError EBADMSG when it is damaged or longer than `maxBytes`; ENOSYS when the library is not installed
 */
export function decompress(kind: StreamCompression, data: Uint8Array, maxBytes: number): Buffer {
  return addon.decompress(kind, data, maxBytes);
}

/** Whether libzstd.so.1 was found. Without it every zstd call fails with a NativeError ENOSYS that says so. */
export function hasZstd(): boolean {
  return addon.hasZstd();
}

/** Runs as native/index.ts (tsx) and as dist/native/index.js, so the package is found by its package.json. */
function loadAddon(): Addon {
  const root = packageRoot(dirname(fileURLToPath(import.meta.url)));
  const file = join(root, "build", "Release", "blockmover.node");
  if (!existsSync(file)) {
    throw new Error(`${file} does not exist; build the native addon with "npm run build:native" in ${root}`);
  }
  const loaded = createRequire(import.meta.url)(file) as Addon;
  loaded.initialize(NativeError);
  return loaded;
}

function packageRoot(start: string): string {
  for (let directory = start; ; directory = dirname(directory)) {
    const file = join(directory, "package.json");
    if (existsSync(file)) {
      const { name } = JSON.parse(readFileSync(file, "utf8")) as { name?: unknown };
      if (name === "blockmover") return directory;
    }
    if (dirname(directory) === directory) {
      throw new Error(`no package.json named blockmover in ${start} or above it; the installation is incomplete`);
    }
  }
}
