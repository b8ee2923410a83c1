/** The unit that everything about a volume is counted in. */

/** Everything in a volume object is counted in chunks of this size: bitmap bit, ring slot share, repository content. */
export const CHUNK_SIZE_BYTES = 1024 * 1024;

/** Chunks that are read or written together at most: the width of the hash's vector lanes. */
export const MAX_GROUP_CHUNKS = 8;
