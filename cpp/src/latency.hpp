// What a bundle costs on a host, as `gstk calibrate` measured it; mirrors gstk.calibration.model.
//
// An encode of v million voxels takes `a + b v` seconds, a decode of B objects of N points each
// `a + b v + c B + d v B + e v B N`; the first run of a shape has numbers of its own. A factor for each size of region
// that was measured follows where costs bend.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "geometry.hpp"

namespace gstk::impl {

struct LatencyFit {
    std::vector<double> weights;  // of 1, v, B, v·B and v·B·N; an encode has the first two
    double spread = 1;            // 95th percentile of measured over fitted
    std::vector<double> sizes;    // millions of voxels, rising
    std::vector<double> factors;  // what measured seconds there were over those of the weights

    double factor(double v) const;
};

class LatencyModel {
  public:
    std::string bundle_sha256;               // see `Bundle::sha256`
    std::string backend, precision, device;  // what it was measured with
    double base_bytes = 0;                   // memory of a process that opened the bundle

    // Throws GSTK_ERROR_CALIBRATION where the text is not JSON, the schema is unknown, or a field is missing, of the
    // wrong type or out of its range. `place` is named in the message.
    static LatencyModel parse(const std::string& json_text, const std::string& place);
    // The same from a file.
    static LatencyModel read(const std::filesystem::path& file);

    // Seconds of an encode. first: of its shape in this process. cautious: the 95th percentile, not the middle.
    double encode_s(const Shape& shape, bool first = false, bool cautious = false) const;
    // Seconds of a decode of `objects` with `points` each.
    double decode_s(const Shape& shape, std::int64_t objects = 1, std::int64_t points = 1, bool first = false,
                    bool cautious = false) const;
    // Memory of a process that encodes and decodes a region.
    double peak_bytes(const Shape& shape) const;

  private:
    double seconds(const char* kind, const Shape& shape, std::int64_t objects, std::int64_t points,
                   bool cautious) const;

    std::map<std::string, LatencyFit> fits_;  // by `encode`, `first_encode`, `decode` and `first_decode`
    double bytes_per_voxel_ = 0;
};

}  // namespace gstk::impl
