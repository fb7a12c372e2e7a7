// Checks what becomes of volumes on their way into the network against what Python made of them.
//
//     preparation FILE
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

#include "check.hpp"
#include "network_image.hpp"
#include "nifti_forms.hpp"

namespace {

using namespace gstk::impl;

const JsonFile kFile{GSTK_ERROR_CASE, "the vectors", "write them again"};

template <class T>
std::shared_ptr<const void> voxels_of(const Json& values) {
    auto voxels = std::make_shared<std::vector<T>>(values.get<std::vector<T>>());
    return {voxels, voxels->data()};
}

std::shared_ptr<const Volume> volume_of(const Json& given) {
    static const struct {
        const char* name;
        gstk_dtype dtype;
    } names[] = {{"u1", GSTK_UINT8}, {"i1", GSTK_INT8},   {"u2", GSTK_UINT16}, {"i2", GSTK_INT16},   {"u4", GSTK_UINT32},
                 {"i4", GSTK_INT32}, {"u8", GSTK_UINT64}, {"i8", GSTK_INT64},  {"f4", GSTK_FLOAT32}, {"f8", GSTK_FLOAT64}};
    const auto found = std::find_if(std::begin(names), std::end(names), [&](const auto& n) { return given["dtype"] == n.name; });
    const auto direction = given["direction"].get<std::array<double, 9>>();
    Matrix axes{};
    for (std::size_t i = 0; i < 9; ++i) axes[i / 3][i % 3] = direction[i];
    Volume volume{Geometry(given["shape"].get<Shape>(), given["spacing"].get<Triple>(), given["origin"].get<Triple>(), axes),
                  found->dtype, nullptr};
    volume.voxels = with_type(found->dtype, [&](auto* typed) {
        return voxels_of<std::remove_const_t<std::remove_pointer_t<decltype(typed)>>>(given["values"]);
    });
    volume.units = given["units"];
    volume.modality = given["modality"];
    volume.has_orientation = given["has_orientation"];
    return std::make_shared<const Volume>(std::move(volume));
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) return 1e30;
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, static_cast<double>(std::abs(a[i] - b[i])));
    return largest;
}

// The same, and if not a line that says where.
void check_same(const std::string& got, const std::string& expected) {
    CHECK(got == expected);
    if (got != expected) std::printf("    got      %s\n    expected %s\n", got.c_str(), expected.c_str());
}

void check_intensities(const Json& c) {
    const auto volume = volume_of(c["volume"]);
    const Profile profile = Profile::parse(Fields(c["profile"], kFile));
    try {
        const PreparedIntensities found = prepare_intensities(volume, profile, {c["intensity_window"], c["assume_window"]});
        CHECK(!c.contains("error"));
        if (c.contains("error")) return;
        check_same(found.words, c["words"]);
        check_same(joined(found.warnings.size()), joined(c["warnings"].size()));
        for (std::size_t i = 0; i < std::min(found.warnings.size(), c["warnings"].size()); ++i)
            check_same(found.warnings[i], c["warnings"][i]);
        CHECK(found.range->low == c["low"] && found.range->high == c["high"]);
        const Region whole{{}, volume->geometry.shape()};
        CHECK(largest_difference(normalise(*found.image, whole, *found.range).values,
                                 c["normalised"].get<std::vector<float>>()) <= 1e-6);
    } catch (const Error& error) {
        const Json expected = c.value("error", Json("none"));
        CHECK(expected == (error.code() == GSTK_ERROR_PROFILE ? "ProfileError" : "CaseError"));
        if (!c.contains("error")) std::printf("    %s\n", error.what());
    }
}

void check_window(const NetworkImage& image, const Json& c) {
    const auto window = image.training_window(c["voxel"].get<Triple>());
    CHECK(window.has_value());
    CHECK(window->start == c["start"].get<Triple>() && window->step == c["step"].get<Triple>());
    CHECK(window->shape == c["shape"].get<Shape>() && image.is_on_grid(*window));
    Grid<float> given = image.axes.to_network(image.patch(*window));
    CHECK(largest_difference(given.values, c["given"].get<std::vector<float>>()) <= 1e-6);
    CHECK((image.point(*window, c["voxel"].get<Triple>()) == c["point"].get<std::array<float, 3>>()));
    given.values = c["answer"].get<std::vector<float>>();
    const auto found = image.grid->nearest(*window, image.axes.to_volume(given));
    const auto ends = c["region"].get<std::vector<std::int64_t>>();
    CHECK((found.region == Region{{ends[0], ends[1], ends[2]}, {ends[3], ends[4], ends[5]}}));
    CHECK(found.values.values == c["nearest"].get<std::vector<float>>());
}

void check_image(const Json& c) {
    const Profile profile = Profile::parse(Fields(c["profile"], kFile));
    const NetworkImage image = NetworkImage::prepare(volume_of(c["volume"]), profile, {});
    CHECK((image.axes.order == c["order"].get<std::array<std::size_t, 3>>()));
    CHECK((image.axes.flipped == c["flipped"].get<std::array<bool, 3>>()));
    CHECK(image.patch_zyx == c["patch"].get<Shape>());
    CHECK(image.grid.has_value());
    CHECK(image.grid->step() == c["grid_step"].get<Triple>());
    CHECK((image.grid->region() == Region{c["grid_low"].get<Voxel>(), c["grid_high"].get<Voxel>()}));
    const double close = 1e-6 * std::max(1.0, std::abs(c["high"].get<double>()));
    CHECK(std::abs(image.range.low - c["low"].get<double>()) <= close);
    CHECK(std::abs(image.range.high - c["high"].get<double>()) <= close);
    for (const Json& window : c["windows"]) check_window(image, window);
}

void check_header(const Json& c) {
    const auto bytes = c["bytes"].get<std::vector<std::uint8_t>>();
    const NiftiHeader expected(std::string(bytes.begin(), bytes.end()), "the expected header");
    const NiftiHeader found = header_of(volume_of(c["volume"])->geometry);
    using namespace nifti;
    const struct {
        NiftiField field;
        std::size_t count;
    } fields[] = {{kDim, 8}, {kPixdim, 8}, {kCodes, 2}, {kQuaternion, 6}, {kSform, 12}, {kUnits, 1}};
    for (const auto& [field, count] : fields)
        for (std::size_t i = 0; i < count; ++i) CHECK(std::abs(found.get(field, i) - expected.get(field, i)) <= 1e-5);
    CHECK(found.bytes().size() == expected.bytes().size());
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return 2;
    std::ifstream file(arguments[1]);
    const Json all = Json::parse(file);
    const struct {
        const char* name;
        void (*check)(const Json&);
    } kinds[] = {{"intensities", check_intensities}, {"images", check_image}, {"headers", check_header}};
    for (const auto& kind : kinds) {
        CHECK(!all[kind.name].empty());
        for (const Json& c : all[kind.name]) kind.check(c);
        std::printf("%s: %zu cases\n", kind.name, all[kind.name].size());
    }
    return failures() ? 1 : 0;
}
