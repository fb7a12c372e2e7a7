// Replays scripts of prompts through the public API, and puts out the mask after each line.
//
//     replay BUNDLE SCRIPT MASKS [name=value]...
//
// SCRIPT: a line each,
//     volume PATH                      begins with another volume
//     voxels PATH UNITS MODALITY ORIENTED Z Y X SPACING[3] ORIGIN[3] DIRECTION[9]
//                                      with one that the host read: float32 (z,y,x), raw; - where nothing is known
//     point OBJECT Z Y X FOREGROUND
//     novel OBJECT Z Y X FOREGROUND    a click on an object of no trained class
//     box OBJECT Z0 Y0 X0 Z1 Y1 X1 ZMID
//     prompts OBJECT HAS_BOX [the box's numbers] COUNT [Z Y X FOREGROUND]...
//     undo, redo, cancel
//     reset OBJECT                     or all of them, OBJECT being 0
// MASKS: uint16 (z,y,x) after each line but `volume` and `voxels`, raw. To standard output, a line each: whether the line
// was refused, seconds that it took, encodes and decodes so far, and the process's resident memory.
// Names: backend, precision, cache, threads, refine and adapts (0 or 1), window_voxels, limit_s; locale, of the whole process.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <gstk/gstk.hpp>
#include <iostream>
#include <locale>
#include <map>
#include <memory>
#include <sstream>

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
}

std::int64_t resident_bytes() {
    std::int64_t pages = 0, resident_pages = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident_pages;
    return resident_pages * sysconf(_SC_PAGESIZE);
}

gstk::Index read_index(std::istream& in) {
    gstk::Index zyx{};
    in >> zyx[0] >> zyx[1] >> zyx[2];
    return zyx;
}

gstk::Box read_box(std::istream& in) {
    gstk::Box box{};
    box.first = read_index(in);
    box.last = read_index(in);
    std::int64_t z_mid = 0;
    in >> z_mid;
    box.z_mid = z_mid;
    return box;
}

// A volume as a host hands it over that has a reader of its own.
gstk::Volume read_voxels(std::istream& in) {
    std::string path;
    gstk::Metadata known;
    in >> path >> known.units >> known.modality >> known.has_orientation;
    for (auto* text : {&known.units, &known.modality})
        if (*text == "-") text->clear();
    const gstk::Index shape = read_index(in);
    gstk::Triple spacing_mm{};
    for (auto& number : spacing_mm) in >> number;
    for (auto& number : known.origin_mm) in >> number;
    for (auto& number : known.direction) in >> number;
    std::vector<float> voxels(static_cast<std::size_t>(shape[0] * shape[1] * shape[2]));
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(voxels.data()), static_cast<std::streamsize>(sizeof(float) * voxels.size()));
    if (!in || !file) throw std::runtime_error("no voxels in " + path);
    gstk::Volume volume = gstk::Volume::take(std::move(voxels), shape, spacing_mm);
    volume.set_metadata(known);
    return volume;
}

gstk::Region replay(gstk::Session& session, const std::string& what, std::istream& in) {
    if (what == "undo") return session.undo();
    if (what == "redo") return session.redo();
    if (what == "cancel") {
        session.cancel();
        return {};
    }
    std::uint32_t object_id = 1;
    in >> object_id;
    if (what == "point" || what == "novel") {
        gstk::Triple zyx{};
        bool foreground = true;
        in >> zyx[0] >> zyx[1] >> zyx[2] >> foreground;
        if (what == "novel") return session.add_novel_point(zyx, foreground, object_id);
        return session.add_point(zyx, foreground, object_id);
    }
    if (what == "box") return session.add_box(read_box(in), object_id);
    if (what == "prompts") {
        bool has_box = false;
        std::size_t count = 0;
        in >> has_box;
        const auto box = has_box ? std::optional<gstk::Box>(read_box(in)) : std::nullopt;
        in >> count;
        std::vector<gstk::Point> points(count);
        for (auto& p : points) {
            p.zyx = read_index(in);
            in >> p.foreground;
        }
        return session.set_prompts(points, box, object_id);
    }
    if (what != "reset") throw std::runtime_error("got the line '" + what + "', expected one of those above");
    session.reset(object_id);
    return {};
}

