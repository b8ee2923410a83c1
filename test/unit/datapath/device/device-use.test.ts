import { linkSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";

import { expect } from "chai";
import { describe, it } from "mocha";

import { findDeviceUse } from "../../../../services/datapath/device/device-use.js";
import { useTempDir } from "../../../support/temp-dir.js";

describe("findDeviceUse", () => {
  const temp = useTempDir();

  beforeEach(() => {
    writeFileSync(temp.file("image"), "");
    write({});
  });

  function write(system: { mountInfo?: string; swaps?: string; loop?: string }): void {
    writeFileSync(temp.file("mountinfo"), system.mountInfo ?? "");
    writeFileSync(temp.file("swaps"), `Filename\t\t\tType\t\tSize\tUsed\tPriority\n${system.swaps ?? ""}`);
    mkdirSync(temp.file("block", "loop3", "loop"), { recursive: true });
    mkdirSync(temp.file("block", "sda"), { recursive: true });
    writeFileSync(temp.file("block", "loop3", "loop", "backing_file"), `${system.loop ?? ""}\n`);
  }
  function find(path = temp.file("image")): Promise<string | undefined> {
    return findDeviceUse(path, {
      mountInfo: temp.file("mountinfo"),
      swaps: temp.file("swaps"),
      blockDevices: temp.file("block"),
    });
  }

  it("is undefined for what nothing uses", async () => {
    write({
      mountInfo: "36 35 98:0 / /data rw,noatime master:1 - ext4 /dev/sda1 rw",
      swaps: "/dev/sda2 partition 1 0 -2",
    });
    expect(await find()).to.equal(undefined);
  });

  it("finds a mount by the path of its source, with optional fields and escapes", async () => {
    write({ mountInfo: `36 35 0:42 / /my\\040data rw master:1 shared:2 - btrfs ${temp.file("image")} rw` });
    expect(await find()).to.equal("is mounted on /my data");
  });

  it("finds swap and loop devices over the file, through links of either kind", async () => {
    symlinkSync(temp.file("image"), temp.file("symbolic"));
    linkSync(temp.file("image"), temp.file("hard"));
    for (const path of ["image", "symbolic", "hard"].map((name) => temp.file(name))) {
      write({ swaps: `${temp.file("image")}                 file 1024 0 -2` });
      expect(await find(path), path).to.equal("is in use as swap");
      write({ loop: temp.file("hard") });
      expect(await find(path), path).to.equal("is the backing file of /dev/loop3");
    }
  });

  it("ignores what is gone, and a system that tells nothing", async () => {
    write({ mountInfo: "garbage\n\n- -", swaps: "/gone file 1 0 -2", loop: "/gone (deleted)" });
    expect(await find()).to.equal(undefined);
    const nothing = temp.file("nothing");
    expect(
      await findDeviceUse(temp.file("image"), { mountInfo: nothing, swaps: nothing, blockDevices: nothing }),
    ).to.equal(undefined);
  });
});
