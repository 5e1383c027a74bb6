/** The page on a web server: the detector from the folder `bundle` beside it, or ?bundle=FOLDER, and ?model=FILE of it. */

import { findModel } from "../javascript/ssdlite.mjs";
import { startPage } from "./page.mjs";

const here = new URL(".", import.meta.url);
startPage(load());

async function load() {
  await keepOffline();
  const asked = new URLSearchParams(location.search);
  const folder = new URL(`${asked.get("bundle") ?? "bundle"}/`, here);
  const contract = await (await get(new URL("contract.json", folder))).json();
  const model = findModel(contract, asked.get("model"));
  const bytes = await (await get(new URL(model.file, folder))).arrayBuffer();
  const ort = new URL("node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs", here).href;
  const worker = new Worker(new URL("worker.mjs", here), { type: "module" });
  return { contract, model, bytes, ort, wasm: null, worker };
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return response;
}

/** From here on all that is loaded passes through offline.js, which keeps a copy. Goes without where there is none. */
async function keepOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(new URL("offline.js", here));
    if (navigator.serviceWorker.controller) return;
    await new Promise((resolve) => (navigator.serviceWorker.oncontrollerchange = resolve));
  } catch (error) {
    console.warn(`not kept for use without network: ${error.message}`);
  }
}
