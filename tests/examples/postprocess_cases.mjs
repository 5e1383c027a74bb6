// node postprocess_cases.mjs < postprocess_cases.jsonl: what examples/javascript makes of each case, a line each.
import { readFileSync } from "node:fs";
import { selectDetections } from "../../examples/javascript/ssdlite.mjs";

const flat = (rows) => Float32Array.from(rows.flat().map(Number));

for (const line of readFileSync(0, "utf8").trim().split("\n")) {
  const one = JSON.parse(line);
  const [height, width] = one.input_size;
  const contract = {
    class_names: one.class_logits[0].slice(1).map(String),
    postprocess: one,
    anchors: {
      box_code: one.box_code,
      box_code_scales: one.box_code_scales,
      max_log_scale: Math.log(1000 / 16),
      values: one.anchors.map(([x0, y0, x1, y1]) => [
        (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height,
      ]),
    },
  };
  const outputs = { class_logits: flat(one.class_logits), box_deltas: flat(one.box_deltas) };
  const found = selectDetections(contract, { variant: "raw" }, outputs, { height, width }, one.asked_threshold);
  const column = (name) => found.map((detection) => detection[name]);
  console.log(JSON.stringify({ boxes: column("box"), scores: column("score"), labels: column("label") }));
}
