package ssdlite

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

private const val COEFFICIENT_ONE = 2048f // resizing weights are integers, in 1/2048

/** 8-bit pixels, upright, row by row from the top; 3 (RGB) or 4 (RGBA, as a Bitmap has them) bytes each. */
class Picture(val height: Int, val width: Int, val data: ByteArray) {
    val channels = data.size / (height * width)

    init {
        require(channels in 3..4 && data.size == height * width * channels) {
            "${data.size} bytes for a picture of $width x $height: expected RGB or RGBA"
        }
    }
}

/** The rectangle of a picture, in its pixels, that fills an input of [height] x [width]. */
data class CropWindow(val x0: Int, val y0: Int, val x1: Int, val y1: Int, val height: Int, val width: Int)

/** The crop window that shows a whole picture: stretched to the input, or keeping its shape, centred (letterbox). */
fun fitWindow(picture: Picture, input: InputSpec, resize: ResizeSpec): CropWindow {
    val (height, width) = input.height to input.width
    if (resize.mode == "stretch") return CropWindow(0, 0, picture.width, picture.height, height, width)
    require(resize.mode == "letterbox") { "resize mode ${resize.mode}: expected stretch or letterbox" }
    val scale = min(height.toDouble() / picture.height, width.toDouble() / picture.width)
    val windowWidth = max(round(width / scale).toInt(), picture.width)
    val windowHeight = max(round(height / scale).toInt(), picture.height)
    val left = (windowWidth - picture.width) / 2
    val top = (windowHeight - picture.height) / 2
    return CropWindow(-left, -top, windowWidth - left, windowHeight - top, height, width)
}

/** What a crop window shows of a picture, RGB, window.height x window.width; outside the picture is padding. */
fun render(window: CropWindow, picture: Picture, padding: Int): Picture {
    val scaleX = window.width.toDouble() / (window.x1 - window.x0)
    val scaleY = window.height.toDouble() / (window.y1 - window.y0)
    val left = round(-window.x0 * scaleX).toInt()
    val right = round((picture.width - window.x0) * scaleX).toInt()
    val top = round(-window.y0 * scaleY).toInt()
    val bottom = round((picture.height - window.y0) * scaleY).toInt()
    if (left == 0 && top == 0 && right == window.width && bottom == window.height) {
        return resizeBilinear(picture, window.height, window.width)
    }
    val canvas = Picture(window.height, window.width, ByteArray(window.height * window.width * 3) { padding.toByte() })
    if (right <= left || bottom <= top) return canvas
    val inner = resizeBilinear(picture, bottom - top, right - left)
    val rowBytes = inner.width * 3
    for (y in 0 until inner.height) {
        System.arraycopy(inner.data, y * rowBytes, canvas.data, ((top + y) * window.width + left) * 3, rowBytes)
    }
    return canvas
}

/**
 * Bilinear resize -> RGB, bit for bit as OpenCV's INTER_LINEAR on 8-bit pictures.
 *
 * Half-pixel centres, the four nearest pixels, no smoothing. Weights are rounded to 1/2048; the horizontal sum is kept
 * in 1/2048 less 4 bits, the vertical one rounded from there. Exactly half the size is the mean of 2 x 2 pixels.
 */
fun resizeBilinear(picture: Picture, height: Int, width: Int): Picture {
    if (picture.height == height && picture.width == width) return dropAlpha(picture)
    if (picture.height == 2 * height && picture.width == 2 * width) return halve(picture)
    val columns = AxisWeights(picture.width, width, clampWeights = true)
    val rows = AxisWeights(picture.height, height, clampWeights = false)
    val result = ByteArray(height * width * 3)
    var upper = IntArray(width * 3) // sums along the two source rows in use
    var lower = IntArray(width * 3)
    var upperRow = -1
    var lowerRow = -1
    for (y in 0 until height) {
        if (lowerRow == rows.low[y]) {
            upper = lower.also { lower = upper }
            upperRow = lowerRow.also { lowerRow = upperRow }
        }
        if (upperRow != rows.low[y]) resizeRow(picture, rows.low[y], columns, upper)
        if (lowerRow != rows.high[y]) resizeRow(picture, rows.high[y], columns, lower)
        upperRow = rows.low[y]
        lowerRow = rows.high[y]
        val weightLow = rows.weightLow[y]
        val weightHigh = rows.weightHigh[y]
        for (i in 0 until width * 3) {
            val value = ((weightLow * upper[i]) shr 16) + ((weightHigh * lower[i]) shr 16)
            result[y * width * 3 + i] = ((value + 2) shr 2).toByte()
        }
    }
    return Picture(height, width, result)
}

