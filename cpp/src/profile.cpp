#include "profile.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace gstk::impl {
namespace {

using Ids = std::vector<std::int64_t>;

std::string choice(const Fields& fields, const std::string& key, const std::vector<std::string>& choices) {
    std::string expected = "one of";
    for (const std::string& one : choices) expected += (&one == &choices.front() ? " " : ", ") + one;
    const Json& found = fields.value(key, expected);
    if (!found.is_string() || std::find(choices.begin(), choices.end(), found.get<std::string>()) == choices.end())
        throw fields.wrong(key, expected);
    return found.get<std::string>();
}

double number(const Fields& fields, const std::string& key, double low, double high) {
    const double value = fields.number(key, low);
    if (!(value < high)) throw fields.wrong(key, "a smaller number");
    return value;
}

std::pair<double, double> percentiles_of(const Fields& fields) {
    const auto percentiles = fields.rising_pair("percentiles");
    if (percentiles.first < 0 || percentiles.second > 100) throw fields.wrong("percentiles", "two numbers in 0..100");
    return percentiles;
}

void read_intensities(const Fields& fields, Profile& profile) {
    fields.only({"source", "range", "percentiles", "scope"});
    profile.has_range = fields.values().contains("range");
    if (profile.has_range == fields.values().contains("percentiles"))
        throw fields.wrong("range", "either a range or percentiles");
    if (profile.has_range)
        profile.range = fields.rising_pair("range");
    else
        profile.percentiles = percentiles_of(fields);
    profile.source = choice(fields, "source", {"case", "hounsfield", "file"});
    profile.scope = choice(fields, "scope", {"volume", "foreground"});
}

// Ids from the keys of an object.
std::map<std::int64_t, std::string> ids_of(const Fields& fields, const std::string& key) {
    std::map<std::int64_t, std::string> ids;
    const Fields inner = fields.sub(key);
    for (const auto& item : inner.values().items()) {
        const std::string& text = item.key();
        const bool digits = !text.empty() && text.size() < 6 && text.front() != '0' &&
                            std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (!digits || std::stoll(text) > 65535)
            throw inner.wrong(text, "class ids from 1 to 65535, which label maps hold, as keys");
        ids[std::stoll(text)] = text;
    }
    return ids;
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return text;
}

void check_members(const Fields& fields, const std::string& kind, const std::vector<Ids>& lists,
                   const std::set<std::int64_t>& trained) {
    for (const Ids& list : lists)
        if (list.empty() || std::any_of(list.begin(), list.end(), [&](std::int64_t id) { return !trained.count(id); }))
            throw fields.wrong(kind, "lists of trained classes that `names` has, none of them a group");
}

// How many classes have names.
std::size_t check_classes(const Fields& fields) {
    fields.only({"names", "groups", "sets", "untrained", "special", "last_supported"});
    std::set<std::string> names;
    std::set<std::int64_t> trained;
    const Fields named = fields.sub("names");
    for (const auto& [id, text] : ids_of(fields, "names")) {
        if (!names.insert(lower(named.text(text))).second) throw fields.wrong("names", "a different name for each class");
        trained.insert(id);
    }
    std::vector<Ids> groups, sets;
    const Fields grouped = fields.sub("groups"), listed = fields.sub("sets");
    const auto group_ids = ids_of(fields, "groups");
    for (const auto& [id, text] : group_ids) groups.push_back(grouped.integers(text, 1));
    for (const auto& item : listed.values().items()) sets.push_back(listed.integers(item.key(), 1));
    for (const std::int64_t id : fields.integers("untrained", 1)) trained.erase(id);
    for (const auto& [id, text] : group_ids) trained.erase(id);
    fields.integers("special", 0);
    fields.integer("last_supported", 0);
    check_members(fields, "groups", groups, trained);
    check_members(fields, "sets", sets, trained);
    return names.size();
}

void read_resolution(const Fields& fields, Profile& profile) {
    fields.only({"spacing_mm", "crop_margin", "projection"});
    const Json& spacing = fields.value("spacing_mm", "native, session or mm");
    if (spacing.is_string() && (spacing == "native" || spacing == "session")) {
        profile.spacing = spacing.get<std::string>();
    } else {
        profile.spacing = "mm";
        profile.spacing_mm = number(fields, "spacing_mm", 0.05, 100);
    }
    const bool crops = fields.values().contains("crop_margin");
    if (crops) profile.crop_margin = fields.integer("crop_margin", 0);
    if (profile.scope == "foreground" && !crops)
        throw fields.wrong("crop_margin", "one, since percentiles are of the foreground");
    if (crops && profile.spacing != "mm")
        throw fields.wrong("crop_margin", "none without a spacing in mm: its voxels are those of that spacing");
    profile.projection = choice(fields, "projection", {"linear", "nearest"});
}

}  // namespace

