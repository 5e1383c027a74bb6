/**
 * The detector, in a worker, so that the page stays alive while it computes.
 *
 * Each message {id, what, ...} is answered by {id, ...} or {id, error}: "open" loads the model, "detect" takes an
 * ImageBitmap, and "select" goes through the last picture's outputs again with another threshold.
 */

import { outputsByMeaning, postprocess, preprocess } from "../javascript/ssdlite.mjs";

const STRIP_ROWS = 1024; // of a picture that are read at a time
const MOST_THREADS = 4;
const canvas = new OffscreenCanvas(1, 1);
const pixels = canvas.getContext("2d", { willReadFrequently: true });
const actions = { open, detect, select };
let detector = null; // {contract, model, ort, session}
let last = null; // {outputs, cropWindow, size} of the last picture

self.onmessage = async ({ data: { id, what, ...parts } }) => {
  try {
    self.postMessage({ id, ...(await actions[what](parts)) });
  } catch (error) {
    self.postMessage({ id, error: error?.message || `error ${error}` });
  }
};

async function open({ contract, model, bytes, ort: source, wasm }) {
  const start = performance.now();
  const ort = await import(typeof source === "string" ? source : URL.createObjectURL(source));
  if (wasm) ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  detector = { contract, model, ort, session };
  return { threads: ort.env.wasm.numThreads, milliseconds: performance.now() - start };
}

async function detect({ bitmap, threshold }) {
  const { contract, model, ort, session } = detector;
  const start = performance.now();
  const picture = readPixels(bitmap);
  bitmap.close();
  const { tensor, dims, cropWindow } = preprocess(contract, model, picture);
  const prepared = performance.now();
  const results = await session.run({ [model.input.name]: new ort.Tensor(model.input.type, tensor, dims) });
  const computed = performance.now();
  const size = { width: picture.width, height: picture.height };
  last = { outputs: outputsByMeaning(model, results), cropWindow, size };
  const found = select({ threshold });
  const times = { resizing: prepared - start, network: computed - prepared, boxes: performance.now() - computed };
  return { ...found, times };
}

/**
 * {data: RGBA, width, height} of a bitmap. The canvas hands over the pixels and no more: resizing is `preprocess`'s, since
 * browsers differ in how they smooth. It is a strip of the picture, as phones have larger pictures than canvases.
 */
function readPixels(bitmap) {
  const { width, height } = bitmap;
  const data = new Uint8ClampedArray(width * height * 4);
  Object.assign(canvas, { width, height: Math.min(height, STRIP_ROWS) });
  pixels.globalCompositeOperation = "copy"; // transparent pixels, too
  for (let top = 0; top < height; top += STRIP_ROWS) {
    const rows = Math.min(STRIP_ROWS, height - top);
    pixels.drawImage(bitmap, 0, -top);
    data.set(pixels.getImageData(0, 0, width, rows).data, top * width * 4);
  }
  return { data, width, height };
}

function select({ threshold }) {
  const { outputs, cropWindow, size } = last;
  return { detections: postprocess(detector.contract, detector.model, outputs, cropWindow, size, threshold) };
}
