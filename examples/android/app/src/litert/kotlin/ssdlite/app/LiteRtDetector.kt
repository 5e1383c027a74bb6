package ssdlite.app

import android.content.Context
import android.content.res.AssetManager
import android.graphics.Bitmap
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.channels.FileChannel.MapMode
import org.tensorflow.lite.Interpreter
import ssdlite.Detection
import ssdlite.Picture
import ssdlite.fitWindow
import ssdlite.postprocess
import ssdlite.render
import ssdlite.toTensor

private const val THREADS = 2 // more than the big cores of a phone make it slower

fun createDetector(context: Context): FrameDetector = LiteRtDetector(context)

/** LiteRT on the CPU (XNNPACK); pre- and post-processing as the contract says, for nms, decoded and raw files. */
class LiteRtDetector(context: Context) : FrameDetector {
    private val contract = readContract(context)
    private val model = contract.model()
    private val interpreter =
        Interpreter(context.assets.map("$BUNDLE/${model.file}"), Interpreter.Options().setNumThreads(THREADS))
    private val outputs: Map<String, FloatBuffer> // by meaning; LiteRT files have floats alone

    init {
        interpreter.allocateTensors()
        outputs = model.outputs.associate { output ->
            val tensor = interpreter.getOutputTensor(interpreter.getOutputIndex(output.name))
            output.meaning to FloatBuffer.allocate(tensor.numElements())
        }
    }

    override fun detect(frame: Bitmap): List<Detection> {
        val picture = frame.toPicture()
        val window = fitWindow(picture, model.input, contract.resize)
        val input = toTensor(render(window, picture, contract.resize.paddingValue), model.input)
        outputs.values.forEach { it.rewind() }
        val byIndex = model.outputs.associate { interpreter.getOutputIndex(it.name) to outputs.getValue(it.meaning) }
        interpreter.runForMultipleInputsOutputs(arrayOf<Any>(input), byIndex)
        val arrays = outputs.mapValues { it.value.array() }
        return postprocess(contract, model, arrays, window, picture.height, picture.width)
    }

    override fun close() = interpreter.close()
}

private fun Bitmap.toPicture(): Picture {
    val rgba = ByteBuffer.allocate(byteCount)
    copyPixelsToBuffer(rgba)
    return Picture(height, width, rgba.array())
}

private fun AssetManager.map(path: String): ByteBuffer = openFd(path).use { asset ->
    FileInputStream(asset.fileDescriptor).channel.map(MapMode.READ_ONLY, asset.startOffset, asset.length)
}
