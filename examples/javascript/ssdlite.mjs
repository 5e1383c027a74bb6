/**
 * What an app has to do around an exported SSD-Lite model: picture -> input tensor, output tensors -> detections.
 *
 * One ES module without dependencies, for browsers and Node. Everything that it needs to know comes from the bundle's
 * contract.json (`contract`, and `model`, one entry of `contract.models`). The arithmetic is that of ssdlite's Python
 * code: same resized pixels, same input tensor, same detections; `ssdlite verify` and tests/examples/ check it.
 *
 * A picture is `{data, width, height}` with data of 3 (RGB) or 4 (RGBA, as a canvas' ImageData) bytes per pixel, row by
 * row from the top, upright. A crop window is the rectangle of it that fills the input, in the picture's pixels; with
 * a letterbox it reaches outside the picture.
 */

const COEFFICIENT_ONE = 2048; // resizing weights are integers, in 1/2048
const SCORE_STEP = 2 ** -24; // of float32 just below 1
const LOGIT_MARGIN = 1e-3; // for rounding
const { fround } = Math;

/** The model of a contract by file name; without one the first that is nms, else decoded, else raw, fp32 if possible. */
export function findModel(contract, file = null) {
  const usable = contract.models.filter((model) => (file ? model.file === file : model.runtime === "onnxruntime"));
  const rank = ({ variant, precision }) => 2 * ["nms", "decoded", "raw"].indexOf(variant) + (precision === "fp32" ? 0 : 1);
  usable.sort((a, b) => rank(a) - rank(b));
  if (usable.length === 0) {
    const advice = file ? "" : ": export with `ssdlite export CHECKPOINT --target onnxruntime`";
    throw new Error(`no model ${file ?? "for ONNX Runtime"} among ${contract.models.map((m) => m.file).join(", ")}${advice}`);
  }
  if (usable[0].runtime !== "onnxruntime") throw new Error(`${file} is for ${usable[0].runtime}, not for ONNX Runtime`);
  return usable[0];
}

/** picture -> {tensor, dims, resized, cropWindow}: the tensor for `model.input.name`, and what `postprocess` needs. */
export function preprocess(contract, model, picture) {
  const { height, width } = model.input;
  const cropWindow = fitWindow(picture, model.input, contract.resize.mode);
  const resized = render(cropWindow, picture, contract.resize.padding_value);
  const dims = model.input.layout === "NCHW" ? [1, 3, height, width] : [1, height, width, 3];
  return { tensor: toTensor(resized, model.input), dims, resized, cropWindow };
}

/** The crop window {x0, y0, x1, y1, height, width} that shows a whole picture in an input of that height and width. */
export function fitWindow(picture, { height, width }, mode) {
  if (mode === "stretch") return { x0: 0, y0: 0, x1: picture.width, y1: picture.height, height, width };
  if (mode !== "letterbox") throw new Error(`resize mode ${mode}: expected stretch or letterbox`);
  const scale = Math.min(height / picture.height, width / picture.width);
  const windowWidth = Math.max(roundHalfEven(width / scale), picture.width);
  const windowHeight = Math.max(roundHalfEven(height / scale), picture.height);
  const left = Math.floor((windowWidth - picture.width) / 2);
  const top = Math.floor((windowHeight - picture.height) / 2);
  return { x0: -left, y0: -top, x1: windowWidth - left, y1: windowHeight - top, height, width };
}

/** What a crop window shows of a picture, as RGB bytes [height, width, 3]; outside the picture is padding. */
export function render(cropWindow, picture, padding) {
  const { height, width } = cropWindow;
  const scaleX = width / (cropWindow.x1 - cropWindow.x0);
  const scaleY = height / (cropWindow.y1 - cropWindow.y0);
  const left = roundHalfEven(-cropWindow.x0 * scaleX);
  const right = roundHalfEven((picture.width - cropWindow.x0) * scaleX);
  const top = roundHalfEven(-cropWindow.y0 * scaleY);
  const bottom = roundHalfEven((picture.height - cropWindow.y0) * scaleY);
  if (left === 0 && top === 0 && right === width && bottom === height) return resizeBilinear(picture, height, width);
  const canvas = new Uint8Array(height * width * 3).fill(padding);
  if (right <= left || bottom <= top) return canvas;
  const inner = resizeBilinear(picture, bottom - top, right - left);
  const rowBytes = (right - left) * 3;
  for (let y = top; y < bottom; y++) {
    canvas.set(inner.subarray((y - top) * rowBytes, (y - top + 1) * rowBytes), (y * width + left) * 3);
  }
  return canvas;
}

