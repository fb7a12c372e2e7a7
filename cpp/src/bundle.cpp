#include "bundle.hpp"

#include <dlfcn.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "error.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifestName = "manifest.json";
constexpr std::uintmax_t kManifestLimitBytes = 16u << 20;

// SHA-256 of what is added.
class Digest {
  public:
    Digest() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
        if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1)
            throw error(GSTK_ERROR_INTERNAL, "OpenSSL offers no SHA-256 here; check its configuration");
    }
    void add(const char* data, std::size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
    std::string hex() {
        unsigned char digest[EVP_MAX_MD_SIZE];
        unsigned int length = 0;
        EVP_DigestFinal_ex(context_.get(), digest, &length);
        std::string text;
        constexpr const char* kDigits = "0123456789abcdef";
        for (unsigned int i = 0; i < length; ++i) {
            text += kDigits[digest[i] >> 4];
            text += kDigits[digest[i] & 15];
        }
        return text;
    }

  private:
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// The file of that name, which must be inside the resolved root also after links are followed.
fs::path confined(const fs::path& root, const std::string& name) {
    std::error_code failed;
    const fs::path file = fs::canonical(root / fs::u8path(name), failed);
    if (failed)
        throw error(GSTK_ERROR_BUNDLE, "bundle ", root.string(), " lacks ", printable(name),
                    "; copy it whole, or export it again");
    const auto ends = std::mismatch(root.begin(), root.end(), file.begin(), file.end());
    if (ends.first != root.end())
        throw error(GSTK_ERROR_BUNDLE, printable(name), " in bundle ", root.string(), " leads outside of it to ",
                    file.string(), "; replace the link by the file");
    if (!fs::is_regular_file(file, failed))
        throw error(GSTK_ERROR_BUNDLE, printable(name), " in bundle ", root.string(),
                    " is no file; export the bundle again");
    return file;
}

void verify(const fs::path& file, const std::string& name, const GraphFile& expected) {
    const auto size_bytes = fs::file_size(file);
    if (size_bytes != expected.size_bytes)
        throw error(GSTK_ERROR_BUNDLE, name, " has ", size_bytes, " bytes, the manifest says ", expected.size_bytes,
                    ": altered or cut short; copy the bundle again");
    const std::string digest = sha256(file);
    if (digest != expected.sha256)
        throw error(GSTK_ERROR_BUNDLE, name, " has SHA-256 ", digest.substr(0, 12), "..., the manifest says ",
                    expected.sha256.substr(0, 12), "...: altered; copy the bundle again");
}

std::string names_of(const std::map<std::string, std::string>& precisions) {
    std::string joined;
    for (const auto& entry : precisions) joined += (joined.empty() ? "" : ", ") + entry.first;
    return printable(joined);
}

std::string read_text(const fs::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::string content(fs::file_size(file), '\0');
    if (!stream.read(content.data(), static_cast<std::streamsize>(content.size())))
        throw error(GSTK_ERROR_BUNDLE, "cannot read ", file.string(), "; check its permissions");
    return content;
}

}  // namespace

std::vector<fs::path> bundle_folders() {
    std::vector<fs::path> folders;
    if (const char* named = std::getenv("GSTK_BUNDLES")) {
        std::istringstream list(named);
        for (std::string folder; std::getline(list, folder, ':');)
            if (!folder.empty()) folders.push_back(fs::u8path(folder));
    }
    Dl_info library{};
    static const int anchor = 0;  // lies in the library, or in the program that it is linked into
    if (dladdr(&anchor, &library) && library.dli_fname)
        folders.push_back((fs::path(library.dli_fname).parent_path() / GSTK_LIBRARY_TO_BUNDLES).lexically_normal());
    folders.push_back(fs::path(GSTK_SOURCE_BUNDLES).lexically_normal());
    return folders;
}

Bundle Bundle::open(const fs::path& given) {
    std::error_code failed;
    fs::path folder = given;
    if (!fs::is_directory(folder, failed)) {
        const bool is_file = fs::exists(folder, failed), is_name = !given.empty() && given == given.filename();
        std::string looked;
        for (const auto& shelf : is_name && !is_file ? bundle_folders() : std::vector<fs::path>{}) {
            looked += (looked.empty() ? ", or the name of one in " : ", ") + shelf.string();
            if (fs::is_regular_file(shelf / given / kManifestName, failed)) {
                folder = shelf / given;
                break;
            }
        }
        if (folder == given)
            throw error(GSTK_ERROR_BUNDLE, "got ", printable(given.string()), is_file ? " (a file)" : " (nothing there)",
                        ", expected a bundle folder", looked, "; write one with `gstk export`",
                        is_name ? ", or set GSTK_BUNDLES to the folder that it is in" : "");
    }
    try {
        const fs::path root = fs::canonical(folder);
        const fs::path file = confined(root, kManifestName);
        if (fs::file_size(file) > kManifestLimitBytes)
            throw error(GSTK_ERROR_BUNDLE, "got a manifest of ", fs::file_size(file), " bytes in ", root.string(),
                        ", expected a few kilobytes");
        Bundle bundle{root, Manifest::parse(read_text(file), file.string())};
        for (const auto& [name, expected] : bundle.manifest.files) verify(confined(root, name), name, expected);
        return bundle;
    } catch (const fs::filesystem_error& reason) {
        throw error(GSTK_ERROR_BUNDLE, "cannot read bundle ", folder.string(), ": ", reason.code().message());
    }
}

fs::path Bundle::graph(const std::string& kind, const std::string& precision) const {
    const auto& precisions = manifest.graphs.at(kind);
    const auto found = precisions.find(precision);
    if (found == precisions.end())
        throw error(GSTK_ERROR_BUNDLE, "got precision '", printable(precision), "', but bundle '",
                    printable(manifest.name), "' holds its ", kind, " in ", names_of(precisions),
                    "; choose one of these, or export the other");
    return confined(path, found->second);
}

std::string Bundle::sha256() const {
    // As Python's json.dumps writes them: sorted, a space behind each comma and colon, ASCII.
    std::string text;
    for (const auto& [name, file] : manifest.files)
        text += (text.empty() ? "{" : ", ") + nlohmann::json(name).dump(-1, ' ', true) + ": \"" + file.sha256 + '"';
    return sha256_of(text + "}");
}

std::string sha256_of(const std::string& bytes) {
    Digest digest;
    digest.add(bytes.data(), bytes.size());
    return digest.hex();
}

std::string sha256(const fs::path& file) {
    Digest digest;
    std::ifstream stream(file, std::ios::binary);
    std::vector<char> chunk(std::size_t{1} << 20);
    while (stream) {
        stream.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        digest.add(chunk.data(), static_cast<std::size_t>(stream.gcount()));
    }
    if (!stream.eof()) throw error(GSTK_ERROR_BUNDLE, "cannot read ", file.string(), "; check its permissions");
    return digest.hex();
}

}  // namespace gstk::impl