// Throws where a mask is not as before outside the region that a call named.
void check_outside(const gstk::Region& changed, const gstk::Index& shape, const std::vector<std::uint16_t>& before,
                   const std::vector<std::uint16_t>& after) {
    std::size_t at = 0;
    for (std::int64_t z = 0; z < shape[0]; ++z)
        for (std::int64_t y = 0; y < shape[1]; ++y)
            for (std::int64_t x = 0; x < shape[2]; ++x, ++at) {
                const gstk::Index voxel{z, y, x};
                bool is_inside = true;
                for (std::size_t a = 0; a < 3; ++a)
                    is_inside = is_inside && voxel[a] >= changed.start[a] && voxel[a] < changed.stop[a];
                if (!is_inside && before[at] != after[at])
                    throw std::runtime_error("the mask changed outside the region that the call returned");
            }
}

int run(char** arguments, std::map<std::string, std::string> named) {
    const auto began = Clock::now();
    gstk::EngineOptions options;
    if (!named["backend"].empty()) options.backend = named["backend"];
    if (!named["precision"].empty()) options.precision = named["precision"];
    options.cache = named["cache"];
    options.threads = std::atoi(named["threads"].c_str());
    gstk::SessionOptions how;
    if (!named["refine"].empty()) how.refine = named["refine"] == "1";
    how.adapts = named["adapts"] != "0";
    how.window_voxels = std::atoll(named["window_voxels"].c_str());
    const gstk::Engine engine(arguments[1], options);
    gstk::Session session(engine, how);
    session.set_time_limit(std::atof(named["limit_s"].c_str()));
    std::cout << "opened " << since(began) << '\n';
    std::ifstream script(arguments[2]);
    std::ofstream masks(arguments[3], std::ios::binary);
    gstk::Index shape{};
    std::vector<std::uint16_t> before;
    for (std::string line; std::getline(script, line);) {
        std::istringstream words(line);
        std::string what;
        words >> what;
        if (what == "volume" || what == "voxels") {
            std::string path;
            if (what == "volume") words >> path;
            const gstk::Volume volume = what == "volume" ? gstk::Volume::read(path) : read_voxels(words);
            session.set_image(volume);
            shape = volume.shape();
            before.assign(static_cast<std::size_t>(shape[0] * shape[1] * shape[2]), 0);
            continue;
        }
        const auto start = Clock::now();
        bool refused = false;
        gstk::Region changed{};
        try {
            changed = replay(session, what, words);
        } catch (const gstk::Error& error) {
            if (error.code() != GSTK_ERROR_PROMPT) throw;
            refused = true;
        }
        const double said = since(start);
        const auto part = session.mask(changed);
        const double fetched = since(start);
        const auto mask = session.mask();
        if (what != "reset") check_outside(changed, shape, before, mask);
        before = mask;
        masks.write(reinterpret_cast<const char*>(mask.data()), static_cast<std::streamsize>(2 * mask.size()));
        std::int64_t encodes = 0, decodes = 0;
        gstk::check(gstk_session_get_counts(session.get(), &encodes, &decodes));
        std::cout << "refused " << refused << " said " << said << " fetched " << fetched << " since " << since(began)
                  << " encodes " << encodes << " decodes " << decodes << " resident_bytes " << resident_bytes() << '\n';
    }
    return masks.good() && script.eof() ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) return 2;
    std::map<std::string, std::string> named;
    for (int i = 4; i < count; ++i) {
        const std::string word = arguments[i];
        named[word.substr(0, word.find('='))] = word.substr(std::min(word.find('=') + 1, word.size()));
    }
    try {
        if (!named["locale"].empty()) std::locale::global(std::locale(named["locale"]));
        return run(arguments, named);
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
}
