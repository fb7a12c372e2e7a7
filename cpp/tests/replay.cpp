// Replays prompts on a volume through the public API, and puts out the mask after each.
//
//     replay BUNDLE VOLUME PROMPTS MASKS [THREADS [LATENCY_MODEL LIMIT_S [CACHE]]]
//
// PROMPTS: a line each, `point OBJECT Z Y X FOREGROUND`, `box OBJECT Z0 Y0 X0 Z1 Y1 X1 ZMID`, `undo`, `reset OBJECT`,
// or `prompts OBJECT HAS_BOX [the box's numbers] COUNT [Z Y X FOREGROUND]...`. MASKS: uint16 (z,y,x) after each line,
// raw. To standard output, a line each: seconds that it took, encodes and decodes so far, and the window.
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <gstk/gstk.hpp>
#include <iostream>
#include <sstream>

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point began) {
    return std::chrono::duration<double>(Clock::now() - began).count();
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

gstk::Region say(gstk::Session& session, std::istream& in, std::uint32_t& object_id) {
    std::string what;
    in >> what;
    if (what == "undo") return session.undo();
    in >> object_id;
    if (what == "point") {
        gstk::Triple zyx{};
        bool foreground = true;
        in >> zyx[0] >> zyx[1] >> zyx[2] >> foreground;
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
    session.reset(object_id);
    return {};
}

int run(char** arguments, int threads, const char* latency_model, double limit_s, const std::string& cache) {
    const auto began = Clock::now();
    const char* backend = cache.empty() ? "auto" : "openvino";
    const gstk::Engine engine(arguments[1], {backend, "fp32", "auto", "", cache, threads});
    const double opened = since(began);
    const gstk::Volume volume = gstk::Volume::read(arguments[2]);
    const double read = since(began);
    gstk::Session session(engine, 0, latency_model);
    session.set_time_limit(limit_s);
    session.set_image(volume);
    std::cout << "opened " << opened << " read " << read << " taken " << since(began) << '\n';
    std::ifstream prompts(arguments[3]);
    std::ofstream masks(arguments[4], std::ios::binary);
    std::uint32_t object_id = 1;
    for (std::string line; std::getline(prompts, line);) {
        std::istringstream words(line);
        const auto start = Clock::now();
        const gstk::Region changed = say(session, words, object_id);
        const double said = since(start);
        const auto part = session.mask(changed);
        const double fetched = since(start);
        const auto mask = session.mask();
        masks.write(reinterpret_cast<const char*>(mask.data()), static_cast<std::streamsize>(2 * mask.size()));
        std::int64_t encodes = 0, decodes = 0;
        gstk::check(gstk_session_get_counts(session.get(), &encodes, &decodes));
        std::cout << "said " << said << " fetched " << fetched << " since " << since(began) << " encodes " << encodes
                  << " decodes " << decodes << '\n';
    }
    return masks.good() ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        const bool is_limited = count > 7;
        return run(arguments, count > 5 ? std::atoi(arguments[5]) : 0, is_limited ? arguments[6] : "",
                   is_limited ? std::atof(arguments[7]) : 0, count > 8 ? arguments[8] : "");
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
}