private fun resizeRow(picture: Picture, row: Int, columns: AxisWeights, sums: IntArray) {
    val start = row * picture.width * picture.channels
    for (x in columns.low.indices) {
        val low = start + columns.low[x] * picture.channels
        val high = start + columns.high[x] * picture.channels
        for (c in 0 until 3) {
            val sum = picture.at(low + c) * columns.weightLow[x] + picture.at(high + c) * columns.weightHigh[x]
            sums[x * 3 + c] = sum shr 4
        }
    }
}

private fun Picture.at(index: Int): Int = data[index].toInt() and 0xFF

/**
 * Per target position the two source positions and their weights. Along rows the weights at the edge stay as they are
 * (both rows are then the same); along columns the outer pixel takes it all.
 */
private class AxisWeights(source: Int, target: Int, clampWeights: Boolean) {
    val low = IntArray(target)
    val high = IntArray(target)
    val weightLow = IntArray(target)
    val weightHigh = IntArray(target)

    init {
        val scale = 1.0 / (target.toDouble() / source)
        for (i in 0 until target) {
            val position = ((i + 0.5) * scale - 0.5).toFloat()
            var first = floor(position).toInt()
            var fraction = position - first
            if (clampWeights && (first < 0 || first >= source - 1)) {
                fraction = 0f
                first = if (first < 0) 0 else source - 1
            }
            low[i] = first.coerceIn(0, source - 1)
            high[i] = (first + 1).coerceIn(0, source - 1)
            weightLow[i] = round((1f - fraction) * COEFFICIENT_ONE).toInt()
            weightHigh[i] = round(fraction * COEFFICIENT_ONE).toInt()
        }
    }
}

private fun halve(picture: Picture): Picture {
    val (height, width) = picture.height / 2 to picture.width / 2
    val stride = picture.width * picture.channels
    val result = ByteArray(height * width * 3)
    for (y in 0 until height) {
        for (x in 0 until width) {
            for (c in 0 until 3) {
                val at = 2 * y * stride + 2 * x * picture.channels + c
                val sum = picture.at(at) + picture.at(at + picture.channels) +
                    picture.at(at + stride) + picture.at(at + stride + picture.channels)
                result[(y * width + x) * 3 + c] = ((sum + 2) shr 2).toByte()
            }
        }
    }
    return Picture(height, width, result)
}

private fun dropAlpha(picture: Picture): Picture {
    if (picture.channels == 3) return picture
    val rgb = ByteArray(picture.height * picture.width * 3) { picture.data[it / 3 * 4 + it % 3] }
    return Picture(picture.height, picture.width, rgb)
}

/** A resized picture -> the bytes of the input tensor, (value - mean) / std, in a direct buffer as LiteRT wants it. */
fun toTensor(resized: Picture, input: InputSpec): ByteBuffer {
    val plane = input.height * input.width
    require(resized.height == input.height && resized.width == input.width && resized.channels == 3) {
        "expected RGB of ${input.width} x ${input.height}, got ${resized.width} x ${resized.height}"
    }
    val isFloat = input.type == "float32"
    val isPlanar = input.layout == "NCHW"
    val tensor = ByteBuffer.allocateDirect(plane * 3 * if (isFloat) 4 else 1).order(ByteOrder.nativeOrder())
    for (at in 0 until plane * 3) {
        val pixel = if (isPlanar) at % plane else at / 3
        val channel = if (isPlanar) at / plane else at % 3
        val value = resized.at(pixel * 3 + if (input.colorOrder == "BGR") 2 - channel else channel)
        val normalized = (value - input.mean[channel]) / input.std[channel]
        if (isFloat) tensor.putFloat(normalized) else tensor.put(normalized.toInt().toByte())
    }
    tensor.rewind()
    return tensor
}
