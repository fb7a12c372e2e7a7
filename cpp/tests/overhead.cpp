// What gstk adds to OpenVINO's own call: seconds of a decode by a bare request, by the engine, and of a whole click.
//
//     overhead BUNDLE VOLUME Z Y X REPEATS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <gstk/gstk.hpp>
#include <openvino/runtime/core.hpp>

#include "openvino_rewrites.hpp"

namespace {

using Clock = std::chrono::steady_clock;

template <class Run>
double seconds(Run&& run) {
    const auto began = Clock::now();
    run();
    return std::chrono::duration<double>(Clock::now() - began).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 7) return 2;
    const std::string bundle = arguments[1];
    gstk::Engine engine(bundle);
    gstk::Session session(engine);
    session.set_image(gstk::Volume::read(arguments[2]));
    const gstk::Triple click{std::atof(arguments[3]), std::atof(arguments[4]), std::atof(arguments[5])};
    session.add_point(click);
    const gstk::Window window = session.window();
    const auto side = [&](int a) { return static_cast<std::size_t>(window.shape[a]); };
    const std::size_t voxels = side(0) * side(1) * side(2);

    ov::Core core;
    core.set_property("CPU", ov::AnyMap{{"SNIPPETS_MODE", "DISABLE"}});  // as the engine has it
    const auto model = core.read_model(bundle + "/prompt_decoder.onnx");
    model->reshape(std::map<std::string, ov::PartialShape>{{"point_coords", {1, -1, 3}}, {"point_labels", {1, -1}}});
    const auto channels = static_cast<std::size_t>(model->input("embedding").get_partial_shape()[1].get_length());
    gstk::impl::take_channels_last(model);
    gstk::impl::convolve_last_product(model);
    gstk::impl::add_to_row(model);
    gstk::impl::upsample_tokens(model);
    gstk::impl::softmax_over_rows(model);
    gstk::impl::split_instance_norms(model, engine.describe().roi_multiple, true);
    const ov::AnyMap config{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                            ov::hint::inference_precision(ov::element::f32)};
    auto request = core.compile_model(model, "CPU", config).create_infer_request();
    ov::Tensor features(ov::element::f32, {1, side(0) / 2, side(1) / 2, side(2) / 2, channels});
    std::fill_n(features.data<float>(), features.get_size(), 0.1f);
    ov::Tensor coords(ov::element::f32, {1, 2, 3}), labels(ov::element::i64, {1, 2});
    std::fill_n(coords.data<float>(), 6, 8.0f);
    std::fill_n(labels.data<std::int64_t>(), 2, 1);
    request.set_tensor("embedding", features);
    request.set_tensor("point_coords", coords);
    request.set_tensor("point_labels", labels);

    gstk_embedding* embedding = nullptr;
    const std::vector<float> image(voxels, 0.5f);
    std::vector<float> logits(voxels);
    gstk::check(gstk_engine_encode(engine.get(), image.data(), window.shape, &embedding));
    const auto decode = [&] {
        gstk::check(gstk_engine_decode(engine.get(), embedding, coords.data<float>(), labels.data<std::int64_t>(), 1, 2,
                                       logits.data(), voxels));
    };
    const auto draw = [&] { session.mask(session.add_point(click)); };
    request.infer();
    decode();
    draw();
    std::vector<double> bare, engines, clicks;
    for (int i = 0; i < std::atoi(arguments[6]); ++i) {  // in turn, so that the machine's moods meet all alike
        bare.push_back(seconds([&] { request.infer(); }));
        engines.push_back(seconds(decode));
        session.reset();
        session.add_point(click);  // two points, as above, from here on
        clicks.push_back(seconds(draw));
    }
    std::printf("{\"window\": [%zu, %zu, %zu], \"bare_s\": %.6f, \"engine_s\": %.6f, \"click_s\": %.6f}\n", side(0),
                side(1), side(2), median(bare), median(engines), median(clicks));
    gstk::check(gstk_embedding_close(embedding));
    return 0;
}
