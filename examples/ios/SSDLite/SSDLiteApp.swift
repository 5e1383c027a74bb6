import AVFoundation
import SwiftUI

@main
struct SSDLiteApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}

/// What the camera sees, with boxes around what is detected.
struct ContentView: View {
    @StateObject private var camera = Camera()

    var body: some View {
        ZStack(alignment: .bottom) {
            CameraPreview(camera: camera)
            if let frame = camera.frame { Boxes(frame: frame) }
            if let text = camera.problem ?? camera.frame.map({ "\($0.milliseconds) ms" }) {
                Text(text).foregroundStyle(.white).padding()
            }
        }
        .background(.black)
    }
}

/// Boxes over a preview that is scaled to fit and centred, as the frames are.
struct Boxes: View {
    let frame: Frame

    var body: some View {
        GeometryReader { geometry in
            let area = AVMakeRect(aspectRatio: frame.size, insideRect: CGRect(origin: .zero, size: geometry.size))
            ForEach(frame.found) { one in
                let width = one.box.width * area.width
                let height = one.box.height * area.height
                Rectangle()
                    .stroke(.yellow, lineWidth: 2)
                    .overlay(alignment: .topLeading) {
                        Text("\(one.name) \(one.score, specifier: "%.2f")").font(.caption).foregroundStyle(.yellow)
                    }
                    .frame(width: width, height: height)
                    .position(x: area.minX + one.box.midX * area.width, y: area.minY + one.box.midY * area.height)
            }
        }
    }
}

struct CameraPreview: UIViewRepresentable {
    let camera: Camera

    final class LayerView: UIView {
        override class var layerClass: AnyClass { AVCaptureVideoPreviewLayer.self }
    }

    func makeUIView(context: Context) -> LayerView {
        let view = LayerView()
        if let layer = view.layer as? AVCaptureVideoPreviewLayer {
            layer.session = camera.session
            layer.videoGravity = .resizeAspect
            Task { await camera.start(previewLayer: layer) }
        }
        return view
    }

    func updateUIView(_ view: LayerView, context: Context) {}
}
