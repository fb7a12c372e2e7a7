#include "tensorrt_plans.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <set>

#include "json_fields.hpp"
#include "private_files.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSchema = 1;
constexpr std::uintmax_t kSidecarLimitBytes = 1u << 20;
constexpr double kMostPadding = 0.25;
constexpr std::int64_t kLargestSide = 1 << 20;  // beyond it no tensor can be, and products of sides would overflow
const std::pair<std::int64_t, std::int64_t> kAmpere{8, 0};

const JsonFile kRecord{GSTK_ERROR_PLAN, "the file beside a plan", "remove it, and run gstk build again"};

std::string build_command(const Bundle& bundle, const std::string& precision) {
    return "gstk build " + bundle.path.string() + " --precision " + precision;
}

std::string dotted(const std::pair<std::int64_t, std::int64_t>& pair) {
    return std::to_string(pair.first) + "." + std::to_string(pair.second);
}

void require_own(const fs::path& path) {
    const std::string foreign = stranger(path);
    if (!foreign.empty())
        throw error(GSTK_ERROR_PLAN, foreign,
                    ", and a plan is a program; take its rights away from others, or build plans of your own with gstk "
                    "build --plans DIR");
}

std::string read_bytes(const fs::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::ostringstream content;
    content << stream.rdbuf();
    if (!stream) throw error(GSTK_ERROR_PLAN, "cannot read ", file.string(), "; build it again with gstk build");
    return std::move(content).str();
}

Shape read_sides(const Fields& fields, const std::string& key) {
    const auto sides = fields.integers(key, 1);
    if (sides.size() != 3 || *std::max_element(sides.begin(), sides.end()) > kLargestSide)
        throw fields.wrong(key, "three sides (z, y, x) in voxels");
    return {sides[0], sides[1], sides[2]};
}

std::pair<std::int64_t, std::int64_t> read_version(const Fields& fields, const std::string& key) {
    const auto parts = fields.integers(key, 0);
    if (parts.size() != 2) throw fields.wrong(key, "two integers");
    return {parts[0], parts[1]};
}

std::vector<PlanProfile> read_profiles(const Fields& profiles) {
    const Json& ranges = profiles.value("ranges", "a list");
    if (!ranges.is_array() || ranges.empty()) throw profiles.wrong("ranges", "a list of one range or more");
    std::vector<PlanProfile> found;
    for (const auto& range : ranges) {
        const Fields fields(range, kRecord, "profiles.ranges");
        found.push_back({read_sides(fields, "least"), read_sides(fields, "usual"), read_sides(fields, "most"),
                         fields.integer("objects", 1)});
    }
    return found;
}

BuiltPlan from_json(const Json& values, const fs::path& path) {
    const Fields top(values, kRecord);
    if (top.integer("schema", 0) != kSchema) throw top.wrong("schema", std::to_string(kSchema));
    for (const char* key : {"seconds", "dtypes", "layers", "memory_bytes", "size_bytes"}) top.value(key, "a value");
    const Fields host = top.sub("host"), settings = top.sub("settings"), profiles = top.sub("profiles");
    BuiltPlan plan;
    plan.path = path;
    plan.model = top.text("model");
    plan.kind = top.text("kind");
    plan.precision = top.text("precision");
    plan.graph = top.text("graph");
    plan.built = top.text("built");
    plan.sha256 = top.text("sha256");
    plan.profiles = read_profiles(profiles);
    plan.points = profiles.integer("points", 1);
    plan.hardware = settings.text("hardware");
    plan.is_version_compatible = settings.flag("version_compatible");
    plan.is_stripped = settings.flag("stripped");
    plan.host = {host.text("gpu"), read_version(host, "capability"), host.text("tensorrt"), read_version(host, "cuda"),
                 host.text("system")};
    plan.pair = Json{plan.precision,       profiles.values(),  settings.values(), plan.host.gpu,
                     plan.host.capability, plan.host.tensorrt, plan.host.system}
                    .dump();
    return plan;
}

