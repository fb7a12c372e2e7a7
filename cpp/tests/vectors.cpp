// Checks the core against vectors that Python wrote.
//
//     vectors FOLDER
//
// FOLDER holds any number of cases of each kind, `window-0.npz`, `window-1.npz` and so on.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>

#include "check.hpp"
#include "half.hpp"
#include "click_update.hpp"
#include "npz.hpp"
#include "label_fusion.hpp"
#include "image_refiner.hpp"
#include "window.hpp"
#include "window_selection.hpp"

namespace {

using namespace gstk::impl;

class Case {
  public:
    explicit Case(std::string path) : path_(std::move(path)) {}

    bool exists() const { return std::filesystem::exists(path_); }
    Array array(const std::string& key) const { return read_array(path_, key); }

    template <class T>
    std::vector<T> values(const std::string& key) const {
        const Array found = array(key);
        std::vector<T> result(found.bytes.size() / sizeof(T));
        if (!result.empty()) std::memcpy(result.data(), found.bytes.data(), found.bytes.size());
        return result;
    }
    template <class T>
    Grid<T> grid(const std::string& key) const {
        const Array found = array(key);
        Grid<T> result;
        std::copy_n(found.shape.begin(), 3, result.shape.begin());
        result.values = values<T>(key);
        return result;
    }
    template <class Three, class T = typename Three::value_type>
    Three three(const std::string& key) const {
        const auto found = values<T>(key);
        return {found.at(0), found.at(1), found.at(2)};
    }
    Volume volume() const {
        auto found = std::make_shared<Array>(array("volume"));
        const Shape shape{found->shape[0], found->shape[1], found->shape[2]};
        return {Geometry(shape, {1, 1, 1}), found->dtype, {found, found->bytes.data()}};
    }
    Window window(const std::string& prefix = "") const {
        return {three<Triple>(prefix + "start"), three<Triple>(prefix + "step"), three<Shape>(prefix + "shape")};
    }
    Geometry geometry() const { return Geometry(three<Shape>("volume_shape"), three<Triple>("spacing")); }
    WindowPolicy policy() const {
        const auto found = values<double>("policy");
        return {static_cast<std::int64_t>(found.at(0)), static_cast<std::int64_t>(found.at(1)),
                static_cast<std::int64_t>(found.at(2)), found.at(3), found.at(4)};
    }
    // `points`: z y x foreground each. `box`: first and last voxel and z_mid, or nothing.
    ObjectPrompts prompts() const {
        const auto flat = values<std::int64_t>("points"), box = values<std::int64_t>("box");
        ObjectPrompts found;
        for (std::size_t i = 0; i + 3 < flat.size(); i += 4)
            found.points.push_back({{flat[i], flat[i + 1], flat[i + 2]}, flat[i + 3] != 0});
        if (!box.empty()) found.box = Box{{box[0], box[1], box[2]}, {box[3], box[4], box[5]}, box[6]};
        return found;
    }
    Region region(const std::string& key) const {
        const auto found = values<std::int64_t>(key);
        return {{found.at(0), found.at(1), found.at(2)}, {found.at(3), found.at(4), found.at(5)}};
    }

  private:
    std::string path_;
};

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) return 1e30;
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, static_cast<double>(std::abs(a[i] - b[i])));
    return largest;
}

void range_case(const Case& c, double&) {
    const auto expected = c.values<double>("expected");
    const auto found = intensity_range(c.volume());
    CHECK(found.low == expected.at(0));
    CHECK(found.high == expected.at(1));
}

void frame_case(const Case& c, double&) {
    const Window found = frame(c.geometry(), {c.three<Triple>("low"), c.three<Triple>("high")}, c.policy());
    const Window expected = c.window();
    CHECK(found.start == expected.start);
    CHECK(found.step == expected.step);
    CHECK(found.shape == expected.shape);
}

void sample_case(const Case& c, double& worst) {
    const auto range = c.values<double>("range");
    const Grid<float> found = c.window().sample(c.volume(), {range.at(0), range.at(1)}),
                      expected = c.grid<float>("expected");
    CHECK(found.shape == expected.shape);
    worst = std::max(worst, largest_difference(found.values, expected.values));
}

