/**
 * The page around the detector: what is dropped, chosen or filmed goes to the worker (worker.mjs), and what that finds is
 * drawn. Names of classes and files are text that anyone may have written: they reach the page as text alone.
 */

import { iou, operatingThreshold } from "../javascript/ssdlite.mjs";

const LARGEST_VIEW = 1600; // pixels of the longer side that are drawn; the detector gets all of them
const SHOWN = 100; // detections in the list
const ONE_LABEL_IOU = 0.7; // as `ssdlite predict` draws: of boxes that overlap by more, whatever their classes, the best
const byId = (id) => document.getElementById(id);
const color = (label) => `hsl(${Math.round(label * 137.5) % 360} 85% 55%)`;

/**
 * Start the page's detector.
 *
 * `loading` is a promise of {contract, model, bytes, ort, wasm, worker}: the contract and one entry of its models, that
 * model's file, the address of onnxruntime-web's module, its .wasm file (or null, where the module finds that itself), and
 * the worker. After each picture the document gets an event "detections", whose `detail` is {name, detections, times}.
 */
export async function startPage(loading) {
  try {
    const { worker, ...parts } = await loading;
    const detector = new WorkerDetector(worker);
    const { threads, milliseconds } = await detector.ask("open", parts, [parts.bytes]);
    new Page(detector, parts.contract, parts.model);
    say(`Ready in ${Math.round(milliseconds)} ms, ${threads} thread${threads > 1 ? "s" : ""}`);
  } catch (error) {
    say(`The detector cannot be loaded: ${error.message}`, true);
  }
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

/** Questions to the worker, each a promise of its answer. */
class WorkerDetector {
  #worker;
  #waiting = new Map();
  #asked = 0;

  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data: { id, error, ...answer } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(answer);
    };
    worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message ?? "the worker cannot be started"));
      this.#waiting.clear();
    };
  }

  ask(what, parts, transfer = []) {
    const id = this.#asked++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, what, ...parts }, transfer);
    });
  }
}

class Page {
  #detector;
  #model;
  #stream = null; // of the camera, while it is on
  #queue = Promise.resolve(); // one picture at a time
  #shown = null; // {name, width, height, detections}

  constructor(detector, contract, model) {
    this.#detector = detector;
    this.#model = model;
    document.title = contract.name;
    byId("title").textContent = contract.name;
    byId("threshold").value = operatingThreshold(contract);
    this.#showThreshold();
    byId("threshold").oninput = () => this.#moveThreshold();
    byId("file").onchange = ({ target }) => {
      if (target.files.length > 0) this.#open(target.files[0]);
      target.value = ""; // the same file again is a change, too
    };
    byId("camera").onclick = () => (this.#stream ? this.#stopCamera() : this.#film().catch((error) => say(error.message, true)));
    byId("save").onclick = () => this.#save();
    document.ondragover = (event) => event.preventDefault();
    document.ondragenter = () => byId("view").classList.add("over");
    document.ondragleave = ({ relatedTarget }) => byId("view").classList.toggle("over", relatedTarget !== null);
    document.ondrop = (event) => {
      event.preventDefault();
      byId("view").classList.remove("over");
      const file = event.dataTransfer.files[0];
      if (file) this.#open(file);
      else say("That was no file: drop a picture from a folder", true);
    };
    for (const id of ["file", "camera", "threshold"]) byId(id).disabled = false;
  }

  get #threshold() {
    return Number(byId("threshold").value);
  }

