/**
 * A volume image that changes between backups, knows what changed, and keeps a copy of every state that was backed up.
 */
import { constants } from "node:fs";
import { copyFile, truncate } from "node:fs/promises";

import { expect } from "chai";

import { sparseFile } from "../support/loop-device.js";
import { writeRandom, type Random } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";
import type { BackupReport, SharedRepository } from "./shared-repository.js";

/** A snapshot of ours, and what must come back from it. */
export interface KnownSnapshot {
  readonly id: string;
  /** A copy of the volume as it was. */
  readonly image: string;
  readonly sizeBytes: number;
  readonly report: BackupReport;
}

export interface TestVolumeOptions {
  readonly repository: SharedRepository;
  /** Last part of the source, and the volume's id. */
  readonly name: string;
  readonly sizeBytes: number;
  readonly random: Random;
  /** All zero at first. Default: incompressible. */
  readonly isZero?: boolean;
}

interface Range {
  readonly offset: number;
  readonly length: number;
}

export class TestVolume {
  /** The live image. */
  readonly image: string;
  private changes: Range[] = [];
  private changeId = 0;

  private constructor(
    private readonly options: TestVolumeOptions,
    public sizeBytes: number,
  ) {
    this.image = options.repository.newPath(`volume-${options.name}`);
  }

  static async create(options: TestVolumeOptions): Promise<TestVolume> {
    const volume = new TestVolume(options, options.sizeBytes);
    await sparseFile(volume.image, options.sizeBytes);
    if (options.isZero !== true) await volume.write({ offset: 0, length: options.sizeBytes });
    return volume;
  }

  get source(): string {
    return `interop/${this.options.name}`;
  }

  /** Fills a range with new random bytes. */
  async write({ offset, length }: Range): Promise<void> {
    await writeRandom(this.image, this.options.random, { offsetBytes: offset, lengthBytes: length });
    this.changes.push({ offset, length });
  }

  /** Writes a few random bytes at a few random places. */
  async writeSomewhere(count = 3): Promise<void> {
    const { random } = this.options;
    for (let i = 0; i < count; i++) {
      const length = Math.min(this.sizeBytes, random.between(1, 2 * MiB));
      await this.write({ offset: random.below(this.sizeBytes - length + 1), length });
    }
  }

  /** Cuts the end off, or appends zeros. */
  async resize(sizeBytes: number): Promise<void> {
    await truncate(this.image, sizeBytes);
    this.sizeBytes = sizeBytes;
    this.changes = this.changes
      .filter(({ offset }) => offset < sizeBytes)
      .map(({ offset, length }) => ({ offset, length: Math.min(length, sizeBytes - offset) }));
  }

  copyTo(file: string): Promise<void> {
    return copyFile(this.image, file, constants.COPYFILE_FICLONE);
  }

  /**
   * Backs up by our command line: in full at first, then what changed. An increment that turns into a full backup is a
   * failure here, because the test would no longer be about increments.
   */
  async backUp(args: readonly string[] = []): Promise<KnownSnapshot> {
    const { repository, name } = this.options;
    const isFirst = this.changeId === 0;
    const base = isFirst ? [] : ["--changed-ranges", "-", "--base-change-id", `change-${this.changeId}`];
    const ranges = this.changes.map((range) => `${JSON.stringify(range)}\n`).join("");
    const report = await repository.backUp(
      this.image,
      ["--source", this.source, "--volume-id", name, "--change-id", `change-${this.changeId + 1}`, ...base, ...args],
      isFirst ? undefined : ranges,
    );
    expect(report.backupType, report.fallbackReason).to.equal(isFirst ? "full" : "incremental");
    expect(report.volumeSizeBytes).to.equal(this.sizeBytes);
    this.changeId++;
    this.changes = [];
    const copy = repository.newPath(`state-${name}`);
    await this.copyTo(copy);
    return { id: report.snapshotId, image: copy, sizeBytes: this.sizeBytes, report };
  }
}
