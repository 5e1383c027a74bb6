package ssdlite

import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonNamingStrategy

/** What this code reads of a bundle's contract.json; docs/deploy.md explains every field. */
@Serializable
data class Contract(
    val formatVersion: Int,
    val classNames: List<String>,
    val resize: ResizeSpec,
    val boxes: BoxSpec,
    val postprocess: PostprocessSpec,
    val anchors: AnchorSpec? = null,
    val models: List<ModelSpec>,
) {
    /** The model of that name; without one, the contract's first for LiteRT. */
    fun model(file: String? = null): ModelSpec =
        models.firstOrNull { if (file == null) it.runtime == "litert" else it.file == file }
            ?: error("no model ${file ?: "for LiteRT"} among ${models.map { it.file }}: export with --target litert")

    companion object {
        private const val NEWEST = 3

        @OptIn(ExperimentalSerializationApi::class)
        private val json = Json {
            ignoreUnknownKeys = true
            namingStrategy = JsonNamingStrategy.SnakeCase
        }

        /** Of the text of contract.json. Throws IllegalArgumentException where it is not one, or a newer one. */
        fun parse(text: String): Contract {
            val contract = json.decodeFromString<Contract>(text)
            require(contract.formatVersion == NEWEST) {
                "expected a contract of version $NEWEST, got ${contract.formatVersion}: export the bundle again"
            }
            return contract
        }
    }
}

@Serializable
data class ModelSpec(
    val file: String,
    val runtime: String,
    val variant: Variant,
    val input: InputSpec,
    val outputs: List<OutputSpec>,
    val boxes: BoxSpec? = null, // where they differ from the contract's
)

@Serializable
enum class Variant {
    @SerialName("raw") RAW,
    @SerialName("decoded") DECODED,
    @SerialName("anchors") ANCHORS,
    @SerialName("nms") NMS,
}

/** The input tensor, of one picture. */
@Serializable
data class InputSpec(
    val type: String, // uint8, int8 or float32
    val layout: String, // NHWC or NCHW
    val height: Int,
    val width: Int,
    val colorOrder: String, // RGB or BGR
    val mean: List<Float>,
    val std: List<Float>,
)

@Serializable data class OutputSpec(val name: String, val meaning: String, val type: String)

@Serializable data class ResizeSpec(val mode: String, val paddingValue: Int) // stretch or letterbox

@Serializable data class BoxSpec(val format: String, val scale: String) // xyxy or yxyx; fraction or pixels

@Serializable
data class PostprocessSpec(
    val scoreFunction: String, // softmax or sigmoid
    val scoreThreshold: Float,
    val nmsThreshold: Double,
    val candidatesPerClass: Int,
    val maxDetections: Int,
    val operatingThreshold: Float, // from this score on, show a detection
)

/** Centre x, centre y, width, height of each anchor as fractions of the input, and the code of their deltas. */
@Serializable
data class AnchorSpec(
    val boxCode: String = "center_size", // or distances
    val boxCodeScales: List<Double>,
    val maxLogScale: Double,
    val values: List<List<Double>>,
)