  #showThreshold() {
    byId("score").textContent = this.#threshold.toFixed(2);
  }

  #open(file) {
    this.#stopCamera();
    this.#enqueue(async () => {
      // Upright, and with the file's own numbers, as in training.
      const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
      const bitmap = await createImageBitmap(file, options).catch(() => {
        throw new Error(`${file.name}: not a picture that this browser can read`);
      });
      await this.#detect(bitmap, file.name);
    });
  }

  #enqueue(task) {
    this.#queue = this.#queue.then(task).catch((error) => say(error.message, true));
    return this.#queue;
  }

  async #detect(bitmap, name) {
    const { width, height } = bitmap;
    paint(bitmap);
    const { detections, times } = await this.#detector.ask("detect", { bitmap, threshold: this.#threshold }, [bitmap]);
    this.#shown = { name, width, height, detections };
    this.#draw();
    const parts = Object.entries(times).map(([step, time]) => `${step} ${time.toFixed(1)} ms`);
    byId("times").textContent = parts.join(" · ");
    say(`${name}: ${width} × ${height} pixels`);
    document.dispatchEvent(new CustomEvent("detections", { detail: { name, detections, times } }));
  }

  async #moveThreshold() {
    this.#showThreshold();
    if (!this.#shown) return;
    await this.#enqueue(async () => {
      const { detections } = await this.#detector.ask("select", { threshold: this.#threshold });
      this.#shown.detections = detections;
      this.#draw();
    });
  }

  #draw() {
    const objects = oneLabelEach(this.#shown.detections);
    drawBoxes(objects, this.#shown);
    byId("view").classList.add("filled");
    byId("save").disabled = false;
    byId("found").replaceChildren(
      ...objects.slice(0, SHOWN).map(({ name, label, score }) => {
        const item = document.createElement("li");
        item.textContent = `${name} ${score.toFixed(2)}`;
        item.style.borderLeftColor = color(label);
        return item;
      }),
    );
  }

  async #film() {
    if (!navigator.mediaDevices) throw new Error("The camera needs a page from https, from localhost or from disk");
    const video = document.createElement("video");
    video.muted = true;
    video.playsInline = true;
    const wanted = { video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false };
    const stream = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => {
      throw new Error(`The camera cannot be used: ${error.message || error.name}`);
    });
    this.#stopCamera(); // of a second click, while the first one waited
    this.#stream = stream;
    stream.getVideoTracks()[0].onended = () => this.#stopCamera();
    byId("camera").setAttribute("aria-pressed", "true");
    video.srcObject = stream;
    await video.play();
    while (this.#stream === stream) {
      await new Promise((resolve) => requestAnimationFrame(resolve)); // none while the page is hidden
      await this.#enqueue(async () => {
        if (this.#stream === stream) await this.#detect(await createImageBitmap(video), "camera");
      });
    }
  }

  #stopCamera() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    byId("camera").setAttribute("aria-pressed", "false");
  }

  /** Under the name that `ssdlite verify BUNDLE --dump FOLDER` expects. */
  #save() {
    const { name, detections } = this.#shown;
    const stem = name.replace(/\.[^.]*$/, "");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(detections)], { type: "application/json" }));
    link.download = `${stem}.${this.#model.file}.detections.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

/** The picture as large as it is shown; the browser may smooth here as it likes. */
function paint(bitmap) {
  const scale = Math.min(1, LARGEST_VIEW / Math.max(bitmap.width, bitmap.height));
  for (const canvas of [byId("picture"), byId("boxes")]) {
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  }
  const { width, height } = byId("picture");
  byId("picture").getContext("2d").drawImage(bitmap, 0, 0, width, height);
}

/** Best first, each with one label: suppression is within each class, so that an object may be in the list twice. */
function oneLabelEach(detections) {
  const kept = [];
  for (const one of detections) {
    if (!kept.some((better) => iou(better.box, one.box) > ONE_LABEL_IOU)) kept.push(one);
  }
  return kept;
}

function drawBoxes(detections, { width, height }) {
  const canvas = byId("boxes");
  const context = canvas.getContext("2d");
  const [scaleX, scaleY] = [canvas.width / width, canvas.height / height];
  const unit = Math.max(canvas.width, canvas.height) / 1000; // thousandths of the view
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = `600 ${Math.max(9, 20 * unit)}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const { name, label, score, box } of [...detections].reverse()) {
    const [x0, y0, x1, y1] = box.map((value, i) => value * (i % 2 ? scaleY : scaleX));
    context.strokeStyle = color(label);
    context.lineWidth = Math.max(1.5, 3 * unit);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    const text = `${name} ${score.toFixed(2)}`;
    const [wide, high] = [context.measureText(text).width + 8 * unit, Math.max(12, 26 * unit)];
    const left = Math.max(0, Math.min(x0, canvas.width - wide));
    const top = Math.max(0, y0 - high);
    context.fillStyle = color(label);
    context.fillRect(left, top, wide, high);
    context.fillStyle = "#000";
    context.fillText(text, left + 4 * unit, top + 3 * unit);
  }
}