BuiltPlan read_record(const fs::path& sidecar) {
    require_own(sidecar.parent_path());
    require_own(sidecar);
    if (fs::file_size(sidecar) > kSidecarLimitBytes)
        throw error(GSTK_ERROR_PLAN, sidecar.string(), " does not describe a plan (too large); remove it");
    try {
        return from_json(Json::parse(read_bytes(sidecar)), fs::path(sidecar).replace_extension(".plan"));
    } catch (const Json::exception& reason) {
        throw error(GSTK_ERROR_PLAN, sidecar.string(), " does not describe a plan (", first_line(reason.what()),
                    "); remove it");
    }
}

// SHA-256 of a graph with the weights that it keeps in other files.
std::string graph_hash(const Bundle& bundle, const std::string& kind, const std::string& precision) {
    const Manifest& manifest = bundle.manifest;
    std::set<std::string> known{manifest.vectors};
    for (const auto& [any, files] : manifest.graphs)
        for (const auto& [each, name] : files) known.insert(name);
    std::string about = manifest.files.at(manifest.graphs.at(kind).at(precision)).sha256;
    for (const auto& [name, file] : manifest.files)
        if (!known.count(name)) about += " " + file.sha256;
    return sha256_of(about);
}

// Major and minor of a version; zeros of a text that is none.
std::pair<std::int64_t, std::int64_t> version_pair(const std::string& version) {
    char* end = nullptr;
    const std::int64_t major = std::strtoll(version.c_str(), &end, 10);
    return {major, *end == '.' ? std::strtoll(end + 1, nullptr, 10) : 0};
}

bool runs_in(const BuiltPlan& plan, const std::string& here) {
    if (!plan.is_version_compatible) return plan.host.tensorrt == here;
    const auto then = version_pair(plan.host.tensorrt), now = version_pair(here);
    return now >= then && (now.first == then.first || (then.first == 10 && now.first == 11));
}

bool runs_on(const BuiltPlan& plan, const PlanHost& host) {
    if (plan.hardware == "ampere-plus") return host.capability >= kAmpere;
    if (plan.hardware == "same-capability") return host.capability == plan.host.capability;
    return plan.host.gpu == host.gpu && plan.host.capability == host.capability;
}

// Throws where a plan is not of this bundle, or does not run here.
void require_fit(const BuiltPlan& plan, const Bundle& bundle, const PlanHost& host) {
    const std::string again = "run: " + build_command(bundle, plan.precision), path = plan.path.string();
    const std::string built_gpu = printable(plan.host.gpu), built_trt = printable(plan.host.tensorrt);
    if (plan.graph != graph_hash(bundle, plan.kind, plan.precision))
        throw error(GSTK_ERROR_PLAN, path, " is stale: it was built from another ", plan.kind, " than the bundle's; ",
                    again);
    if (plan.host.system != host.system)
        throw error(GSTK_ERROR_PLAN, "got ", path, " for ", printable(plan.host.system), ", expected ", host.system,
                    "; ", again);
    if (!runs_in(plan, host.tensorrt))
        throw error(GSTK_ERROR_PLAN, "got ", path, " for TensorRT ", built_trt, ", expected ", host.tensorrt, "; ",
                    again);
    if (plan.host.cuda > host.cuda)
        throw error(GSTK_ERROR_PLAN, "got ", path, ", built with a driver for CUDA ", dotted(plan.host.cuda),
                    ", on one for ", dotted(host.cuda), "; install the newer driver, or ", again);
    if (!runs_on(plan, host))
        throw error(GSTK_ERROR_ARCHITECTURE, "got ", path, " for ", built_gpu, " (", dotted(plan.host.capability),
                    "), expected ", host.gpu, " (", dotted(host.capability), "); ", again);
    if (plan.is_stripped)
        throw error(GSTK_ERROR_PLAN, "got ", path,
                    " without weights, which gstk's C++ engine does not put in; build it without --stripped");
}

std::vector<fs::path> search_folders(const Bundle& bundle, const fs::path& folder) {
    if (!folder.empty()) return {folder};
    const std::string own = bundle.manifest.name + "-" + bundle.sha256().substr(0, 16);
    return {bundle.path / "engines", user_cache() / "gstk" / "plans" / own};
}

