// What examples/cpp makes of the cases on standard input, numbers alone: height, width, sigmoid, both thresholds, both
// limits, the asked threshold, anchors, classes; then the box code's scales, and of each anchor its corners, logits and deltas. For each
// case the number of detections, then their labels, scores and boxes.
#include <cmath>
#include <iomanip>
#include <iostream>
#include <limits>
#include <string>

#include "../../examples/cpp/ssdlite.hpp"

namespace {

double number() {
    std::string word;  // streams do not read infinity
    std::cin >> word;
    return std::stod(word);
}

int whole() { return static_cast<int>(number()); }

}  // namespace

int main() {
    std::cout << std::setprecision(std::numeric_limits<float>::max_digits10);
    while (std::cin >> std::ws && !std::cin.eof()) {
        ssdlite::CropWindow window;
        window.height = whole();
        window.width = whole();
        ssdlite::PostprocessSpec spec;
        spec.sigmoid = whole() != 0;
        spec.score_threshold = static_cast<float>(number());
        spec.nms_threshold = number();
        spec.candidates_per_class = whole();
        spec.max_detections = whole();
        const float asked = static_cast<float>(number());
        const int count = whole();
        const int classes = whole();
        ssdlite::AnchorSpec anchors;
        anchors.max_log_scale = std::log(1000.0 / 16.0);
        anchors.distances = whole() != 0;
        for (double& scale : anchors.box_code_scales) scale = number();
        std::vector<float> logits, deltas;
        for (int a = 0; a < count; ++a) {
            const double x0 = number(), y0 = number(), x1 = number(), y1 = number();
            anchors.values.push_back({(x0 + x1) / 2 / window.width, (y0 + y1) / 2 / window.height,
                                      (x1 - x0) / window.width, (y1 - y0) / window.height});
            for (int k = 0; k <= classes; ++k) logits.push_back(static_cast<float>(number()));
            for (int i = 0; i < 4; ++i) deltas.push_back(static_cast<float>(number()));
        }
        const auto scores = ssdlite::class_scores(logits, classes, spec.sigmoid, std::max(spec.score_threshold, asked));
        const auto boxes = ssdlite::decode_boxes(deltas, anchors, window);
        const auto found = ssdlite::select_detections(scores, boxes, classes, spec, asked);
        std::cout << found.size() << "\n";
        for (const auto& [label, score, box] : found) {
            std::cout << label << " " << score;
            for (const float side : box) std::cout << " " << side;
            std::cout << "\n";
        }
    }
}
