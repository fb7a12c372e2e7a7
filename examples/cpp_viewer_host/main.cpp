// What a viewer does: it opens a volume, takes clicks from its user, and shows the mask after each.
//
//     cpp_viewer_host BUNDLE VOLUME MASK +z,y,x [+z,y,x | -z,y,x | undo | next]...
//
// VOLUME and MASK are .npz, .nii or .nii.gz. +z,y,x clicks on the object, -z,y,x beside it, `undo` takes the latest
// click back, and `next` goes on with the next object.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <gstk/gstk.hpp>
#include <string>
#include <vector>

namespace {

// The mask that a viewer draws: after each click only the part that changed is fetched and redrawn.
class Overlay {
  public:
    explicit Overlay(const gstk::Index& shape)
        : shape_(shape), labels_(static_cast<std::size_t>(shape[0] * shape[1] * shape[2])) {}

    void update(const gstk::Session& session, const gstk::Region& region) {
        const auto part = session.mask(region);
        auto from = part.begin();
        const std::int64_t width = region.stop[2] - region.start[2];
        for (std::int64_t z = region.start[0]; z < region.stop[0]; ++z)
            for (std::int64_t y = region.start[1]; y < region.stop[1]; ++y, from += width)
                std::copy_n(from, width, labels_.begin() + (z * shape_[1] + y) * shape_[2] + region.start[2]);
    }

    const std::vector<std::uint16_t>& labels() const { return labels_; }

  private:
    gstk::Index shape_;
    std::vector<std::uint16_t> labels_;
};

bool parse_click(const std::string& word, gstk::Triple& zyx, bool& foreground) {
    char rest = 0;
    foreground = word[0] == '+';
    return (foreground || word[0] == '-') &&
           std::sscanf(word.c_str() + 1, "%lf,%lf,%lf%c", &zyx[0], &zyx[1], &zyx[2], &rest) == 3;
}

int run(const std::vector<std::string>& words) {
    const gstk::Engine engine(words[0]);
    const gstk::Volume volume = gstk::Volume::read(words[1]);
    gstk::Session session(engine);
    session.set_image(volume);
    // A viewer shows this to its user: a network gives another mask for values or axes that it was not trained on.
    std::printf("intensities: %s\n", session.image_report().intensities.c_str());
    for (const auto& warning : session.image_report().warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
    Overlay overlay(volume.shape());
    std::uint32_t object_id = 1;
    for (std::size_t i = 3; i < words.size(); ++i) {
        gstk::Triple zyx{};
        bool foreground = true;
        gstk::Region changed{};
        if (words[i] == "next") {
            ++object_id;
            continue;
        }
        if (words[i] == "undo") {
            changed = session.undo();
        } else if (parse_click(words[i], zyx, foreground)) {
            changed = session.add_point(zyx, foreground, object_id);
        } else {
            std::fprintf(stderr, "got %s, expected +z,y,x, -z,y,x, undo or next\n", words[i].c_str());
            return 2;
        }
        overlay.update(session, changed);
        const auto& labels = overlay.labels();
        std::printf("%s: object %u has %lld voxels\n", words[i].c_str(), static_cast<unsigned>(object_id),
                    static_cast<long long>(std::count(labels.begin(), labels.end(), object_id)));
    }
    volume.write_mask(overlay.labels(), words[2]);
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 5) {
        std::fprintf(stderr, "usage: cpp_viewer_host BUNDLE VOLUME MASK +z,y,x [+z,y,x | -z,y,x | undo | next]...\n");
        return 2;
    }
    try {
        return run({arguments + 1, arguments + count});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
