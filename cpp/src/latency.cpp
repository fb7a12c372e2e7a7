#include "latency.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>

#include "json_fields.hpp"

namespace gstk::impl {
namespace {

constexpr int kSchema = 2;
constexpr double kMillion = 1e6;
constexpr std::uintmax_t kLimitBytes = 1u << 20;
constexpr const char* kKinds[] = {"encode", "first_encode", "decode", "first_decode"};

const JsonFile kModel{GSTK_ERROR_CALIBRATION, "the latency model", "run gstk calibrate again"};

LatencyFit read_fit(const Fields& fields) {
    LatencyFit fit{fields.numbers("weights", 0), fields.number("spread", 1), fields.numbers("sizes", 0),
                   fields.numbers("factors", 0)};
    if (fit.weights.size() != 2 && fit.weights.size() != 5)
        throw fields.wrong("weights", "two or five finite numbers of 0 or more");
    fields.number("median_error", 0);
    const auto is_zero = [](double n) { return n == 0; };
    if (std::any_of(fit.sizes.begin(), fit.sizes.end(), is_zero) ||
        std::adjacent_find(fit.sizes.begin(), fit.sizes.end(), std::greater_equal<>()) != fit.sizes.end())
        throw fields.wrong("sizes", "rising finite numbers above 0");
    if (fit.factors.size() != fit.sizes.size() || std::any_of(fit.factors.begin(), fit.factors.end(), is_zero))
        throw fields.wrong("factors", "a finite number above 0 for each size");
    return fit;
}

}  // namespace

double LatencyFit::factor(double v) const {
    if (sizes.empty()) return 1;
    const auto after = static_cast<std::size_t>(std::upper_bound(sizes.begin(), sizes.end(), v) - sizes.begin());
    if (after == 0) return factors.front();
    if (after == sizes.size()) return factors.back();
    const double low = sizes[after - 1], high = sizes[after];
    const double share = std::log(v / low) / std::log(high / low);
    return factors[after - 1] * (1 - share) + factors[after] * share;
}

LatencyModel LatencyModel::parse(const std::string& json_text, const std::string& place) {
    try {
        const Json values = Json::parse(json_text);
        const Fields top(values, kModel);
        if (top.integer("schema", 0) != kSchema) throw top.wrong("schema", std::to_string(kSchema));
        top.only({"schema", "bundle", "bundle_sha256", "host", "fits", "load_s", "startup_s", "base_bytes",
                  "bytes_per_voxel", "largest_voxels", "measured_at"});
        LatencyModel model;
        for (const char* key : {"bundle", "measured_at"}) top.text(key);
        model.bundle_sha256 = top.text("bundle_sha256");
        const Fields host = top.sub("host");
        host.only({"processor", "cores", "memory_bytes", "device", "backend", "version", "precision", "settings"});
        for (const char* key : {"processor", "cores", "memory_bytes", "version", "settings"})
            host.value(key, "what gstk calibrate wrote");
        model.device = host.text("device");
        model.backend = host.text("backend");
        model.precision = host.text("precision");
        const Fields fits = top.sub("fits");
        for (const char* kind : kKinds) model.fits_[kind] = read_fit(fits.sub(kind));
        for (const char* key : {"load_s", "startup_s", "largest_voxels"}) top.number(key, 0);
        model.base_bytes = top.number("base_bytes", 0);
        model.bytes_per_voxel_ = top.number("bytes_per_voxel", 0);
        return model;
    } catch (const Json::exception& reason) {
        throw error(GSTK_ERROR_CALIBRATION, place, " is not JSON (", first_line(reason.what()),
                    "); run gstk calibrate again");
    }
}

LatencyModel LatencyModel::read(const std::filesystem::path& file) {
    std::error_code failed;
    const auto size = std::filesystem::is_regular_file(file, failed) ? std::filesystem::file_size(file, failed) : 0;
    if (size > kLimitBytes)
        throw error(GSTK_ERROR_CALIBRATION, "got ", file.string(), " of ", size,
                    " bytes, expected a latency model of a few kB");
    std::ifstream stream(file, std::ios::binary);
    std::string text(size, '\0');
    if (!size || failed || !stream.read(text.data(), static_cast<std::streamsize>(size)))
        throw error(GSTK_ERROR_CALIBRATION, "cannot read ", file.string(),
                    ", expected a latency model; write one with `gstk calibrate BUNDLE --out FILE`");
    return parse(text, file.string());
}

double LatencyModel::encode_s(const Shape& shape, bool first, bool cautious) const {
    return seconds(first ? "first_encode" : "encode", shape, 1, 1, cautious);
}

double LatencyModel::decode_s(const Shape& shape, std::int64_t objects, std::int64_t points, bool first,
                              bool cautious) const {
    return seconds(first ? "first_decode" : "decode", shape, objects, points, cautious);
}

double LatencyModel::peak_bytes(const Shape& shape) const {
    return base_bytes + bytes_per_voxel_ * static_cast<double>(count_of(shape));
}

double LatencyModel::seconds(const char* kind, const Shape& shape, std::int64_t objects, std::int64_t points,
                             bool cautious) const {
    const LatencyFit& fit = fits_.at(kind);
    const double v = static_cast<double>(count_of(shape)) / kMillion, b = static_cast<double>(objects);
    const double features[] = {1.0, v, b, v * b, v * b * static_cast<double>(points)};
    double sum = 0;
    for (std::size_t i = 0; i < fit.weights.size(); ++i) sum += features[i] * fit.weights[i];
    sum *= fit.factor(v);
    return cautious ? sum * fit.spread : sum;
}

}  // namespace gstk::impl
