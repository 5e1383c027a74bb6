/** Reading a bundle's contract and reference vectors, and writing a dump that `ssdlite verify --dump` compares. Node only. */

import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

const ARRAYS = { uint8: Uint8Array, int8: Int8Array, float32: Float32Array, int32: Int32Array };

/** Flat array of a little-endian file, as this processor has to be. */
export async function readArray(path, type) {
  const bytes = await readFile(path);
  return new ARRAYS[type](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

export async function readJson(path) {
  return JSON.parse(await readFile(path, "utf8"));
}

/** Outputs of one model for one reference picture, flat arrays by meaning. */
export async function readGoldenOutputs(bundle, name, model) {
  const outputs = {};
  for (const { meaning, type } of model.outputs) {
    outputs[meaning] = await readArray(join(bundle, "golden", `${name}.${model.file}.${meaning}.bin`), type);
  }
  return outputs;
}

/** Write any of {rgb, resized, input, outputs, detections} of one picture under the names that golden/ has. */
export async function writeDump(folder, name, model, parts) {
  await mkdir(folder, { recursive: true });
  const save = (suffix, data) => writeFile(join(folder, `${name}.${suffix}`), data);
  if (parts.rgb) await save("rgb.bin", parts.rgb);
  if (parts.resized) await save("resized.bin", parts.resized);
  if (parts.input) await save(`${model.input.type}_${model.input.layout}.bin`, parts.input);
  for (const [meaning, data] of Object.entries(parts.outputs ?? {})) await save(`${model.file}.${meaning}.bin`, data);
  if (parts.detections) await save(`${model.file}.detections.json`, JSON.stringify(parts.detections));
}
