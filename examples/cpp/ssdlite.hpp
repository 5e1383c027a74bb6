// What an app has to do around an exported SSD-Lite model: picture -> input tensor, output tensors -> detections.
//
// One header, C++17, no libraries. The values of the structs come from the bundle's contract.json; read it with the
// JSON library of your app. The arithmetic is that of ssdlite's Python code: same resized pixels, same input tensor,
// same detections. `replay.cpp` runs it on a bundle's reference vectors.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ssdlite {

using Box = std::array<float, 4>;  // x0, y0, x1, y1

// 8-bit RGB, row by row from the top, upright; `pixels` has height * width * 3 bytes.
struct Picture {
    int height = 0;
    int width = 0;
    std::vector<std::uint8_t> pixels;
};

// contract.models[i].input
struct InputSpec {
    int height = 0;
    int width = 0;
    bool channels_first = true;  // layout NCHW, otherwise NHWC
    bool bgr = false;            // color_order
    std::array<float, 3> mean = {0, 0, 0};
    std::array<float, 3> std = {1, 1, 1};
};

// contract.postprocess
struct PostprocessSpec {
    bool sigmoid = false;  // score_function, otherwise softmax
    float score_threshold = 0;
    double nms_threshold = 0;
    int candidates_per_class = 0;
    int max_detections = 0;
    float operating_threshold = 0.3F;  // the score_threshold of an app
};

// contract.anchors, for raw models; `values` are centre x, centre y, width, height as fractions of the input
struct AnchorSpec {
    bool distances = false;  // box_code, otherwise center_size
    std::array<double, 4> box_code_scales = {1, 1, 1, 1};
    double max_log_scale = 0;
    std::vector<std::array<double, 4>> values;
};

// contract.models[i].boxes where it is there, otherwise contract.boxes
struct BoxSpec {
    bool yxyx = false;
    bool pixels = false;  // of the input, otherwise fractions of its width and height
};

// The rectangle of a picture, in its pixels, that fills an input of height x width.
struct CropWindow {
    int x0 = 0, y0 = 0, x1 = 0, y1 = 0;
    int height = 0, width = 0;
};

struct Detection {
    int label = 0;  // index of contract.class_names
    float score = 0;
    Box box = {0, 0, 0, 0};
};

namespace detail {

constexpr int kCoefficientOne = 2048;  // resizing weights are integers, in 1/2048
constexpr double kScoreStep = 1.0 / (1 << 24);  // of float just below 1
constexpr double kLogitMargin = 1e-3;           // for rounding

// To the nearest whole number, halves to the even one (the processor's default rounding).
inline int round_half_even(double value) { return static_cast<int>(std::nearbyint(value)); }

struct AxisWeights {
    std::vector<int> low, high, weight_low, weight_high;
};

// Per target position the two source positions and their weights. Along rows the weights at the edge stay as they are
// (both rows are then the same); along columns the outer pixel takes it all.
inline AxisWeights axis_weights(int source, int target, bool clamp_weights) {
    const double scale = 1.0 / (static_cast<double>(target) / source);
    AxisWeights weights;
    for (int i = 0; i < target; ++i) {
        const float position = static_cast<float>((i + 0.5) * scale - 0.5);
        int low = static_cast<int>(std::floor(position));
        float fraction = position - static_cast<float>(low);
        if (clamp_weights && (low < 0 || low >= source - 1)) {
            fraction = 0;
            low = low < 0 ? 0 : source - 1;
        }
        weights.low.push_back(std::clamp(low, 0, source - 1));
        weights.high.push_back(std::clamp(low + 1, 0, source - 1));
        weights.weight_low.push_back(round_half_even((1.0F - fraction) * kCoefficientOne));
        weights.weight_high.push_back(round_half_even(fraction * kCoefficientOne));
    }
    return weights;
}

inline void resize_row(const Picture& picture, int row, const AxisWeights& columns, std::vector<int>& sums) {
    const std::uint8_t* source = picture.pixels.data() + static_cast<std::size_t>(row) * picture.width * 3;
    for (std::size_t x = 0; x < columns.low.size(); ++x) {
        for (int c = 0; c < 3; ++c) {
            const int low = source[columns.low[x] * 3 + c];
            const int high = source[columns.high[x] * 3 + c];
            sums[x * 3 + c] = (low * columns.weight_low[x] + high * columns.weight_high[x]) >> 4;
        }
    }
}

inline Picture halve(const Picture& picture) {
    Picture result{picture.height / 2, picture.width / 2, {}};
    const std::size_t stride = static_cast<std::size_t>(picture.width) * 3;
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            for (int c = 0; c < 3; ++c) {
                const std::uint8_t* at = picture.pixels.data() + 2 * y * stride + 6 * x + c;
                const int sum = at[0] + at[3] + at[stride] + at[stride + 3];
                result.pixels.push_back(static_cast<std::uint8_t>((sum + 2) >> 2));
            }
        }
    }
    return result;
}

