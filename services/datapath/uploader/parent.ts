/**
 * Decides whether a backup can be an increment, and on which parent.
 *
 * A parent is taken only with certainty: it is complete, of the same source and uploader, carries a change id and a
 * volume id, the volume is the same, and the changes are relative to exactly its change id. Any doubt is a full
 * backup with the reason (velero-block-layout.md, architecture.md "What must always hold" 1).
 */
import type { BackupRepository, SnapshotSource, VolumeSnapshot } from "../repository/repository.js";
import { isBlockmoverError } from "../../common/errors.js";

export type ParentChoice =
  | { readonly kind: "parent"; readonly snapshot: VolumeSnapshot }
  /** `reason` is undefined when a full backup is what was asked for. */
  | { readonly kind: "none"; readonly reason: string | undefined };

/** Which parent the user wants: the newest that fits, none at all, or one by its id. */
export type ParentWish =
  { readonly kind: "auto" } | { readonly kind: "none" } | { readonly kind: "snapshot"; readonly id: string };

export async function chooseParent(options: {
  readonly repository: BackupRepository;
  readonly source: SnapshotSource;
  readonly wish: ParentWish;
  /** Undefined when there are no changed ranges. */
  readonly baseChangeId: string | undefined;
  readonly volumeId: string | undefined;
  readonly signal: AbortSignal;
}): Promise<ParentChoice> {
  const { repository, source, wish, baseChangeId, volumeId, signal } = options;
  if (wish.kind === "none") {
    return none(undefined);
  }
  if (baseChangeId === undefined) {
    return none(wish.kind === "auto" ? undefined : "no changed ranges were given");
  }
  const candidates = await candidatesFor(repository, source, wish, signal);
  if (typeof candidates === "string") {
    return none(candidates);
  }
  const newest = candidates.findLast(
    (snapshot) => snapshot.incomplete === undefined && snapshot.isVolume && isSameSource(snapshot.source, source),
  );
  if (newest === undefined) {
    return none(
      wish.kind === "auto"
        ? "there is no earlier snapshot of this source"
        : `snapshot ${wish.id} is not a complete snapshot of this source`,
    );
  }
  const { changeTracking } = newest;
  if (changeTracking === undefined) {
    return none(`snapshot ${newest.id} has no change id or no volume id`);
  }
  if (changeTracking.volumeId !== volumeId) {
    return none(`snapshot ${newest.id} is of volume ${changeTracking.volumeId}, not ${volumeId ?? "unknown"}`);
  }
  if (changeTracking.changeId !== baseChangeId) {
    return none(
      `the changes are relative to ${baseChangeId}, but snapshot ${newest.id} has change id ${changeTracking.changeId}`,
    );
  }
  return { kind: "parent", snapshot: newest };
}

function none(reason: string | undefined): ParentChoice {
  return { kind: "none", reason };
}

/** Snapshots that could be the parent, oldest first, or the reason why there are none. */
async function candidatesFor(
  repository: BackupRepository,
  source: SnapshotSource,
  wish: Exclude<ParentWish, { kind: "none" }>,
  signal: AbortSignal,
): Promise<readonly VolumeSnapshot[] | string> {
  if (wish.kind === "auto") {
    return repository.listSnapshots(source, signal);
  }
  try {
    return [await repository.getSnapshot(wish.id, signal)];
  } catch (error) {
    if (isBlockmoverError(error, "NOT_FOUND")) {
      return `parent snapshot ${wish.id} does not exist`;
    }
    throw error;
  }
}

function isSameSource(a: SnapshotSource, b: SnapshotSource): boolean {
  return a.userName === b.userName && a.host === b.host && a.path === b.path;
}
