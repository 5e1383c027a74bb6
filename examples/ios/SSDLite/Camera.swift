import AVFoundation
import SwiftUI

/// What was found in one frame.
struct Frame {
    let found: [Detection]
    let size: CGSize
    let milliseconds: Int
}

/// Takes pictures, has them looked at one by one, and publishes what is found; late frames are left out.
final class Camera: NSObject, ObservableObject {
    @Published private(set) var frame: Frame?
    @Published private(set) var problem: String?

    let session = AVCaptureSession()
    private let output = AVCaptureVideoDataOutput()
    private let queue = DispatchQueue(label: "org.ssdlite.frames")
    private var detector: ObjectDetector?  // made and used on the queue
    private var rotation: AVCaptureDevice.RotationCoordinator?
    private var observation: NSKeyValueObservation?

    /// Preview and frames turn together with the device, so that frames come upright.
    func start(previewLayer: AVCaptureVideoPreviewLayer) async {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            return await show("The camera is needed to detect objects in what it sees.")
        }
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: .back),
            let input = try? AVCaptureDeviceInput(device: device)
        else { return await show("This device has no camera that can be used.") }
        configure(input)
        await follow(device, previewLayer)
        queue.async { [self] in
            do {
                detector = try ObjectDetector()
            } catch {
                Task { await show(error.localizedDescription) }
            }
            session.startRunning()
        }
    }

    private func configure(_ input: AVCaptureDeviceInput) {
        session.beginConfiguration()
        session.sessionPreset = .vga640x480
        if session.canAddInput(input) { session.addInput(input) }
        output.alwaysDiscardsLateVideoFrames = true
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.setSampleBufferDelegate(self, queue: queue)
        if session.canAddOutput(output) { session.addOutput(output) }
        session.commitConfiguration()
    }

    @MainActor
    private func follow(_ device: AVCaptureDevice, _ previewLayer: AVCaptureVideoPreviewLayer) {
        let coordinator = AVCaptureDevice.RotationCoordinator(device: device, previewLayer: previewLayer)
        rotation = coordinator
        observation = coordinator.observe(\.videoRotationAngleForHorizonLevelPreview, options: [.initial, .new]) {
            [weak self] coordinator, _ in
            let angle = coordinator.videoRotationAngleForHorizonLevelPreview
            for connection in [previewLayer.connection, self?.output.connection(with: .video)].compactMap({ $0 })
            where connection.isVideoRotationAngleSupported(angle) {
                connection.videoRotationAngle = angle
            }
        }
    }

    @MainActor
    private func show(_ text: String) {
        problem = text
    }
}

extension Camera: AVCaptureVideoDataOutputSampleBufferDelegate {
    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer, from connection: AVCaptureConnection
    ) {
        guard let detector, let pixels = CMSampleBufferGetImageBuffer(sampleBuffer) else { return }
        let started = DispatchTime.now().uptimeNanoseconds
        do {
            let found = try detector.detect(in: pixels)
            let milliseconds = Int((DispatchTime.now().uptimeNanoseconds - started) / 1_000_000)
            let size = CGSize(width: CVPixelBufferGetWidth(pixels), height: CVPixelBufferGetHeight(pixels))
            DispatchQueue.main.async { self.frame = Frame(found: found, size: size, milliseconds: milliseconds) }
        } catch {
            DispatchQueue.main.async { self.problem = error.localizedDescription }
        }
    }
}
