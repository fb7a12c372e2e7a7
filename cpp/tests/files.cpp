// Reads a volume, writes a mask of it, and says what was read:
//
//     files VOLUME OUT HIGHEST [LOCALE]
//
// The mask is 0, 1 ... HIGHEST over and over, x fastest. LOCALE is of the whole process; `comma` is one whose numbers have
// commas for points and between thousands. To standard output: the volume's shape, spacing, orientation and metadata, and
// a line for each warning that a session has of it.
#include <cstdio>
#include <gstk/gstk.hpp>
#include <locale>

namespace {

struct Commas : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return ','; }
    std::string do_grouping() const override { return "\3"; }
};

void set_locale(const std::string& name) {
    std::locale::global(name == "comma" ? std::locale(std::locale::classic(), new Commas) : std::locale(name));
}

template <class Numbers>
void print_numbers(const char* what, const Numbers& numbers) {
    std::printf("%s", what);
    const std::locale own = std::locale::global(std::locale::classic());
    for (const auto number : numbers) std::printf(" %.17g", static_cast<double>(number));
    std::locale::global(own);
    std::printf("\n");
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) return 2;
    try {
        if (count > 4) set_locale(arguments[4]);
        const gstk::Volume volume = gstk::Volume::read(arguments[1]);
        const gstk::Metadata known = volume.metadata();
        const gstk::Index shape = volume.shape();
        print_numbers("shape", shape);
        print_numbers("spacing", volume.spacing_mm());
        print_numbers("origin", known.origin_mm);
        print_numbers("direction", known.direction);
        std::printf("units %s\noriented %d\n", known.units.c_str(), known.has_orientation);
        std::vector<std::uint16_t> mask(static_cast<std::size_t>(shape[0] * shape[1] * shape[2]));
        const auto highest = static_cast<std::size_t>(std::stoul(arguments[3]));
        for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = static_cast<std::uint16_t>(i % (highest + 1));
        volume.write_mask(mask, arguments[2]);
        gstk::Session session(gstk::Engine("tiny"));
        session.set_image(volume);
        std::printf("intensities %s\n", session.image_report().intensities.c_str());
        for (const auto& warning : session.image_report().warnings) std::printf("warning %s\n", warning.c_str());
        return 0;
    } catch (const gstk::Error& error) {
        std::fprintf(stderr, "%d: %s\n", static_cast<int>(error.code()), error.what());
        return 1;
    }
}