// The .json files of a folder in the order of their names; none where there is no folder.
std::vector<fs::path> sidecars(const fs::path& folder) {
    std::error_code failed;
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder, failed))
        if (entry.path().extension() == ".json") found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace

bool PlanProfile::admits(const Shape& region) const {
    for (std::size_t a = 0; a < 3; ++a)
        if (region[a] < least[a] || region[a] > most[a]) return false;
    return true;
}

PlanPair find_plans(const Bundle& bundle, const std::string& precision, const PlanHost& host, const fs::path& folder) {
    const auto folders = search_folders(bundle, folder);
    std::map<std::string, std::map<std::string, BuiltPlan>> pairs;
    std::optional<Error> refused;
    for (const auto& place : folders)
        for (const auto& sidecar : sidecars(place)) {
            try {
                BuiltPlan plan = read_record(sidecar);
                if (plan.model != bundle.manifest.name || plan.precision != precision) continue;
                if (plan.kind != "encoder" && plan.kind != "prompt_decoder") continue;
                require_fit(plan, bundle, host);
                pairs[plan.pair].emplace(plan.kind, std::move(plan));
            } catch (const Error& reason) {
                if (!refused) refused = reason;
            }
        }
    const std::map<std::string, BuiltPlan>* latest = nullptr;
    const auto built = [](const auto& pair) {
        return std::max(pair.begin()->second.built, pair.rbegin()->second.built);
    };
    for (const auto& [key, pair] : pairs)
        if (pair.size() == 2 && (!latest || built(pair) > built(*latest))) latest = &pair;
    if (latest) return {latest->at("encoder"), latest->at("prompt_decoder")};
    if (refused) throw Error(*refused);
    std::string looked;
    for (const auto& place : folders) looked += (looked.empty() ? "" : " or ") + place.string();
    throw error(GSTK_ERROR_PLAN, "got no TensorRT plans of '", printable(bundle.manifest.name), "' in ", precision,
                " in ", looked, ", expected an encoder and a decoder; run: ", build_command(bundle, precision));
}

std::string read_plan(const BuiltPlan& plan) {
    require_own(plan.path);
    std::string content = read_bytes(plan.path);
    if (sha256_of(content) != plan.sha256)
        throw error(GSTK_ERROR_PLAN, plan.path.string(),
                    " is not the plan that the file beside it describes; build it again with gstk build");
    return content;
}

int find_profile(const std::vector<PlanProfile>& profiles, const Shape& region) {
    int found = -1;
    for (int i = 0; i < static_cast<int>(profiles.size()); ++i) {
        const auto& profile = profiles[static_cast<std::size_t>(i)];
        if (!profile.admits(region)) continue;
        if (found < 0 || count_of(profile.most) < count_of(profiles[static_cast<std::size_t>(found)].most)) found = i;
    }
    return found;
}

std::string text(const std::vector<PlanProfile>& profiles) {
    std::ostringstream found;
    found.imbue(std::locale::classic());
    for (const auto& p : profiles) {
        if (&p != &profiles.front()) found << ", ";
        if (p.least == p.most)
            found << p.usual[0] << 'x' << p.usual[1] << 'x' << p.usual[2];
        else
            found << p.least[0] << ':' << p.usual[0] << ':' << p.most[0];
    }
    return found.str();
}

std::vector<std::int64_t> buckets(std::int64_t objects, std::int64_t most) {
    std::set<std::int64_t> sizes{most};
    for (std::int64_t size = 1; size < most; size *= 2) sizes.insert(size);
    std::vector<std::int64_t> found;
    while (objects > 0) {
        const auto fits = [&](std::int64_t size) {
            return objects <= size && static_cast<double>(size - objects) <= kMostPadding * static_cast<double>(size);
        };
        const auto padded = std::find_if(sizes.begin(), sizes.end(), fits);
        found.push_back(padded != sizes.end() ? *padded : *std::prev(sizes.upper_bound(objects)));
        objects -= found.back();
    }
    return found;
}

}  // namespace gstk::impl