inline float shared_side(float low_a, float low_b, float high_a, float high_b) {
    return std::max(std::min(high_a, high_b) - std::max(low_a, low_b), 0.0F);
}

// Up to it no logit has a score of score_threshold: a sigmoid's own, a softmax's less that of background.
inline double logit_bound(float score_threshold) {
    const double below = score_threshold - kScoreStep;
    if (below <= 0) return -std::numeric_limits<double>::infinity();
    return std::log(below / (1 - below)) - kLogitMargin;
}

}  // namespace detail

// Bilinear resize, bit for bit as OpenCV's INTER_LINEAR on 8-bit pictures: half-pixel centres, the four nearest pixels,
// no smoothing. Weights are rounded to 1/2048; the horizontal sum is kept in 1/2048 less 4 bits, the vertical one
// rounded from there. Exactly half the size is the mean of 2 x 2 pixels.
inline Picture resize_bilinear(const Picture& picture, int height, int width) {
    if (picture.height == height && picture.width == width) return picture;
    if (picture.height == 2 * height && picture.width == 2 * width) return detail::halve(picture);
    const detail::AxisWeights columns = detail::axis_weights(picture.width, width, true);
    const detail::AxisWeights rows = detail::axis_weights(picture.height, height, false);
    Picture result{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(height) * width * 3)};
    std::array<std::vector<int>, 2> sums = {std::vector<int>(width * 3), std::vector<int>(width * 3)};
    std::array<int, 2> held = {-1, -1};  // the two source rows whose sums are there
    std::uint8_t* target = result.pixels.data();
    for (int y = 0; y < height; ++y) {
        const std::array<int, 2> wanted = {rows.low[y], rows.high[y]};
        if (held[1] == wanted[0]) {
            std::swap(sums[0], sums[1]);
            std::swap(held[0], held[1]);
        }
        for (int i = 0; i < 2; ++i) {
            if (held[i] != wanted[i]) detail::resize_row(picture, wanted[i], columns, sums[i]);
            held[i] = wanted[i];
        }
        for (int i = 0; i < width * 3; ++i) {
            const int value = ((rows.weight_low[y] * sums[0][i]) >> 16) + ((rows.weight_high[y] * sums[1][i]) >> 16);
            *target++ = static_cast<std::uint8_t>((value + 2) >> 2);
        }
    }
    return result;
}

// The crop window that shows a whole picture: stretched to the input, or keeping its shape, centred (letterbox).
inline CropWindow fit_window(const Picture& picture, int height, int width, bool letterbox) {
    if (!letterbox) return {0, 0, picture.width, picture.height, height, width};
    const double scale =
        std::min(static_cast<double>(height) / picture.height, static_cast<double>(width) / picture.width);
    const int window_width = std::max(detail::round_half_even(width / scale), picture.width);
    const int window_height = std::max(detail::round_half_even(height / scale), picture.height);
    const int left = (window_width - picture.width) / 2;
    const int top = (window_height - picture.height) / 2;
    return {-left, -top, window_width - left, window_height - top, height, width};
}

// What a crop window shows of a picture, window.height x window.width; outside the picture is padding.
inline Picture render(const CropWindow& window, const Picture& picture, std::uint8_t padding) {
    const double scale_x = static_cast<double>(window.width) / (window.x1 - window.x0);
    const double scale_y = static_cast<double>(window.height) / (window.y1 - window.y0);
    const int left = detail::round_half_even(-window.x0 * scale_x);
    const int right = detail::round_half_even((picture.width - window.x0) * scale_x);
    const int top = detail::round_half_even(-window.y0 * scale_y);
    const int bottom = detail::round_half_even((picture.height - window.y0) * scale_y);
    if (left == 0 && top == 0 && right == window.width && bottom == window.height) {
        return resize_bilinear(picture, window.height, window.width);
    }
    const std::size_t size = static_cast<std::size_t>(window.height) * window.width * 3;
    Picture canvas{window.height, window.width, std::vector<std::uint8_t>(size, padding)};
    if (right <= left || bottom <= top) return canvas;
    const Picture inner = resize_bilinear(picture, bottom - top, right - left);
    for (int y = 0; y < inner.height; ++y) {
        const auto row = inner.pixels.begin() + static_cast<std::ptrdiff_t>(y) * inner.width * 3;
        const auto place = (static_cast<std::ptrdiff_t>(top + y) * window.width + left) * 3;
        std::copy(row, row + static_cast<std::ptrdiff_t>(inner.width) * 3, canvas.pixels.begin() + place);
    }
    return canvas;
}

