package ssdlite

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.system.exitProcess
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.add
import kotlinx.serialization.json.buildJsonArray
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.float
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonArray

/**
 * replay BUNDLE FOLDER
 *
 * Feeds the reference vectors of a bundle to the pre- and post-processing of this project, each step alone, and writes
 * what comes out to FOLDER. `ssdlite verify BUNDLE --dump FOLDER` then says, step by step, whether it is right.
 */
fun main(arguments: Array<String>) {
    if (arguments.size != 2) {
        System.err.println("usage: replay BUNDLE FOLDER")
        exitProcess(2)
    }
    val (bundle, folder) = arguments.map(::File)
    folder.mkdirs()
    val contract = Contract.parse(bundle.resolve("contract.json").readText())
    val golden = Json.parseToJsonElement(bundle.resolve("golden/golden.json").readText()).jsonObject
    val threshold = golden.getValue("score_threshold").jsonPrimitive.float
    val images = golden.getValue("images").jsonArray.map { it.jsonObject }
    for (image in images) {
        for (model in contract.models) Replay(bundle.resolve("golden"), folder, contract, model).run(image, threshold)
    }
    println("${images.size} pictures, ${contract.models.size} models -> $folder")
}

private class Replay(
    private val golden: File,
    private val folder: File,
    private val contract: Contract,
    private val model: ModelSpec,
) {
    fun run(image: JsonObject, scoreThreshold: Float) {
        val name = image.getValue("name").jsonPrimitive.content
        val height = image.getValue("height").jsonPrimitive.int
        val width = image.getValue("width").jsonPrimitive.int
        val picture = Picture(height, width, golden.resolve("$name.rgb.bin").readBytes())
        val window = fitWindow(picture, model.input, contract.resize)
        folder.resolve("$name.resized.bin").writeBytes(render(window, picture, contract.resize.paddingValue).data)

        val resized = Picture(model.input.height, model.input.width, golden.resolve("$name.resized.bin").readBytes())
        val tensor = toTensor(resized, model.input)
        val bytes = ByteArray(tensor.remaining()).also(tensor::get)
        folder.resolve("$name.${model.input.type}_${model.input.layout}.bin").writeBytes(bytes)

        if (model.variant == Variant.ANCHORS) return // MediaPipe's own
        val outputs = model.outputs.associate { it.meaning to readOutput(name, it) }
        val found = postprocess(contract, model, outputs, window, height, width, scoreThreshold)
        folder.resolve("$name.${model.file}.detections.json").writeText(toJson(found))
    }

    /** An output of the reference vectors, which are little-endian: float32 or int32. */
    private fun readOutput(name: String, output: OutputSpec): FloatArray {
        val bytes = golden.resolve("$name.${model.file}.${output.meaning}.bin").readBytes()
        val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
        val isFloat = output.type == "float32"
        return FloatArray(bytes.size / 4) { if (isFloat) buffer.getFloat() else buffer.getInt().toFloat() }
    }
}

private fun toJson(found: List<Detection>): String = buildJsonArray {
    for (one in found) {
        val row = buildJsonObject {
            put("name", one.name)
            put("label", one.label)
            put("score", one.score)
            putJsonArray("box") { with(one.box) { listOf(x0, y0, x1, y1) }.forEach { add(it) } }
        }
        add(row)
    }
}.toString()