Profile Profile::parse(const Fields& fields) {
    fields.only({"name", "summary", "licence", "intensities", "axes", "resolution", "windows", "prompts", "classes"});
    Profile profile;
    profile.name = fields.text("name");
    fields.text("summary");
    if (const auto licence = fields.values().find("licence");
        licence != fields.values().end() && *licence != "")
        fields.text("licence");
    read_intensities(fields.sub("intensities"), profile);
    const Fields axes = fields.sub("axes"), windows = fields.sub("windows"), prompts = fields.sub("prompts");
    axes.only({"orientation", "order"});
    profile.orientation = choice(axes, "orientation", {"stored", "RAS"});
    profile.order = choice(axes, "order", {"zyx", "xyz"});
    read_resolution(fields.sub("resolution"), profile);
    windows.only({"patch", "overlap", "padding"});
    const auto patch = windows.integers("patch", 1);
    if (patch.size() != 3) throw windows.wrong("patch", "three sides in voxels, in the network's axes");
    std::copy(patch.begin(), patch.end(), profile.patch.begin());
    number(windows, "overlap", 0, 0.9);
    choice(windows, "padding", {"zero", "replicate"});
    prompts.only({"branches"});
    const Json& branches = prompts.value("branches", "one or more of points, classes");
    if (!branches.is_array() || branches.empty()) throw prompts.wrong("branches", "one or more of points, classes");
    profile.branches.clear();
    for (const Json& branch : branches) {
        if (branch != "points" && branch != "classes") throw prompts.wrong("branches", "one or more of points, classes");
        profile.branches.push_back(branch.get<std::string>());
    }
    const bool by_class = std::count(profile.branches.begin(), profile.branches.end(), "classes") > 0;
    const Fields classes = fields.sub("classes");
    if (check_classes(classes) == 0 && by_class)
        throw classes.wrong("names", "names, since the branch `classes` is trained");
    if (by_class && profile.spacing == "session")
        throw fields.wrong("resolution", "native or mm, since class prompts need windows of one resolution");
    return profile;
}

Profile Profile::parse_schema_1(const Fields& manifest, const Shape& patch) {
    const Fields steps = manifest.sub("preprocessing");
    Profile profile;
    profile.name = "schema-1";
    profile.patch = patch;
    profile.percentiles = percentiles_of(steps);
    if (steps.text("scope") != "volume") throw steps.wrong("scope", "'volume'");
    if (steps.rising_pair("range") != std::pair<double, double>{0, 1}) throw steps.wrong("range", "[0, 1]");
    if (!steps.flag("clip")) throw steps.wrong("clip", "true");
    manifest.integers("special_classes", 0);
    return profile;
}

void Profile::require_points() const {
    if (std::count(branches.begin(), branches.end(), "points") == 0)
        throw error(GSTK_ERROR_PROMPT, "got a point or box for the profile ", printable(name),
                    ", whose weights take classes alone; give those, to gstk in Python");
}

}  // namespace gstk::impl
