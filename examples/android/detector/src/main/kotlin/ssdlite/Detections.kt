package ssdlite

import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.min

private const val SCORE_STEP = 1.0 / (1 shl 24) // of Float just below 1
private const val LOGIT_MARGIN = 1e-3 // for rounding

/** Left, top, right, bottom. */
data class Box(val x0: Float, val y0: Float, val x1: Float, val y1: Float) {
    fun iou(other: Box): Double {
        val width = max(min(x1, other.x1) - max(x0, other.x0), 0f).toDouble()
        val height = max(min(y1, other.y1) - max(y0, other.y0), 0f)
        val shared = width * height
        return shared / (area() + other.area() - shared)
    }

    private fun area(): Double = (x1 - x0).toDouble() * (y1 - y0)
}

/** [label] is an index of the contract's class names. */
data class Detection(val name: String, val label: Int, val score: Float, val box: Box)

/**
 * Output tensors of one picture -> its detections, best first, boxes in the picture's own pixels, clipped to it.
 *
 * [outputs] are flat, by meaning; [window] is what [fitWindow] gave for the picture of [height] x [width]. Only what
 * scores at least [scoreThreshold], and above the contract's own.
 */
fun postprocess(
    contract: Contract,
    model: ModelSpec,
    outputs: Map<String, FloatArray>,
    window: CropWindow,
    height: Int,
    width: Int,
    scoreThreshold: Float = contract.postprocess.operatingThreshold,
): List<Detection> {
    val found = when (model.variant) {
        Variant.NMS -> readDetections(contract, model, outputs, window, scoreThreshold)
        Variant.DECODED, Variant.RAW -> selectDetections(contract, model, outputs, window, scoreThreshold)
        Variant.ANCHORS -> error("${model.file} is for MediaPipe, which has the anchors; take nms, decoded or raw")
    }
    return found
        .map { it.copy(box = toPicture(it.box, window, height, width)) }
        .filter { it.box.x1 > it.box.x0 && it.box.y1 > it.box.y0 }
}

/** Outputs of an nms model -> detections in input pixels. */
private fun readDetections(
    contract: Contract,
    model: ModelSpec,
    outputs: Map<String, FloatArray>,
    window: CropWindow,
    scoreThreshold: Float,
): List<Detection> {
    val readBox = BoxReader(contract, model, outputs, window)
    val scores = outputs.getValue("scores")
    val labels = outputs.getValue("labels")
    val count = outputs.getValue("count")[0].toInt()
    return (0 until count).filter { scores[it] >= scoreThreshold }.map {
        val label = labels[it].toInt()
        Detection(contract.classNames[label], label, scores[it], readBox(it))
    }
}

/**
 * Outputs of a raw or decoded model -> detections in input pixels, best first: threshold, the best candidates of each
 * class, non-maximum suppression within each class, the best of what is left of all. A box only ever falls to better
 * ones, so that [scoreThreshold] finds the same here as it would behind all that, in less time.
 */
fun selectDetections(
    contract: Contract,
    model: ModelSpec,
    outputs: Map<String, FloatArray>,
    window: CropWindow,
    scoreThreshold: Float = 0f,
): List<Detection> {
    val spec = contract.postprocess
    val classes = contract.classNames.size
    val readBox = BoxReader(contract, model, outputs, window)
    val scores = when (model.variant) {
        Variant.RAW -> classScores(outputs.getValue("class_logits"), classes, spec, scoreThreshold)
        else -> outputs.getValue("scores")
    }
    val candidates = scores.indices.filter { scores[it] > spec.scoreThreshold && scores[it] >= scoreThreshold }
    val seen = IntArray(classes)
    val kept = List(classes) { mutableListOf<Box>() }
    val found = mutableListOf<Detection>()
    for (index in candidates.sortedByDescending { scores[it] }) { // stable: of equals the first anchor, then class
        val label = index % classes
        if (seen[label]++ >= spec.candidatesPerClass) continue
        val box = readBox(index / classes)
        if (kept[label].any { it.iou(box) > spec.nmsThreshold }) continue
        kept[label].add(box)
        found.add(Detection(contract.classNames[label], label, scores[index], box))
        if (found.size == spec.maxDetections) break
    }
    return found
}

