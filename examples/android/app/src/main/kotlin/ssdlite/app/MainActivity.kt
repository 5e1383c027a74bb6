package ssdlite.app

import android.Manifest.permission.CAMERA
import android.content.pm.PackageManager.PERMISSION_GRANTED
import android.os.Bundle
import android.os.SystemClock
import android.widget.FrameLayout
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts.RequestPermission
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.core.Preview
import androidx.camera.core.resolutionselector.AspectRatioStrategy
import androidx.camera.core.resolutionselector.ResolutionSelector
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import java.util.concurrent.Executors

/** Shows what the camera sees, with boxes around what is detected. */
class MainActivity : ComponentActivity() {
    private val executor = Executors.newSingleThreadExecutor()
    private val detector = lazy { createDetector(this) } // made and used on the executor's thread
    private lateinit var previewView: PreviewView
    private lateinit var overlay: OverlayView
    private lateinit var analysis: ImageAnalysis

    private val askForCamera = registerForActivityResult(RequestPermission()) { granted ->
        if (granted) startCamera() else overlay.showText(getString(R.string.camera_needed))
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        previewView = PreviewView(this).apply { scaleType = PreviewView.ScaleType.FIT_CENTER }
        overlay = OverlayView(this)
        val layout = FrameLayout(this)
        layout.addView(previewView)
        layout.addView(overlay)
        setContentView(layout)
        if (checkSelfPermission(CAMERA) == PERMISSION_GRANTED) startCamera() else askForCamera.launch(CAMERA)
    }

    override fun onDestroy() {
        super.onDestroy()
        executor.execute { if (detector.isInitialized()) detector.value.close() }
        executor.shutdown()
    }

    private fun startCamera() {
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener({ bindCamera(provider.get()) }, ContextCompat.getMainExecutor(this))
    }

    /** Preview and analysis show the same part of what the camera sees: both 4:3, neither cropped. */
    private fun bindCamera(provider: ProcessCameraProvider) {
        val resolution = ResolutionSelector.Builder()
            .setAspectRatioStrategy(AspectRatioStrategy.RATIO_4_3_FALLBACK_AUTO_STRATEGY)
            .build()
        val preview = Preview.Builder().setResolutionSelector(resolution).build()
        preview.setSurfaceProvider(previewView.surfaceProvider)
        analysis = ImageAnalysis.Builder()
            .setResolutionSelector(resolution)
            .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
            .setOutputImageRotationEnabled(true) // frames come upright, however the phone is held
            .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
            .build()
        analysis.setAnalyzer(executor, ::analyze)
        provider.unbindAll()
        provider.bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, preview, analysis)
    }

    private fun analyze(image: ImageProxy) {
        val frame = image.use { it.toBitmap() }
        val started = SystemClock.elapsedRealtime()
        val found = detector.value.detect(frame)
        val milliseconds = SystemClock.elapsedRealtime() - started
        runOnUiThread {
            overlay.show(found, frame.width, frame.height, milliseconds)
            previewView.display?.let { analysis.targetRotation = it.rotation } // also where the phone is turned over
        }
    }
}