void back_case(const Case& c, double& worst) {
    const auto volume_shape = c.three<Shape>("volume_shape");
    CHECK(c.window().inside(volume_shape) == c.region("inside"));
    const Grid<float> found = c.window().back(c.grid<float>("values"), volume_shape),
                      expected = c.grid<float>("expected");
    CHECK(found.shape == expected.shape);
    worst = std::max(worst, largest_difference(found.values, expected.values));
}

void points_case(const Case& c, double& worst) {
    const auto points = c.values<double>("points");
    const auto expected = c.values<float>("expected");
    const auto held = c.values<std::uint8_t>("held");
    for (std::size_t i = 0; i < held.size(); ++i) {
        const Triple at{points[3 * i], points[3 * i + 1], points[3 * i + 2]};
        const auto found = c.window().to_window(at);
        for (std::size_t a = 0; a < 3; ++a)
            worst = std::max(worst, static_cast<double>(std::abs(found[a] - expected[3 * i + a])));
        CHECK(c.window().holds(at) == (held[i] != 0));
    }
}

void components_case(const Case& c, double&) {
    const auto flat = c.values<float>("points");
    std::vector<std::array<float, 3>> points;
    for (std::size_t i = 0; i + 2 < flat.size(); i += 3) points.push_back({flat[i], flat[i + 1], flat[i + 2]});
    CHECK(clicked_components(c.grid<std::uint8_t>("mask"), points).values == c.values<std::uint8_t>("expected"));
}

template <void (*change)(Logits&, const ObjectPrompts&)>
void logits_case(const Case& c, double& worst) {
    Logits logits{c.region("region"), c.grid<float>("values")};
    change(logits, c.prompts());
    worst = std::max(worst, largest_difference(logits.values.values, c.values<float>("expected")));
}

void click_case(const Case& c, double& worst) {
    const auto click = c.values<std::int64_t>("click"), others = c.values<std::int64_t>("opposite");
    const Point point{{click.at(0), click.at(1), click.at(2)}, click.at(3) != 0};
    ClickScope scope{point, {}, c.three<Triple>("spacing"), click.at(4) != 0};
    for (std::size_t i = 0; i + 2 < others.size(); i += 3)
        scope.opposite.push_back({others[i], others[i + 1], others[i + 2]});
    const Logits before{c.region("before_region"), c.grid<float>("before")};
    const Logits after{c.region("after_region"), c.grid<float>("after")};
    const Logits found = apply_click(scope, before, after);
    CHECK(found.region == c.region("region"));
    worst = std::max(worst, largest_difference(found.values.values, c.values<float>("expected")));
}

LocalPrompts local_prompts_of(const Case& c) {
    const auto flat = c.values<double>("points"), box = c.values<double>("box");  // z y x foreground; low, high
    LocalPrompts prompts;
    for (std::size_t i = 0; i + 3 < flat.size(); i += 4)
        (flat[i + 3] > 0 ? prompts.foreground : prompts.background).push_back({flat[i], flat[i + 1], flat[i + 2]});
    if (!box.empty()) prompts.box = Faces{{box[0], box[1], box[2]}, {box[3], box[4], box[5]}};
    return prompts;
}

void fine_case(const Case& c, double&) {
    const Geometry geometry({300, 300, 300}, c.three<Triple>("spacing"));
    const FinePart found = fine_part(geometry, c.window(), local_prompts_of(c));
    CHECK(found.voxels == c.region("expected"));
    CHECK(found.finer == c.values<std::int64_t>("expected").at(6));
    const Window part = c.window().part(found.voxels, found.finer);
    CHECK(part.start == c.three<Triple>("part_start"));
    CHECK(part.step == c.three<Triple>("part_step"));
    CHECK(part.shape == c.three<Shape>("part_shape"));
}

void refine_case(const Case& c, double& worst) {
    const auto found = refine_logits(c.grid<float>("image"), c.grid<float>("logits"), local_prompts_of(c));
    worst = std::max(worst, largest_difference(found.values, c.values<float>("expected")));
}

