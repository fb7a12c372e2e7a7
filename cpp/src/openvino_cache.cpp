// A file's name is the hash of all that it depends on: the graph, OpenVINO, the processor, the settings, and the
// rewrites themselves. It begins with the SHA-256 of what follows, so that a damaged one is compiled anew. What is in
// it is run, so the folder has to be the user's own.
#include "openvino_cache.hpp"

#include <algorithm>
#include <fstream>
#include <openvino/runtime/properties.hpp>
#include <streambuf>

#include "bundle.hpp"
#include "private_files.hpp"

namespace gstk::impl {
namespace {

constexpr std::size_t kDigits = 64, kKeyDigits = 32;

// Bytes in memory as a stream that can be sought.
class Bytes final : public std::streambuf {
  public:
    Bytes(char* begin, char* end) { setg(begin, begin, end); }

  protected:
    pos_type seekoff(off_type offset, std::ios_base::seekdir from, std::ios_base::openmode) override {
        char* base = from == std::ios_base::beg ? eback() : from == std::ios_base::cur ? gptr() : egptr();
        char* target = base + offset;
        if (target < eback() || target > egptr()) return pos_type(off_type(-1));
        setg(eback(), target, egptr());
        return pos_type(target - eback());
    }
    pos_type seekpos(pos_type place, std::ios_base::openmode mode) override {
        return seekoff(off_type(place), std::ios_base::beg, mode);
    }
};

std::string key_of(ov::Core& core, const ov::AnyMap& config, const Json& identity) {
    auto capabilities = core.get_property("CPU", ov::device::capabilities);
    std::sort(capabilities.begin(), capabilities.end());
    Json about{{"identity", identity},
               {"openvino", ov::get_openvino_version().buildNumber},
               {"processor", core.get_property("CPU", ov::device::full_name)},
               {"capabilities", capabilities},
               {"code", GSTK_REWRITES_SHA256}};
    for (const auto& [name, value] : config) about["config"][name] = value.as<std::string>();
    return sha256_of(about.dump()).substr(0, kKeyDigits);
}

// The blob in a file, behind its digest; empty where there is none, or it is damaged.
std::string read_blob(const std::filesystem::path& file) {
    std::error_code failed;
    const auto size = std::filesystem::file_size(file, failed);
    std::ifstream stream(file, std::ios::binary);
    if (failed || size <= kDigits || !stream) return "";
    std::string digest(kDigits, '\0'), blob(size - kDigits, '\0');
    stream.read(digest.data(), static_cast<std::streamsize>(digest.size()));
    stream.read(blob.data(), static_cast<std::streamsize>(blob.size()));
    return stream.good() && sha256_of(blob) == digest ? blob : "";
}

}  // namespace

ov::CompiledModel compile_cached(ov::Core& core, const std::function<std::shared_ptr<ov::Model>()>& make,
                                 const ov::AnyMap& config, const std::filesystem::path& folder, const Json& identity) {
    if (folder.empty()) return core.compile_model(make(), "CPU", config);
    const auto file = folder / (key_of(core, config, identity) + ".openvino");
    for (const auto& place : {folder, file})
        if (const std::string foreign = stranger(place); !foreign.empty())
            throw error(GSTK_ERROR_ENGINE, "got the cache ", folder.string(), ", but ", foreign,
                        ", and what is in it is run; take a folder of your own");
    std::string blob = read_blob(file);
    if (!blob.empty()) try {
            Bytes bytes(blob.data(), blob.data() + blob.size());
            std::istream stream(&bytes);
            return core.import_model(stream, "CPU", config);
        } catch (const ov::Exception&) {  // of an OpenVINO that says it is this one; compiled anew
        }
    auto compiled = core.compile_model(make(), "CPU", config);
    std::ostringstream exported;
    compiled.export_model(exported);
    const std::string content = std::move(exported).str();
    write_private(file, sha256_of(content) + content);
    return compiled;
}

}  // namespace gstk::impl
