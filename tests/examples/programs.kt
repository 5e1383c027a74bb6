// What the tests ask of examples/android beside its replay: each object is a program, from standard input.
package ssdlite

import java.io.File
import kotlin.math.ln
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.float
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

private val INPUT = InputSpec("uint8", "NHWC", 0, 0, "RGB", listOf(0f, 0f, 0f), listOf(1f, 1f, 1f))

/** Lines of postprocess_cases.jsonl -> what is found in each, as "boxes scores labels" in JSON. */
object PostprocessCases {
    @JvmStatic
    fun main(arguments: Array<String>) = generateSequence(::readLine).forEach { line ->
        val found = select(Json.parseToJsonElement(line).jsonObject)
        val boxes = found.map { with(it.box) { listOf(x0, y0, x1, y1) } }
        println("""{"boxes": $boxes, "scores": ${found.map { it.score }}, "labels": ${found.map { it.label }}}""")
    }

    private fun select(one: JsonObject): List<Detection> {
        val (height, width) = one.rows("input_size").map { it.jsonPrimitive.int }
        val spec = PostprocessSpec(
            one.getValue("score_function").jsonPrimitive.content,
            one.getValue("score_threshold").jsonPrimitive.float,
            one.getValue("nms_threshold").jsonPrimitive.double,
            one.getValue("candidates_per_class").jsonPrimitive.int,
            one.getValue("max_detections").jsonPrimitive.int,
            operatingThreshold = 0f,
        )
        val anchors = one.rows("anchors").map { row ->
            val (x0, y0, x1, y1) = row.jsonArray.map { it.jsonPrimitive.double }
            listOf((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        }
        val scales = one.rows("box_code_scales").map { it.jsonPrimitive.double }
        val names = List(one.rows("class_logits")[0].jsonArray.size - 1) { "$it" }
        val model = ModelSpec("raw", "litert", Variant.RAW, INPUT, emptyList())
        val contract = Contract(
            3, names, ResizeSpec("stretch", 0), BoxSpec("xyxy", "fraction"), spec,
            AnchorSpec(one.getValue("box_code").jsonPrimitive.content, scales, ln(1000.0 / 16), anchors), listOf(model),
        )
        val outputs = mapOf("class_logits" to one.flat("class_logits"), "box_deltas" to one.flat("box_deltas"))
        val window = CropWindow(0, 0, width, height, height, width)
        return selectDetections(contract, model, outputs, window, one.getValue("asked_threshold").jsonPrimitive.float)
    }

    private fun JsonObject.rows(name: String): JsonArray = getValue(name).jsonArray

    /** Numbers that JSON has not stand there as strings. */
    private fun JsonObject.flat(name: String): FloatArray =
        rows(name).flatMap(JsonElement::jsonArray).map { it.jsonPrimitive.content.toFloat() }.toFloatArray()
}

/** Lines "height width target-height target-width mode": N.in, of RGB or RGBA, becomes N.out in this folder. */
object Resizes {
    @JvmStatic
    fun main(arguments: Array<String>) = generateSequence(::readLine).forEachIndexed { number, line ->
        val (height, width, targetHeight, targetWidth, mode) = line.split(" ")
        val picture = Picture(height.toInt(), width.toInt(), File("$number.in").readBytes())
        val input = INPUT.copy(height = targetHeight.toInt(), width = targetWidth.toInt())
        val window = fitWindow(picture, input, ResizeSpec(mode, 114))
        File("$number.out").writeBytes(render(window, picture, 114).data)
    }
}
