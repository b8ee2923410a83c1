/**
 * The typed door to the C++ addon: nothing else loads it.
 *
 * Every asynchronous call runs on libuv's thread pool and keeps its buffers alive until it settles; the caller must
 * not touch a buffer that a running call writes, nor change one that it reads.
 */
export {};
