/**
 * node replay.mjs BUNDLE FOLDER
 *
 * Feeds the reference vectors of a bundle to the pre- and post-processing of ssdlite.mjs, each step alone, and writes what
 * comes out to FOLDER. `ssdlite verify BUNDLE --dump FOLDER` then says, step by step, whether it is right. Needs no
 * package and no model; an app's own code is tested in the same way.
 */

import { join } from "node:path";
import { argv, exit } from "node:process";
import { readArray, readGoldenOutputs, readJson, writeDump } from "./bundle.mjs";
import { fitWindow, postprocess, render, toTensor } from "./ssdlite.mjs";

const [bundle, folder] = argv.slice(2);
if (!folder) {
  console.error("usage: node replay.mjs BUNDLE FOLDER");
  exit(2);
}
const contract = await readJson(join(bundle, "contract.json"));
const golden = await readJson(join(bundle, "golden", "golden.json"));
for (const { name, width, height } of golden.images) {
  const picture = { data: await readArray(join(bundle, "golden", `${name}.rgb.bin`), "uint8"), width, height };
  for (const model of contract.models.filter(({ variant }) => variant !== "anchors")) {
    const cropWindow = fitWindow(picture, model.input, contract.resize.mode);
    const outputs = await readGoldenOutputs(bundle, name, model);
    await writeDump(folder, name, model, {
      resized: render(cropWindow, picture, contract.resize.padding_value),
      input: toTensor(await readArray(join(bundle, "golden", `${name}.resized.bin`), "uint8"), model.input),
      detections: postprocess(contract, model, outputs, cropWindow, picture, golden.score_threshold),
    });
  }
}
console.log(`${golden.images.length} pictures, ${contract.models.length} models -> ${folder}`);
