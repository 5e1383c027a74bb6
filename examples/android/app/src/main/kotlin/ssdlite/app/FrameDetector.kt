package ssdlite.app

import android.content.Context
import android.graphics.Bitmap
import java.io.FileNotFoundException
import ssdlite.Contract
import ssdlite.Detection

/** The folder of app/src/main/assets that `ssdlite export --output` wrote. */
const val BUNDLE = "detector"

/** What runs the model; each flavor has its own `createDetector`. All calls come from one thread. */
interface FrameDetector : AutoCloseable {
    /** Detections in an upright ARGB_8888 frame, boxes in its pixels, from the operating threshold on. */
    fun detect(frame: Bitmap): List<Detection>
}

fun readContract(context: Context): Contract = try {
    Contract.parse(context.assets.open("$BUNDLE/contract.json").bufferedReader().use { it.readText() })
} catch (missing: FileNotFoundException) {
    val folder = "app/src/main/assets/$BUNDLE"
    throw IllegalStateException("no bundle in $folder: ssdlite export best.pt --target litert --output $folder", missing)
}
