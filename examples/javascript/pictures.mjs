/** PNG and JPEG files as upright pictures, for Node. A browser decodes and turns them itself. */

import { readFile } from "node:fs/promises";
import jpeg from "jpeg-js";
import { PNG } from "pngjs";

const EXIF_ORIENTATION = 0x0112;
// EXIF orientation -> [swap axes, from the right, from the bottom]: where a pixel of the upright picture is stored
const TURNS = {
  2: [false, true, false],
  3: [false, true, true],
  4: [false, false, true],
  5: [true, false, false],
  6: [true, false, true],
  7: [true, true, true],
  8: [true, true, false],
};

/** file -> {data: RGBA bytes, width, height}, upright. */
export async function readPicture(path) {
  const bytes = await readFile(path);
  if (bytes.subarray(1, 4).toString("latin1") === "PNG") return PNG.sync.read(bytes);
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) throw new Error(`${path}: neither PNG nor JPEG`);
  const picture = jpeg.decode(bytes, { useTArray: true });
  return turnUpright(picture, readOrientation(picture.exifBuffer));
}

/** RGBA picture -> the same, turned as its EXIF orientation 1 to 8 demands. */
export function turnUpright(picture, orientation) {
  if (!(orientation in TURNS)) return picture;
  const [swapped, fromRight, fromBottom] = TURNS[orientation];
  const [width, height] = swapped ? [picture.height, picture.width] : [picture.width, picture.height];
  const source = new Uint32Array(picture.data.slice().buffer); // a pixel each
  const target = new Uint32Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [column, row] = swapped ? [y, x] : [x, y];
      const storedX = fromRight ? picture.width - 1 - column : column;
      const storedY = fromBottom ? picture.height - 1 - row : row;
      target[y * width + x] = source[storedY * picture.width + storedX];
    }
  }
  return { data: new Uint8Array(target.buffer), width, height };
}

/** The orientation that a JPEG's EXIF block states; 1, upright, where there is none or it is damaged. */
function readOrientation(block) {
  if (!block || block.length < 9) return 1;
  const exif = block.subarray(1); // jpeg-js leaves a zero byte of "Exif\0\0" before the TIFF file
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  const little = view.getUint16(0) === 0x4949; // "II"
  const first = view.getUint32(4, little);
  if (first + 2 > exif.length) return 1;
  const count = view.getUint16(first, little);
  for (let at = first + 2; at < first + 2 + 12 * count && at + 12 <= exif.length; at += 12) {
    if (view.getUint16(at, little) === EXIF_ORIENTATION) return view.getUint16(at + 8, little);
  }
  return 1;
}
