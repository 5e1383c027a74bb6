/** The page as one file: `ssdlite export --target web` puts all that it needs into <script> elements that are data. */

import { startPage } from "./page.mjs";

startPage(unpack());

async function unpack() {
  const contract = JSON.parse(document.getElementById("contract").textContent);
  const [bytes, wasm, ort, code] = await Promise.all(["model", "wasm", "ort", "worker"].map(inflate));
  // No module: on a page from disk browsers refuse those.
  const worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  return { contract, model: contract.models[0], bytes, ort: new Blob([ort], { type: "text/javascript" }), wasm, worker };
}

/** Base64 of gzip -> ArrayBuffer. The element goes: its text takes more room than what was in it. */
async function inflate(id) {
  const element = document.getElementById(id);
  const packed = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