/**
 * Bilinear resize -> RGB bytes [height, width, 3], bit for bit as OpenCV's INTER_LINEAR on 8-bit pictures.
 *
 * Half-pixel centres, the four nearest pixels, no smoothing. Weights are rounded to 1/2048; the horizontal sum is
 * kept in 1/2048 less 4 bits, the vertical one rounded from there. Exactly half the size is the mean of 2 x 2 pixels.
 */
export function resizeBilinear(picture, height, width) {
  const channels = picture.data.length / (picture.width * picture.height);
  if (channels !== 3 && channels !== 4) {
    throw new Error(`${picture.data.length} bytes for ${picture.width} x ${picture.height}: expected RGB or RGBA`);
  }
  if (picture.height === height && picture.width === width) return dropAlpha(picture, channels);
  if (picture.height === 2 * height && picture.width === 2 * width) return halve(picture, channels);
  const columns = axisWeights(picture.width, width, true);
  const rows = axisWeights(picture.height, height, false);
  const result = new Uint8Array(height * width * 3);
  const sums = [new Int32Array(width * 3), new Int32Array(width * 3)]; // of the two source rows in use
  const held = [-1, -1];
  for (let y = 0; y < height; y++) {
    const wanted = [rows.low[y], rows.high[y]];
    if (held[1] === wanted[0]) {
      sums.reverse();
      held.reverse();
    }
    for (let i = 0; i < 2; i++) {
      if (held[i] !== wanted[i]) resizeRow(picture, channels, wanted[i], columns, sums[i]);
      held[i] = wanted[i];
    }
    const weightLow = rows.weightLow[y];
    const weightHigh = rows.weightHigh[y];
    for (let i = 0; i < width * 3; i++) {
      const value = ((weightLow * sums[0][i]) >> 16) + ((weightHigh * sums[1][i]) >> 16);
      result[y * width * 3 + i] = (value + 2) >> 2;
    }
  }
  return result;
}

function resizeRow(picture, channels, row, columns, sums) {
  const start = row * picture.width * channels;
  for (let x = 0; x < columns.low.length; x++) {
    const low = start + columns.low[x] * channels;
    const high = start + columns.high[x] * channels;
    for (let c = 0; c < 3; c++) {
      const sum = picture.data[low + c] * columns.weightLow[x] + picture.data[high + c] * columns.weightHigh[x];
      sums[x * 3 + c] = sum >> 4;
    }
  }
}

/** Per target position the two source positions and their weights. Along rows the weights at the edge stay as they
 * are (both rows are then the same); along columns the outer pixel takes it all. */
function axisWeights(source, target, clampWeights) {
  const scale = 1 / (target / source);
  const weights = {
    low: new Int32Array(target),
    high: new Int32Array(target),
    weightLow: new Int32Array(target),
    weightHigh: new Int32Array(target),
  };
  for (let i = 0; i < target; i++) {
    const position = fround((i + 0.5) * scale - 0.5);
    let low = Math.floor(position);
    let fraction = fround(position - low);
    if (clampWeights && (low < 0 || low >= source - 1)) {
      fraction = 0;
      low = low < 0 ? 0 : source - 1;
    }
    weights.low[i] = Math.min(Math.max(low, 0), source - 1);
    weights.high[i] = Math.min(Math.max(low + 1, 0), source - 1);
    weights.weightLow[i] = roundHalfEven(fround(1 - fraction) * COEFFICIENT_ONE);
    weights.weightHigh[i] = roundHalfEven(fraction * COEFFICIENT_ONE);
  }
  return weights;
}

function halve(picture, channels) {
  const [height, width] = [picture.height / 2, picture.width / 2];
  const result = new Uint8Array(height * width * 3);
  const stride = picture.width * channels;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        const at = 2 * y * stride + 2 * x * channels + c;
        const { data } = picture;
        const sum = data[at] + data[at + channels] + data[at + stride] + data[at + stride + channels];
        result[(y * width + x) * 3 + c] = (sum + 2) >> 2;
      }
    }
  }
  return result;
}

function dropAlpha(picture, channels) {
  if (channels === 3) return Uint8Array.from(picture.data);
  const result = new Uint8Array(picture.width * picture.height * 3);
  for (let i = 0, at = 0; i < result.length; i += 3, at += 4) {
    for (let c = 0; c < 3; c++) result[i + c] = picture.data[at + c];
  }
  return result;
}

