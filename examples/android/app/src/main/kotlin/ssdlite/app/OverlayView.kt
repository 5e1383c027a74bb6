package ssdlite.app

import android.content.Context
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.view.View
import java.util.Locale
import kotlin.math.min
import ssdlite.Detection

/** Draws boxes over a preview that is scaled to fit and centred, as the frames are. */
class OverlayView(context: Context) : View(context) {
    private val density = resources.displayMetrics.density
    private val line = Paint().apply {
        style = Paint.Style.STROKE
        strokeWidth = 2 * density
    }
    private val text = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = Color.WHITE
        textSize = 14 * density
        setShadowLayer(2 * density, 0f, 0f, Color.BLACK)
    }
    private var found = emptyList<Detection>()
    private var frameWidth = 1
    private var frameHeight = 1
    private var note = ""

    fun show(detections: List<Detection>, width: Int, height: Int, milliseconds: Long) {
        found = detections
        frameWidth = width
        frameHeight = height
        showText(context.getString(R.string.milliseconds, milliseconds))
    }

    fun showText(message: String) {
        note = message
        invalidate()
    }

    override fun onDraw(canvas: Canvas) {
        super.onDraw(canvas)
        val scale = min(width.toFloat() / frameWidth, height.toFloat() / frameHeight)
        val left = (width - frameWidth * scale) / 2
        val top = (height - frameHeight * scale) / 2
        for ((name, label, score, box) in found) {
            val x = left + box.x0 * scale
            val y = top + box.y0 * scale
            line.color = Color.HSVToColor(floatArrayOf(label * 137.5f % 360, 0.8f, 1f))
            canvas.drawRect(x, y, left + box.x1 * scale, top + box.y1 * scale, line)
            canvas.drawText(String.format(Locale.ROOT, "%s %.2f", name, score), x, y - 4 * density, text)
        }
        canvas.drawText(note, 16 * density, height - 32 * density, text)
    }
}
