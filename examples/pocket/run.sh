#!/bin/sh
# sh run.sh: on the device, in the folder that pocket.py wrote. Which tools are not there is said, and passed over.
#
# LITERT    LiteRT's benchmark_model          default: ./benchmark_model
# ORT_PERF  ONNX Runtime's perf test          default: ./onnxruntime_perf_test
# ORT_TEST  ONNX Runtime's test runner        default: ./onnx_test_runner
# THREADS   to measure with                   default: 1 2 4
# RUNS      of each measurement               default: 100
cd "$(dirname "$0")" || exit 1
LITERT=${LITERT:-./benchmark_model} ORT_PERF=${ORT_PERF:-./onnxruntime_perf_test} ORT_TEST=${ORT_TEST:-./onnx_test_runner}
THREADS=${THREADS:-1 2 4} RUNS=${RUNS:-100}
mkdir -p out

run() {
  echo "== $*"
  "$@" 2>&1 || echo "failed: $*"
}

measure() {
  uname -a
  getprop ro.product.model 2>/dev/null
  for tool in "$LITERT" "$ORT_PERF" "$ORT_TEST"; do
    command -v "$tool" >/dev/null || echo "not here: $tool"
  done
  while read -r runtime model input shape suffix; do
    if [ "$runtime" = litert ] && command -v "$LITERT" >/dev/null; then
      while read -r image; do # the first run of each picture leaves its outputs
        run "$LITERT" --graph="$model" --input_layer="$input" --input_layer_shape="$shape" \
          --input_layer_value_files="$input:$image.$suffix" --num_runs=1 \
          --output_filepath="out/$image.$model.outputs" </dev/null
      done <images.txt
      for threads in $THREADS; do
        run "$LITERT" --graph="$model" --input_layer="$input" --input_layer_shape="$shape" \
          --input_layer_value_files="$input:$(head -n 1 images.txt).$suffix" --warmup_runs=10 --num_runs="$RUNS" \
          --num_threads="$threads" </dev/null
      done
    elif [ "$runtime" = onnxruntime ]; then
      command -v "$ORT_TEST" >/dev/null && run "$ORT_TEST" "$model" </dev/null
      for threads in $THREADS; do
        command -v "$ORT_PERF" >/dev/null && run "$ORT_PERF" -e cpu -m times -r "$RUNS" -x "$threads" "$model/model.onnx" </dev/null
      done
    fi
  done <models.txt
}

measure | tee out/figures.txt
