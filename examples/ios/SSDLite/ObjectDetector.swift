import CoreML
import CoreVideo
import Foundation
import Vision

struct Detection: Identifiable {
    let id = UUID()
    let name: String
    let score: Float
    /// In fractions of the frame, from its upper left corner.
    let box: CGRect
}

enum DetectorError: LocalizedError {
    case noModel

    var errorDescription: String? {
        "No model in the app: ssdlite export best.pt --target coreml, then put nms_fp16.mlpackage into SSDLite/Models"
    }
}

/// Vision runs the package: it scales the frame, and the package suppresses what overlaps, names what is left, and keeps
/// what reaches its operating threshold.
final class ObjectDetector {
    private let request: VNCoreMLRequest

    init() throws {
        guard let url = Bundle.main.urls(forResourcesWithExtension: "mlmodelc", subdirectory: nil)?.first else {
            throw DetectorError.noModel
        }
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .all  // Neural Engine, GPU and CPU, as Core ML likes
        let model = try MLModel(contentsOf: url, configuration: configuration)
        request = VNCoreMLRequest(model: try VNCoreMLModel(for: model))
        request.imageCropAndScaleOption = .scaleFill  // stretched, as in training; the default crops
    }

    /// Detections in an upright frame.
    func detect(in frame: CVPixelBuffer) throws -> [Detection] {
        try VNImageRequestHandler(cvPixelBuffer: frame, orientation: .up).perform([request])
        let found = request.results as? [VNRecognizedObjectObservation] ?? []
        return found.compactMap { one in
            guard let label = one.labels.first else { return nil }
            let box = one.boundingBox  // Vision counts from the lower left corner
            let fromTop = CGRect(x: box.minX, y: 1 - box.maxY, width: box.width, height: box.height)
            return Detection(name: label.identifier, score: one.confidence, box: fromTop)
        }
    }
}