/** RGB bytes [height, width, 3] -> the tensor that `input` (of the contract) describes, flat: (value - mean) / std. */
export function toTensor(resized, input) {
  const plane = input.height * input.width;
  if (resized.length !== plane * 3) throw new Error(`${resized.length} bytes, expected ${plane * 3}`);
  const tensor = new { uint8: Uint8Array, int8: Int8Array, float32: Float32Array }[input.type](plane * 3);
  const mean = (input.mean ?? [0, 0, 0]).map(fround);
  const std = (input.std ?? [1, 1, 1]).map(fround);
  const order = input.color_order ?? input.colour_order; // as contracts of version 1 spell it
  for (let channel = 0; channel < 3; channel++) {
    const source = order === "BGR" ? 2 - channel : channel;
    for (let i = 0; i < plane; i++) {
      const value = resized[i * 3 + source];
      const at = input.layout === "NCHW" ? channel * plane + i : i * 3 + channel;
      tensor[at] = input.type === "uint8" ? value : fround(value - mean[channel]) / std[channel];
    }
  }
  return tensor;
}

/**
 * Output tensors of one picture -> [{name, label, score, box: [x0, y0, x1, y1]}], best first, boxes in the picture's
 * pixels.
 *
 * `outputs` are flat arrays by meaning ("scores", "boxes", ...; see `outputsByMeaning`) and `cropWindow` is what
 * `preprocess` gave for this picture. Only what scores at least `scoreThreshold`, and above the contract's own.
 */
export function postprocess(
  contract,
  model,
  outputs,
  cropWindow,
  picture,
  scoreThreshold = operatingThreshold(contract),
) {
  if (model.variant === "anchors") throw new Error(`${model.file} is for MediaPipe, which decodes its boxes`);
  const select = model.variant === "nms" ? readDetections : selectDetections;
  const found = select(contract, model, outputs, cropWindow, scoreThreshold);
  const detections = [];
  for (const { box, score, label } of found) {
    const own = toPicture(box, cropWindow, picture);
    if (own[2] <= own[0] || own[3] <= own[1]) continue;
    detections.push({ name: contract.class_names[label], label, score, box: own });
  }
  return detections;
}

/** The score from which on to show detections; 0.3 in bundles of before version 3, which do not state it. */
export function operatingThreshold(contract) {
  return contract.postprocess.operating_threshold ?? 0.3;
}

/** A session's results (by output name, each with `.data`) -> flat arrays by what they mean. */
export function outputsByMeaning(model, results) {
  return Object.fromEntries(model.outputs.map((output) => [output.meaning, results[output.name].data]));
}

function readDetections(contract, model, outputs, size, scoreThreshold) {
  const found = [];
  for (let i = 0; i < Number(outputs.count[0]); i++) {
    if (outputs.scores[i] < fround(scoreThreshold)) continue;
    const box = toInputPixels(boxSpec(contract, model), outputs.boxes.subarray(4 * i, 4 * i + 4), size);
    found.push({ box, score: outputs.scores[i], label: Number(outputs.labels[i]) });
  }
  return found;
}

/**
 * Outputs of a raw or decoded model -> [{box, score, label}] in pixels of an input of `size`, best first: threshold,
 * best candidates of each class, non-maximum suppression within each class, best of what is left of all. A box only
 * ever falls to better ones, so that `scoreThreshold` finds the same here as it would behind all that, in less time.
 */
export function selectDetections(contract, model, outputs, size, scoreThreshold = 0) {
  const spec = contract.postprocess;
  const classes = contract.class_names.length;
  const above = fround(spec.score_threshold);
  const atLeast = fround(scoreThreshold);
  const isRaw = model.variant === "raw";
  const likely = isRaw ? likelyAnchors(outputs.class_logits, classes, spec, Math.max(above, atLeast)) : null;
  const scores = isRaw ? classScores(rowsOf(outputs.class_logits, likely, classes + 1), classes, spec) : outputs.scores;
  const candidates = [];
  for (let i = 0; i < scores.length; i++) if (scores[i] > above && scores[i] >= atLeast) candidates.push(i);
  candidates.sort((a, b) => scores[b] - scores[a] || a - b);
  const seen = new Int32Array(classes);
  const kept = Array.from({ length: classes }, () => []); // boxes by class
  const found = [];
  for (const index of candidates) {
    const label = index % classes;
    if (seen[label]++ >= spec.candidates_per_class) continue;
    const row = (index - label) / classes;
    const box = candidateBox(contract, model, outputs, isRaw ? likely[row] : row, size);
    if (kept[label].some((other) => iou(other, box) > spec.nms_threshold)) continue;
    kept[label].push(box);
    found.push({ box, score: scores[index], label });
    if (found.length === spec.max_detections) break;
  }
  return found;
}

/** The anchors, in order, where some class of logits [A, K + 1] may reach `scoreThreshold`, as logits alone can tell. */
function likelyAnchors(logits, classes, spec, scoreThreshold) {
  const bound = logitBound(scoreThreshold);
  const anchors = [];
  for (let start = 0, anchor = 0; start < logits.length; start += classes + 1, anchor++) {
    let best = -Infinity;
    for (let k = start + 1; k <= start + classes; k++) if (logits[k] > best) best = logits[k]; // past what is no number
    if ((spec.score_function === "sigmoid" ? best : best - logits[start]) > bound) anchors.push(anchor);
  }
  return anchors;
}