// A resized picture -> the input tensor, flat: (value - mean) / std. T is std::uint8_t, std::int8_t or float, as the contract says.
template <typename T>
std::vector<T> to_tensor(const Picture& resized, const InputSpec& spec) {
    const std::size_t plane = static_cast<std::size_t>(spec.height) * spec.width;
    if (resized.pixels.size() != plane * 3) throw std::invalid_argument("the picture has not the input's size");
    std::vector<T> tensor(plane * 3);
    for (int channel = 0; channel < 3; ++channel) {
        const int source = spec.bgr ? 2 - channel : channel;
        for (std::size_t i = 0; i < plane; ++i) {
            const float value = resized.pixels[i * 3 + source];
            const std::size_t at = spec.channels_first ? channel * plane + i : i * 3 + channel;
            tensor[at] = static_cast<T>((value - spec.mean[channel]) / spec.std[channel]);
        }
    }
    return tensor;
}

// logits [A, classes + 1] -> scores [A, classes] without background (slot 0); 0 at anchors where none reaches
// score_threshold.
inline std::vector<float> class_scores(const std::vector<float>& logits, int classes, bool sigmoid,
                                       float score_threshold = 0) {
    const std::size_t anchors = logits.size() / (classes + 1);
    const double bound = detail::logit_bound(score_threshold);
    std::vector<float> scores(anchors * classes);
    for (std::size_t a = 0; a < anchors; ++a) {
        const float* row = logits.data() + a * (classes + 1);
        float best = -std::numeric_limits<float>::infinity();
        for (int k = 1; k <= classes; ++k) best = row[k] > best ? row[k] : best;  // past what is no number
        if (!((sigmoid ? best : static_cast<double>(best) - row[0]) > bound)) continue;
        const float highest = std::max(best, row[0]);
        double sum = 0;
        for (int k = 0; k <= classes; ++k) sum += std::exp(static_cast<double>(row[k]) - highest);
        for (int k = 0; k < classes; ++k) {
            const double value = row[k + 1];
            scores[a * classes + k] =
                static_cast<float>(sigmoid ? 1 / (1 + std::exp(-value)) : std::exp(value - highest) / sum);
        }
    }
    return scores;
}

// Box deltas [A, 4] of a raw model -> boxes in input pixels, within the input.
inline std::vector<Box> decode_boxes(const std::vector<float>& deltas, const AnchorSpec& anchors,
                                     const CropWindow& window) {
    if (deltas.size() != anchors.values.size() * 4) throw std::invalid_argument("deltas and anchors differ in number");
    const std::array<double, 2> size = {static_cast<double>(window.width), static_cast<double>(window.height)};
    std::vector<Box> boxes(anchors.values.size());
    for (std::size_t a = 0; a < boxes.size(); ++a) {
        for (int axis = 0; axis < 2; ++axis) {
            const double place = anchors.values[a][axis], side = anchors.values[a][2 + axis];
            const double first = deltas[4 * a + axis], second = deltas[4 * a + 2 + axis];
            double low = place - first * side, high = place + second * side;
            if (!anchors.distances) {
                const double centre = place + first / anchors.box_code_scales[axis] * side;
                const double growth = second / anchors.box_code_scales[2 + axis];
                const double half = 0.5 * side * std::exp(std::min(growth, anchors.max_log_scale));
                low = centre - half;
                high = centre + half;
            }
            boxes[a][axis] = static_cast<float>(std::clamp(low, 0.0, 1.0) * size[axis]);
            boxes[a][2 + axis] = static_cast<float>(std::clamp(high, 0.0, 1.0) * size[axis]);
        }
    }
    return boxes;
}

