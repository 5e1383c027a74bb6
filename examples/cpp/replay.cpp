// python values.py BUNDLE | ./replay FOLDER
//
// Feeds the reference vectors of a bundle to the pre- and post-processing of ssdlite.hpp, each step alone, and writes what
// comes out to FOLDER, which must exist. `ssdlite verify BUNDLE --dump FOLDER` then says, step by step, whether it is
// right. Build: g++ -std=c++17 -O2 -ffp-contract=off -o replay replay.cpp
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <sstream>

#include "ssdlite.hpp"

namespace {

struct Model {
    std::string file, variant, type, layout;
    ssdlite::InputSpec input;
    ssdlite::BoxSpec boxes;
    bool has_integers = false;  // labels and count, which LiteRT has as floats
};

// What values.py prints, in its order.
struct Values {
    std::string golden;
    std::vector<std::string> names;  // as JSON strings, quotes included
    bool letterbox = false;
    int padding = 0;
    ssdlite::PostprocessSpec postprocess;
    ssdlite::AnchorSpec anchors;
    float score_threshold = 0;
    std::vector<Model> models;
    std::vector<std::pair<std::string, ssdlite::Picture>> pictures;
};

template <typename T>
std::vector<T> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::vector<T> values(static_cast<std::size_t>(file.tellg()) / sizeof(T));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
    return values;
}

template <typename T>
void write_file(const std::string& path, const std::vector<T>& values) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
    if (!file) throw std::runtime_error("cannot write " + path);
}

std::vector<std::int32_t> read_integers(const std::string& path, const Model& model) {
    if (model.has_integers) return read_file<std::int32_t>(path);
    std::vector<std::int32_t> values;
    for (const float value : read_file<float>(path)) values.push_back(static_cast<std::int32_t>(value));
    return values;
}

Model read_model(std::istream& in) {
    Model model;
    std::string order;
    in >> model.file >> model.variant >> model.type >> model.layout >> order >> model.input.height >> model.input.width;
    for (float& value : model.input.mean) in >> value;
    for (float& value : model.input.std) in >> value;
    in >> model.boxes.yxyx >> model.boxes.pixels >> model.has_integers;
    model.input.channels_first = model.layout == "NCHW";
    model.input.bgr = order == "BGR";
    return model;
}

Values read_values(std::istream& in) {
    Values v;
    std::size_t count = 0;
    std::getline(in, v.golden);
    in >> count >> std::ws;
    v.names.resize(count);
    for (std::string& name : v.names) std::getline(in, name);
    in >> v.letterbox >> v.padding;
    in >> v.postprocess.sigmoid >> v.postprocess.score_threshold >> v.postprocess.nms_threshold;
    in >> v.postprocess.candidates_per_class >> v.postprocess.max_detections >> v.score_threshold >> count;
    v.anchors.values.resize(count);
    if (count > 0) {
        in >> v.anchors.distances;
        for (double& scale : v.anchors.box_code_scales) in >> scale;
        in >> v.anchors.max_log_scale;
    }
    for (auto& anchor : v.anchors.values) {
        for (double& value : anchor) in >> value;
    }
    in >> count;
    while (v.models.size() < count && in) v.models.push_back(read_model(in));
    in >> count;
    while (v.pictures.size() < count && in) {
        std::string name;
        ssdlite::Picture picture;
        in >> name >> picture.height >> picture.width;
        picture.pixels = read_file<std::uint8_t>(v.golden + "/" + name + ".rgb.bin");
        v.pictures.emplace_back(name, picture);
    }
    if (!in) throw std::runtime_error("expected what values.py prints on standard input");
    return v;
}

// The reference outputs of a model -> detections in input pixels.
std::vector<ssdlite::Detection> detect(const Values& v, const Model& model, const std::string& name,
                                       const ssdlite::CropWindow& window) {
    const std::string start = v.golden + "/" + name + "." + model.file + ".";
    const int classes = static_cast<int>(v.names.size());
    if (model.variant == "raw") {
        const auto logits = read_file<float>(start + "class_logits.bin");
        const auto boxes = ssdlite::decode_boxes(read_file<float>(start + "box_deltas.bin"), v.anchors, window);
        const auto scores = ssdlite::class_scores(logits, classes, v.postprocess.sigmoid, v.score_threshold);
        return ssdlite::select_detections(scores, boxes, classes, v.postprocess, v.score_threshold);
    }
    const auto boxes = ssdlite::read_boxes(read_file<float>(start + "boxes.bin"), model.boxes, window);
    const auto scores = read_file<float>(start + "scores.bin");
    if (model.variant == "decoded") {
        return ssdlite::select_detections(scores, boxes, classes, v.postprocess, v.score_threshold);
    }
    const auto labels = read_integers(start + "labels.bin", model);
    return ssdlite::read_detections(boxes, scores, labels, read_integers(start + "count.bin", model).at(0));
}

void write_detections(const std::string& path, const std::vector<ssdlite::Detection>& found, const Values& v) {
    std::ofstream file(path);
    file << std::setprecision(std::numeric_limits<float>::max_digits10) << "[";
    for (std::size_t i = 0; i < found.size(); ++i) {
        const ssdlite::Detection& one = found[i];
        file << (i ? ",\n" : "\n") << "{\"name\": " << v.names.at(one.label) << ", \"label\": " << one.label
             << ", \"score\": " << one.score << ", \"box\": [" << one.box[0] << ", " << one.box[1] << ", "
             << one.box[2] << ", " << one.box[3] << "]}";
    }
    file << "]\n";
    if (!file) throw std::runtime_error("cannot write " + path);
}

void replay(const Values& v, const Model& model, const std::string& name, const ssdlite::Picture& picture,
            const std::string& folder) {
    const auto window = ssdlite::fit_window(picture, model.input.height, model.input.width, v.letterbox);
    const auto resized = ssdlite::render(window, picture, static_cast<std::uint8_t>(v.padding));
    write_file(folder + "/" + name + ".resized.bin", resized.pixels);

    const ssdlite::Picture golden{model.input.height, model.input.width,
                                  read_file<std::uint8_t>(v.golden + "/" + name + ".resized.bin")};
    const std::string tensor = folder + "/" + name + "." + model.type + "_" + model.layout + ".bin";
    if (model.type == "uint8") {
        write_file(tensor, ssdlite::to_tensor<std::uint8_t>(golden, model.input));
    } else if (model.type == "int8") {
        write_file(tensor, ssdlite::to_tensor<std::int8_t>(golden, model.input));
    } else {
        write_file(tensor, ssdlite::to_tensor<float>(golden, model.input));
    }

    const auto found = detect(v, model, name, window);
    const auto own = ssdlite::to_picture(found, window, picture.height, picture.width, v.score_threshold);
    write_detections(folder + "/" + name + "." + model.file + ".detections.json", own, v);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: python values.py BUNDLE | ./replay FOLDER\n";
        return 2;
    }
    try {
        const Values values = read_values(std::cin);
        for (const auto& [name, picture] : values.pictures) {
            for (const Model& model : values.models) replay(values, model, name, picture, argv[1]);
        }
        std::cout << values.pictures.size() << " pictures, " << values.models.size() << " models -> " << argv[1] << "\n";
    } catch (const std::exception& error) {
        std::cerr << "replay: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