function rowsOf(values, rows, columns) {
  const result = new Float32Array(rows.length * columns);
  rows.forEach((row, i) => result.set(values.subarray(row * columns, (row + 1) * columns), i * columns));
  return result;
}

/** logits [A, K + 1] -> scores [A, K] without background (slot 0). */
export function classScores(logits, classes, spec) {
  const scores = new Float32Array((logits.length / (classes + 1)) * classes);
  for (let start = 0, to = 0; start < logits.length; start += classes + 1, to += classes) {
    if (spec.score_function === "sigmoid") {
      for (let k = 0; k < classes; k++) scores[to + k] = 1 / (1 + Math.exp(-logits[start + 1 + k]));
      continue;
    }
    let highest = -Infinity;
    for (let k = 0; k <= classes; k++) highest = Math.max(highest, logits[start + k]);
    let sum = 0;
    for (let k = 0; k <= classes; k++) sum += Math.exp(logits[start + k] - highest);
    for (let k = 0; k < classes; k++) scores[to + k] = Math.exp(logits[start + 1 + k] - highest) / sum;
  }
  return scores;
}

/** Up to it no logit has a score of `scoreThreshold`: a sigmoid's own, a softmax's less that of background. */
function logitBound(scoreThreshold) {
  const below = scoreThreshold - SCORE_STEP;
  return below > 0 ? Math.log(below / (1 - below)) - LOGIT_MARGIN : -Infinity;
}

function candidateBox(contract, model, outputs, anchor, size) {
  if (model.variant === "decoded") {
    return toInputPixels(boxSpec(contract, model), outputs.boxes.subarray(4 * anchor, 4 * anchor + 4), size);
  }
  const deltas = outputs.box_deltas.subarray(4 * anchor, 4 * anchor + 4);
  const decode = contract.anchors.box_code === "distances" ? cornersAtDistances : cornersAroundCentre;
  const corners = decode(contract.anchors, contract.anchors.values[anchor], deltas);
  return corners.map((value, i) => fround(Math.min(Math.max(value, 0), 1) * (i % 2 ? size.height : size.width)));
}

/** Deltas left, top, right, bottom -> corners as fractions of the input. */
function cornersAtDistances(anchors, [cx, cy, width, height], [left, top, right, bottom]) {
  return [cx - left * width, cy - top * height, cx + right * width, cy + bottom * height];
}

/** Deltas dx, dy, dw, dh -> corners as fractions of the input. */
function cornersAroundCentre({ box_code_scales: scales, max_log_scale: limit }, [cx, cy, width, height], deltas) {
  const centreX = cx + (deltas[0] / scales[0]) * width;
  const centreY = cy + (deltas[1] / scales[1]) * height;
  const halfWidth = 0.5 * width * Math.exp(Math.min(deltas[2] / scales[2], limit));
  const halfHeight = 0.5 * height * Math.exp(Math.min(deltas[3] / scales[3], limit));
  return [centreX - halfWidth, centreY - halfHeight, centreX + halfWidth, centreY + halfHeight];
}

/** How boxes of a model are written: where it says nothing itself, as the contract does. */
const boxSpec = (contract, model) => model.boxes ?? contract.boxes;

/** A box as the contract's `boxes` says -> x0, y0, x1, y1 in input pixels, within the input. */
function toInputPixels(spec, box, size) {
  const [x0, y0, x1, y1] = spec.format === "yxyx" ? [box[1], box[0], box[3], box[2]] : box;
  const [width, height] = spec.scale === "pixels" ? [1, 1] : [size.width, size.height];
  const limit = (value, most) => Math.min(Math.max(fround(value), 0), most);
  return [
    limit(x0 * width, size.width),
    limit(y0 * height, size.height),
    limit(x1 * width, size.width),
    limit(y1 * height, size.height),
  ];
}

/** A box in input pixels -> in the picture's, clipped to it. */
function toPicture(box, cropWindow, picture) {
  const scaleX = fround(cropWindow.width / (cropWindow.x1 - cropWindow.x0));
  const scaleY = fround(cropWindow.height / (cropWindow.y1 - cropWindow.y0));
  return box.map((value, i) => {
    const own = fround(fround(value / (i % 2 ? scaleY : scaleX)) + (i % 2 ? cropWindow.y0 : cropWindow.x0));
    return Math.min(Math.max(own, 0), i % 2 ? picture.height : picture.width);
  });
}

/** Intersection over union of two boxes. */
export function iou(a, b) {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const shared = width * height;
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

/** To the nearest whole number, halves to the even one, as Python's round(). */
function roundHalfEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
