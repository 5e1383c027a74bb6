// node selection.mjs FOLDER: for each score threshold on standard input the processor milliseconds of post-processing the
// decoded outputs in FOLDER, and how many detections that gives. benchmarks/selection.py writes and asks.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { argv, cpuUsage, stdin } from "node:process";
import { selectDetections } from "../examples/javascript/ssdlite.mjs";

const folder = argv[2];
const floats = (name) => new Float32Array(new Uint8Array(readFileSync(`${folder}/${name}.bin`)).buffer);
const { calls, size, ...contract } = JSON.parse(readFileSync(`${folder}/contract.json`, "utf8"));
const outputs = { scores: floats("scores"), boxes: floats("boxes") };
for await (const line of createInterface({ input: stdin })) {
  const start = cpuUsage();
  let found;
  for (let i = 0; i < calls; i++) found = selectDetections(contract, { variant: "decoded" }, outputs, size, Number(line));
  const { user, system } = cpuUsage(start);
  console.log(`${(user + system) / 1000 / calls} ${found.length}`);
}
