#include "manifest.hpp"

#include <algorithm>

#include "json_fields.hpp"

namespace gstk::impl {
namespace {

constexpr int kSchema = 2;  // schema 1 is read, too

const JsonFile kManifest{GSTK_ERROR_BUNDLE, "the manifest", "export the bundle again"};

GraphFile read_file_entry(const Fields& fields) {
    const std::string digest = fields.text("sha256");
    const bool is_digest = digest.size() == 64 && digest.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_digest) throw fields.wrong("sha256", "64 hexadecimal digits");
    return {digest, static_cast<std::uint64_t>(fields.integer("bytes", 0))};
}

RoiRules read_roi(const Fields& fields) {
    RoiRules roi;
    roi.multiple = fields.integer("multiple", 1);
    roi.minimum = fields.integer("minimum", 1);
    if (roi.minimum % roi.multiple) throw fields.wrong("minimum", "a multiple of " + std::to_string(roi.multiple));
    const auto sides = fields.integers("default", roi.minimum);
    const auto off = [&](std::int64_t side) { return side % roi.multiple != 0; };
    if (sides.size() != 3 || std::any_of(sides.begin(), sides.end(), off))
        throw fields.wrong("default", "three multiples of " + std::to_string(roi.multiple) + ", (z, y, x)");
    // Beyond this no tensor can be, and products of sides would overflow.
    if (*std::max_element(sides.begin(), sides.end()) > (1 << 20)) throw fields.wrong("default", "sides below 2^20");
    std::copy(sides.begin(), sides.end(), roi.default_shape.begin());
    roi.max_voxels = fields.integer("max_voxels", count_of(roi.default_shape));
    return roi;
}

std::map<std::string, std::string> read_precisions(const Fields& graphs, const std::string& kind,
                                                   const std::map<std::string, GraphFile>& files) {
    const Fields precisions = graphs.sub(kind);
    std::map<std::string, std::string> found;
    for (const auto& item : precisions.values().items()) {
        found[item.key()] = precisions.text(item.key());
        if (!files.count(found[item.key()])) throw precisions.wrong(item.key(), "a name listed under `files`");
    }
    if (found.empty()) throw graphs.wrong(kind, "one precision or more");
    return found;
}

Manifest from_json(const Json& values) {
    const Fields top(values, kManifest);
    const auto schema = values.find("schema");
    if (schema == values.end() || !schema->is_number_integer() || (*schema != 1 && *schema != kSchema))
        throw error(GSTK_ERROR_BUNDLE, "got manifest schema ", schema == values.end() ? "nothing" : shorten(*schema),
                    ", expected 1 or ", kSchema, "; use the gstk that wrote it, or export again");
    Manifest manifest;
    const Fields files = top.sub("files");
    for (const auto& item : files.values().items()) {
        check_name(item.key());
        manifest.files[item.key()] = read_file_entry(files.sub(item.key()));
    }
    manifest.name = top.text("name");
    for (const char* key : {"licence", "created_by"}) top.text(key);
    manifest.roi = read_roi(top.sub("roi"));
    const Fields graphs = top.sub("graphs");
    for (const char* kind : {"encoder", "prompt_decoder"})
        manifest.graphs[kind] = read_precisions(graphs, kind, manifest.files);
    for (const auto& item : graphs.values().items())
        manifest.graphs[item.key()] = read_precisions(graphs, item.key(), manifest.files);
    if (*schema == 1) {
        manifest.profile = Profile::parse_schema_1(top, manifest.roi.default_shape);
    } else {
        manifest.profile = Profile::parse(top.sub("profile"));
        if (manifest.profile.patch != manifest.roi.default_shape)
            throw top.sub("roi").wrong("default", "the profile's patch");
    }
    for (const auto& [key, flag] : {std::pair("refine", &manifest.refine), std::pair("zero_shot", &manifest.zero_shot),
                                    std::pair("ignored_points", &manifest.ignored_points)})
        *flag = values.contains(key) && top.flag(key);
    const Json& vectors = top.value("vectors", "a name listed under `files`, or an empty one");
    if (!vectors.is_string() ||
        (!vectors.get_ref<const std::string&>().empty() && !manifest.files.count(vectors.get<std::string>())))
        throw top.wrong("vectors", "a name listed under `files`, or an empty one");
    manifest.vectors = vectors.get<std::string>();
    for (const char* key : {"architecture", "parity", "reports", "training"}) top.sub(key);
    return manifest;
}

}  // namespace

Manifest Manifest::parse(const std::string& json_text, const std::string& place) {
    try {
        return from_json(Json::parse(json_text));
    } catch (const Json::exception& reason) {
        throw error(GSTK_ERROR_BUNDLE, place, " is not JSON (", first_line(reason.what()),
                    "); export the bundle again");
    }
}

void check_name(const std::string& name) {
    bool plain = !name.empty() && name.front() != '/' && name.back() != '/' && name != "manifest.json" &&
                 name.find_first_of("\\:<>\"|?*") == std::string::npos &&
                 std::none_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; });
    std::istringstream parts(name);
    for (std::string part; plain && std::getline(parts, part, '/');)
        plain = !part.empty() && part != "." && part != "..";
    if (!plain)
        throw error(GSTK_ERROR_BUNDLE, "got the file name '", printable(name),
                    "' in a manifest, expected a relative path inside the bundle");
}

}  // namespace gstk::impl
