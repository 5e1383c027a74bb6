package ssdlite.app

import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.core.Delegate
import com.google.mediapipe.tasks.vision.core.RunningMode
import com.google.mediapipe.tasks.vision.objectdetector.ObjectDetector
import ssdlite.Box
import ssdlite.Detection

fun createDetector(context: Context): FrameDetector = MediaPipeDetector(context)

/**
 * Labels and normalization are in the metadata of the file, which MediaPipe reads itself. So is the score threshold, which
 * its versions for Python and the web do not keep to; so it is given here, from the contract.
 */
class MediaPipeDetector(context: Context) : FrameDetector {
    private val detector: ObjectDetector

    init {
        val contract = readContract(context)
        val file = "$BUNDLE/${contract.model().file}"
        val base = BaseOptions.builder().setModelAssetPath(file).setDelegate(Delegate.CPU).build()
        val options = ObjectDetector.ObjectDetectorOptions.builder()
            .setBaseOptions(base)
            .setRunningMode(RunningMode.IMAGE)
            .setScoreThreshold(contract.postprocess.operatingThreshold)
            .build()
        detector = ObjectDetector.createFromOptions(context, options)
    }

    override fun detect(frame: Bitmap): List<Detection> {
        val result = detector.detect(BitmapImageBuilder(frame).build())
        return result.detections().map { found ->
            val best = found.categories().maxBy { it.score() }
            val box = with(found.boundingBox()) { Box(left, top, right, bottom) }
            Detection(best.categoryName(), best.index(), best.score(), box)
        }
    }

    override fun close() = detector.close()
}