void initial_case(const Case& c, double&) {
    CHECK(first_window(c.geometry(), c.prompts(), c.policy()) == c.window());
}

void adapt_case(const Case& c, double&) {
    const auto found = adapt_window(c.geometry(), c.window(), c.grid<float>("logits"), c.prompts(), c.policy());
    CHECK(found.has_value() == (c.values<std::int64_t>("expected").at(0) != 0));
    if (found) CHECK(*found == c.window("adapted_"));
}

void half_case(const Case& c, double&) {
    const auto halves = c.values<std::uint16_t>("halves");
    const auto expected = c.values<float>("expected");
    const auto floats = c.values<float>("floats");
    for (std::size_t i = 0; i < halves.size(); ++i) {
        CHECK(from_half(halves[i]) == expected[i]);
        CHECK(to_half(floats[i]) == halves[i]);
    }
}

void labels_case(const Case& c, double&) {
    std::map<std::int64_t, ObjectLogits> objects;
    for (const std::int64_t id : c.values<std::int64_t>("ids")) {
        const std::string key = std::to_string(id);
        ObjectLogits object{
            std::make_shared<const Logits>(Logits{c.region(key + "_region"), c.grid<float>(key + "_values")}), {}, {}};
        const auto clicks = c.values<std::int64_t>(key + "_clicks"),
                   centre = c.values<std::int64_t>(key + "_box_centre");
        for (std::size_t i = 0; i + 2 < clicks.size(); i += 3)
            object.clicks.push_back({clicks[i], clicks[i + 1], clicks[i + 2]});
        if (!centre.empty()) object.box_centre = Voxel{centre[0], centre[1], centre[2]};
        objects.emplace(id, std::move(object));
    }
    CHECK(label_map(c.geometry(), objects).values == c.values<std::uint16_t>("expected"));
}

void nearest_case(const Case& c, double&) {
    const auto found = c.window().nearest(c.grid<float>("values"), c.three<Shape>("volume_shape"));
    CHECK(found.shape == c.grid<float>("expected").shape);
    CHECK(found.values == c.values<float>("expected"));
}

void fallback_case(const Case& c, double&) {
    std::optional<Logits> before;
    if (!c.values<double>("before_region").empty()) before = Logits{c.region("before_region"), c.grid<float>("before")};
    const Logits found = fallback_mask(c.prompts(), c.geometry(), before ? &*before : nullptr);
    CHECK(found.region == c.region("region"));
    CHECK(found.values.values == c.values<float>("expected"));
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return 2;
    const struct {
        const char* name;
        void (*run)(const Case&, double&);
        double tolerance;  // float32 sums in another order
    } kinds[] = {{"range", range_case, 0},
                 {"frame", frame_case, 0},
                 {"sample", sample_case, 1e-6},
                 {"back", back_case, 4e-6},
                 {"points", points_case, 0},
                 {"components", components_case, 0},
                 {"keep", logits_case<keep_clicked_components>, 0},
                 {"enforce", logits_case<enforce_clicks>, 0},
                 {"click", click_case, 0},
                 {"refine", refine_case, 1e-4},
                 {"initial", initial_case, 0},
                 {"adapt", adapt_case, 0},
                 {"half", half_case, 0},
                 {"nearest", nearest_case, 0},
                 {"fallback", fallback_case, 0},
                 {"fine", fine_case, 0},
                 {"labels", labels_case, 0}};
    for (const auto& kind : kinds) {
        int cases = 0;
        double worst = 0;
        for (;; ++cases) {
            const Case c(std::string(arguments[1]) + "/" + kind.name + "-" + std::to_string(cases) + ".npz");
            if (!c.exists()) break;
            kind.run(c, worst);
        }
        CHECK(cases > 0);
        CHECK(worst <= kind.tolerance);
        std::printf("%s: %d cases, largest difference %.3g\n", kind.name, cases, worst);
    }
    return failures() ? 1 : 0;
}