/** Logits [A, K + 1], background first -> scores [A, K]; 0 at anchors where none reaches the thresholds. */
private fun classScores(logits: FloatArray, classes: Int, spec: PostprocessSpec, scoreThreshold: Float): FloatArray {
    val isSoftmax = spec.scoreFunction == "softmax"
    val bound = logitBound(max(scoreThreshold, spec.scoreThreshold))
    val scores = FloatArray(logits.size / (classes + 1) * classes)
    for (anchor in 0 until logits.size / (classes + 1)) {
        val start = anchor * (classes + 1)
        var best = Float.NEGATIVE_INFINITY
        for (k in 1..classes) if (logits[start + k] > best) best = logits[start + k] // past what is no number
        val likely = if (isSoftmax) best.toDouble() - logits[start] else best.toDouble()
        if (!(likely > bound)) continue
        val highest = max(best, logits[start]).toDouble()
        val sum = if (isSoftmax) (0..classes).sumOf { exp(logits[start + it] - highest) } else 0.0
        for (k in 0 until classes) {
            val logit = logits[start + 1 + k].toDouble()
            val score = if (isSoftmax) exp(logit - highest) / sum else 1 / (1 + exp(-logit))
            scores[anchor * classes + k] = score.toFloat()
        }
    }
    return scores
}

/** Up to it no logit has a score of [scoreThreshold]: a sigmoid's own, a softmax's less that of background. */
private fun logitBound(scoreThreshold: Float): Double {
    val below = scoreThreshold - SCORE_STEP
    return if (below > 0) ln(below / (1 - below)) - LOGIT_MARGIN else Double.NEGATIVE_INFINITY
}

/** Box of a row of the outputs -> in pixels of the input, within it. */
private class BoxReader(
    contract: Contract,
    model: ModelSpec,
    outputs: Map<String, FloatArray>,
    private val window: CropWindow,
) : (Int) -> Box {
    private val spec = model.boxes ?: contract.boxes
    private val isRaw = model.variant == Variant.RAW
    private val values = outputs.getValue(if (isRaw) "box_deltas" else "boxes")
    private val anchors = if (isRaw) requireNotNull(contract.anchors) { "a raw model without anchors" } else null

    override fun invoke(row: Int): Box {
        val v = FloatArray(4) { values[4 * row + it] }
        if (anchors != null) return decode(v, anchors.values[row], anchors)
        val (x, y) = if (spec.scale == "pixels") 1f to 1f else window.width.toFloat() to window.height.toFloat()
        val box = if (spec.format == "yxyx") Box(v[1], v[0], v[3], v[2]) else Box(v[0], v[1], v[2], v[3])
        return within(box.x0 * x, box.y0 * y, box.x1 * x, box.y1 * y)
    }

    private fun decode(deltas: FloatArray, anchor: List<Double>, spec: AnchorSpec): Box {
        val corners = DoubleArray(4)
        for (axis in 0..1) {
            val side = anchor[2 + axis]
            var (low, high) = anchor[axis] - deltas[axis] * side to anchor[axis] + deltas[2 + axis] * side
            if (spec.boxCode != "distances") {
                val centre = anchor[axis] + deltas[axis] / spec.boxCodeScales[axis] * side
                val half = 0.5 * side * exp(min(deltas[2 + axis] / spec.boxCodeScales[2 + axis], spec.maxLogScale))
                low = centre - half
                high = centre + half
            }
            val size = if (axis == 0) window.width else window.height
            corners[axis] = low.coerceIn(0.0, 1.0) * size
            corners[2 + axis] = high.coerceIn(0.0, 1.0) * size
        }
        return Box(corners[0].toFloat(), corners[1].toFloat(), corners[2].toFloat(), corners[3].toFloat())
    }

    private fun within(x0: Float, y0: Float, x1: Float, y1: Float): Box {
        val (width, height) = window.width.toFloat() to window.height.toFloat()
        return Box(x0.coerceIn(0f, width), y0.coerceIn(0f, height), x1.coerceIn(0f, width), y1.coerceIn(0f, height))
    }
}

/** A box in input pixels -> in the picture's, clipped to it. */
private fun toPicture(box: Box, window: CropWindow, height: Int, width: Int): Box {
    val scaleX = (window.width.toDouble() / (window.x1 - window.x0)).toFloat()
    val scaleY = (window.height.toDouble() / (window.y1 - window.y0)).toFloat()
    fun x(value: Float) = (value / scaleX + window.x0).coerceIn(0f, width.toFloat())
    fun y(value: Float) = (value / scaleY + window.y0).coerceIn(0f, height.toFloat())
    return Box(x(box.x0), y(box.y0), x(box.x1), y(box.y1))
}