// Boxes [N, 4] of a decoded or nms model -> boxes in input pixels, within the input.
inline std::vector<Box> read_boxes(const std::vector<float>& values, const BoxSpec& spec, const CropWindow& window) {
    const float width = spec.pixels ? 1.0F : static_cast<float>(window.width);
    const float height = spec.pixels ? 1.0F : static_cast<float>(window.height);
    std::vector<Box> boxes(values.size() / 4);
    for (std::size_t i = 0; i < boxes.size(); ++i) {
        const float* v = values.data() + 4 * i;
        const Box box = spec.yxyx ? Box{v[1], v[0], v[3], v[2]} : Box{v[0], v[1], v[2], v[3]};
        for (int side = 0; side < 4; ++side) {
            const float most = static_cast<float>(side % 2 ? window.height : window.width);
            boxes[i][side] = std::clamp(box[side] * (side % 2 ? height : width), 0.0F, most);
        }
    }
    return boxes;
}

// Intersection over union.
inline double iou(const Box& a, const Box& b) {
    const double shared = static_cast<double>(detail::shared_side(a[0], b[0], a[2], b[2])) *
                          detail::shared_side(a[1], b[1], a[3], b[3]);
    const double area_a = static_cast<double>(a[2] - a[0]) * (a[3] - a[1]);
    const double area_b = static_cast<double>(b[2] - b[0]) * (b[3] - b[1]);
    return shared / (area_a + area_b - shared);
}

// Scores [A, classes] and boxes of all anchors in input pixels -> detections in input pixels, best first: threshold,
// the best candidates of each class, non-maximum suppression within each class, the best of what is left of all. A box
// only ever falls to better ones, so that score_threshold finds the same here as behind all that, in less time.
inline std::vector<Detection> select_detections(const std::vector<float>& scores, const std::vector<Box>& boxes,
                                                int classes, const PostprocessSpec& spec, float score_threshold = 0) {
    if (scores.size() != boxes.size() * classes) throw std::invalid_argument("scores and boxes differ in number");
    std::vector<std::size_t> candidates;
    for (std::size_t i = 0; i < scores.size(); ++i) {
        if (scores[i] > spec.score_threshold && scores[i] >= score_threshold) candidates.push_back(i);
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    std::vector<int> seen(classes);
    std::vector<std::vector<Box>> kept(classes);
    std::vector<Detection> found;
    for (const std::size_t index : candidates) {
        const int label = static_cast<int>(index % classes);
        if (seen[label]++ >= spec.candidates_per_class) continue;
        const Box& box = boxes[index / classes];
        const auto covers = [&](const Box& other) { return iou(other, box) > spec.nms_threshold; };
        if (std::any_of(kept[label].begin(), kept[label].end(), covers)) continue;
        kept[label].push_back(box);
        found.push_back({label, scores[index], box});
        if (found.size() == static_cast<std::size_t>(spec.max_detections)) break;
    }
    return found;
}

// The outputs of an nms model -> detections in input pixels.
inline std::vector<Detection> read_detections(const std::vector<Box>& boxes, const std::vector<float>& scores,
                                              const std::vector<std::int32_t>& labels, std::int32_t count) {
    std::vector<Detection> found;
    for (std::int32_t i = 0; i < count; ++i) found.push_back({labels.at(i), scores.at(i), boxes.at(i)});
    return found;
}

// Detections in input pixels -> in the picture's own, clipped to it, only those that score at least score_threshold:
// contract.postprocess.operating_threshold, unless the app has another.
inline std::vector<Detection> to_picture(const std::vector<Detection>& found, const CropWindow& window,
                                         int picture_height, int picture_width, float score_threshold) {
    const float scale_x = static_cast<float>(static_cast<double>(window.width) / (window.x1 - window.x0));
    const float scale_y = static_cast<float>(static_cast<double>(window.height) / (window.y1 - window.y0));
    const auto x = [&](float v) {
        return std::clamp(v / scale_x + static_cast<float>(window.x0), 0.0F, static_cast<float>(picture_width));
    };
    const auto y = [&](float v) {
        return std::clamp(v / scale_y + static_cast<float>(window.y0), 0.0F, static_cast<float>(picture_height));
    };
    std::vector<Detection> result;
    for (const Detection& one : found) {
        const Box box = {x(one.box[0]), y(one.box[1]), x(one.box[2]), y(one.box[3])};
        if (one.score < score_threshold || box[2] <= box[0] || box[3] <= box[1]) continue;
        result.push_back({one.label, one.score, box});
    }
    return result;
}

}  // namespace ssdlite
