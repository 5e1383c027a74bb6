// ./selection FOLDER CALLS HEIGHT WIDTH CLASSES SCORE NMS PER_CLASS DETECTIONS: for each score threshold on standard input
// the processor milliseconds of post-processing the decoded outputs in FOLDER, and how many detections that gives.
// benchmarks/selection.py builds, writes and asks.
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "../examples/cpp/ssdlite.hpp"

namespace {

std::vector<float> read_floats(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    std::vector<float> values(static_cast<std::size_t>(file.tellg()) / sizeof(float));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
    return values;
}

}  // namespace

int main(int, char** argv) {
    const std::string folder = argv[1];
    const int calls = std::stoi(argv[2]), classes = std::stoi(argv[5]);
    ssdlite::CropWindow window;
    window.height = std::stoi(argv[3]);
    window.width = std::stoi(argv[4]);
    ssdlite::PostprocessSpec spec;
    spec.score_threshold = std::stof(argv[6]);
    spec.nms_threshold = std::stod(argv[7]);
    spec.candidates_per_class = std::stoi(argv[8]);
    spec.max_detections = std::stoi(argv[9]);
    const std::vector<float> scores = read_floats(folder + "/scores.bin"), values = read_floats(folder + "/boxes.bin");
    for (float threshold = 0; std::cin >> threshold;) {
        std::size_t found = 0;
        const std::clock_t start = std::clock();
        for (int i = 0; i < calls; ++i) {
            const auto boxes = ssdlite::read_boxes(values, ssdlite::BoxSpec{}, window);
            found = ssdlite::select_detections(scores, boxes, classes, spec, threshold).size();
        }
        std::cout << 1000.0 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / calls << " " << found
                  << std::endl;
    }
}
