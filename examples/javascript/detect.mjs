/**
 * node detect.mjs BUNDLE PICTURE... [--model FILE] [--score-threshold 0.5] [--dump FOLDER]
 *
 * Detects in PNG and JPEG files with onnxruntime-node; one line of JSON per picture, of what scores at least the
 * contract's operating threshold, unless --score-threshold gives another. With --dump, all steps of the
 * way are written to FOLDER under the names of the bundle's golden/, for `ssdlite verify BUNDLE --dump FOLDER`.
 */

import { basename, extname, join } from "node:path";
import { exit } from "node:process";
import { parseArgs } from "node:util";
import ort from "onnxruntime-node";
import { readJson, writeDump } from "./bundle.mjs";
import { readPicture } from "./pictures.mjs";
import { findModel, operatingThreshold, outputsByMeaning, postprocess, preprocess } from "./ssdlite.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string" },
    "score-threshold": { type: "string" },
    dump: { type: "string" },
  },
});
const [bundle, ...files] = positionals;
if (files.length === 0) {
  console.error("usage: node detect.mjs BUNDLE PICTURE... [--model FILE] [--score-threshold 0.5] [--dump FOLDER]");
  exit(2);
}

const contract = await readJson(join(bundle, "contract.json")).catch(fail);
const model = await Promise.resolve(contract).then((own) => findModel(own, values.model)).catch(fail);
const threshold = Number(values["score-threshold"] ?? operatingThreshold(contract));
const session = await ort.InferenceSession.create(join(bundle, model.file));
for (const file of files) {
  const picture = await readPicture(file);
  const { tensor, dims, resized, cropWindow } = preprocess(contract, model, picture);
  const results = await session.run({ [model.input.name]: new ort.Tensor(model.input.type, tensor, dims) });
  const outputs = outputsByMeaning(model, results);
  const detections = postprocess(contract, model, outputs, cropWindow, picture, threshold);
  console.log(JSON.stringify({ file, width: picture.width, height: picture.height, detections }));
  if (values.dump) {
    const name = basename(file, extname(file));
    await writeDump(values.dump, name, model, { resized, input: tensor, outputs, detections });
  }
}

/** What cannot be used is told in one line. */
function fail(error) {
  console.error(`detect.mjs: ${error.message}`);
  exit(2);
}
